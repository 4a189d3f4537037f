"""Exported scores against the framework's: the largest difference, and the pairs that change order."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.errors import ParityError
from pipelines.evaluation.metrics import rank_flips

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
