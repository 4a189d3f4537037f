"""Exported scores against the framework's: the largest difference, and the pairs that change order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.errors import ParityError
from pipelines.evaluation.metrics import rank_flips

Score = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], npt.NDArray[np.float32]]
MAX_DIFFERENCE = 1e-5  # docs/adr/0010-one-onnx-graph.md; thresholds left as doubles were off by up to .301


@dataclass(frozen=True)
class Parity:
    """`max_abs` difference of scores and `flips` among `rows`: pairs of one user further than 5e-6 apart that swap."""

    max_abs: float
    flips: int
    rows: int


def measure(
    reference: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], groups: npt.NDArray[np.uint64]
) -> Parity:
    """How far scores (n,) are from the framework's; `groups` (n,) are what ranking happens within."""
    apart = np.abs(reference.astype(np.float64) - scores.astype(np.float64))
    return Parity(float(apart.max(initial=0.0)), rank_flips(reference, scores, groups), len(scores))


def compare(
    what: str,
    reference: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    groups: npt.NDArray[np.uint64],
) -> Parity:
    """Compare scores (n,) with the framework's; `groups` (n,) are what ranking happens within.

    Raises:
        ParityError: too far apart, a flip, or a score that is not finite.
    """
    if not np.isfinite(scores).all():
        raise ParityError(f"{what}: {int((~np.isfinite(scores)).sum())} scores are not finite")
    found = measure(reference, scores, groups)
    if found.max_abs > MAX_DIFFERENCE or found.flips:
        raise ParityError(
            f"{what}: differs by {found.max_abs:.3g} (at most {MAX_DIFFERENCE:g}) with {found.flips} flips on "
            f"{found.rows} rows; nothing is deployed"
        )
    return found


BATCHES = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 100, 257, 1_000, 2_000)
"""Rows scored at once: one by one, around the widths of vector registers and kernels' tiles, and what serving sends."""


def unstable(
    score: Score,
    features: npt.NDArray[np.float32],
    ints: npt.NDArray[np.int64],
    *,
    batches: Sequence[int] = BATCHES,
    tries: int = 32,
) -> dict[int, int]:
    """Batch size -> rows whose scores' bits are not those that they have among all; empty for a stable graph.

    A row must score alike whatever is scored beside it: `millrace redo` scores anew what Triton scored among the rows
    of other requests. Each size is tried from the first row on and from the second, which moves every row's place.

    Args:
        score: of float32 (n, F) and int64 (n, K), float32 (n,).
        features, ints: rows, at most 2,000 of them.
        batches: sizes.
        tries: batches of each size, from each of the two places.
    """
    whole = score(features, ints).view(np.uint32)
    found = dict.fromkeys(batches, 0)
    for size in batches:
        for first in (0, 1):
            for at in range(first, len(whole), size)[:tries]:
                part = slice(at, at + size)
                found[size] += int((score(features[part], ints[part]).view(np.uint32) != whole[part]).sum())
    return {size: rows for size, rows in found.items() if rows}
