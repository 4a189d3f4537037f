"""Contributions of any graph that can be asked for scores: what serving explains with, whatever the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.contributions import Contributions, Matrix, Vector, logit
from bundle.folder import Bundle

Ints = npt.NDArray[np.int64]
Score = Callable[[Matrix, Ints], npt.NDArray[np.floating]]
"""float32 (n, F), int64 (n, K) -> scores (n,)."""
Link = Callable[[npt.NDArray[np.floating]], Vector]
"""Scores (n,) -> raw scores float64 (n,), on which contributions add up."""

PERMUTATIONS = 16  # each forwards and backwards
SAMPLED = "sampled Shapley"  # the method's name
_ROWS = 4096  # scored at once


@dataclass(frozen=True, eq=False)
class Block:
    """Input columns that change together: places among the floats and among the ints."""

    floats: npt.NDArray[np.intp]
    ints: npt.NDArray[np.intp]


def blocks_of(
    feature_names: Sequence[str], int_names: Sequence[str], *, history: Sequence[str] = ()
) -> dict[str, Block]:
    """One block a float column, and one for the slots `name_0`, `name_1`, ... of a category.

    Args:
        feature_names, int_names: of the model's inputs.
        history: names of int columns that make up one block `history`: a user's newest items and values say nothing
            apart.
    """
    none = np.empty(0, np.intp)
    found = {name: Block(np.array([place], np.intp), none) for place, name in enumerate(feature_names)}
    slots: dict[str, list[int]] = {}
    for place, name in enumerate(int_names):
        head, _, tail = name.rpartition("_")
        slots.setdefault("history" if name in history else head if tail.isdecimal() and head else name, []).append(
            place
        )
    return found | {name: Block(none, np.array(places, np.intp)) for name, places in slots.items()}


def shapley(
    score: Score,
    features: Matrix,
    ints: Ints,
    reference: tuple[Matrix, Ints],
    blocks: Mapping[str, Block],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    link: Link = logit,
    rows: int = _ROWS,
) -> Contributions:
    """Shapley values of the raw score against a reference row, sampled by permutations of the blocks.

    Each permutation turns the reference into the row block by block; what the score gains with a block is its share.
    So every permutation sums exactly to raw(row) - raw(reference), and so does their mean. Permutations come in pairs,
    each with its reverse (Castro et al., Computers & OR 2009; Mitchell et al., JMLR 2022).

    Args:
        score: of probabilities, unless `link` says otherwise.
        features, ints: the rows, (n, F) and (n, K).
        reference: the row that stands for "nothing known", (F,) and (K,).
        blocks: what is explained; columns of no block stay as in the row.
        permutations: pairs of them.
        seed: of the permutations, which all rows share.
        link: raw scores of scores.
        rows: scored at once, at most.
    """

    def raw(floats: Matrix, codes: Ints) -> Vector:
        parts = [link(score(floats[at : at + rows], codes[at : at + rows])) for at in range(0, len(floats), rows)]
        return np.concatenate(parts) if parts else np.empty(0)

    names, n = tuple(blocks), len(features)
    parts = [blocks[name] for name in names]
    blank_floats, blank_ints = features.copy(), ints.copy()
    for part in parts:
        blank_floats[:, part.floats] = reference[0][part.floats]
        blank_ints[:, part.ints] = reference[1][part.ints]
    base = raw(blank_floats, blank_ints)
    full = raw(features, ints)
    gained = np.zeros((n, len(parts)))
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        order = rng.permutation(len(parts))
        for turn in (order, order[::-1]):
            steps = _path(raw, features, ints, (blank_floats, blank_ints), [parts[i] for i in turn])
            path = np.column_stack([base, steps, full])
            gained[:, turn] += np.diff(path, axis=1)
    values = np.full((n, len(parts)), np.nan, np.float32)
    for i, part in enumerate(parts):
        if len(part.floats) == 1 and not len(part.ints):
            values[:, i] = features[:, part.floats[0]]
    return Contributions(names, values, gained / (2 * permutations), base)


def _path(
    raw: Callable[[Matrix, Ints], Vector],
    features: Matrix,
    ints: Ints,
    blank: tuple[Matrix, Ints],
    parts: Sequence[Block],
) -> Vector:
    """Raw scores (n, blocks - 1) after the first block, the second, ... but the last, in one batch."""
    floats, codes = blank[0].copy(), blank[1].copy()
    stages = []
    for part in parts[:-1]:
        floats[:, part.floats] = features[:, part.floats]
        codes[:, part.ints] = ints[:, part.ints]
        stages.append((floats.copy(), codes.copy()))
    if not stages:
        return np.empty((len(features), 0))
    found = raw(np.concatenate([f for f, _ in stages]), np.concatenate([c for _, c in stages]))
    return found.reshape(len(stages), len(features)).T


class BlackBox:
    """Explains a bundle's graph by its scores alone, against the mean golden row with all codes unknown."""

    def __init__(self, bundle: Bundle, score: Score) -> None:
        """`score`: what is explained, of the graph's inputs."""
        manifest, golden = bundle.manifest, bundle.golden
        self._score = score
        history = [name for name in manifest.int_names if "_ids_" in name or "_values_" in name]
        self._blocks = blocks_of(manifest.feature_names, manifest.int_names, history=history)
        self._reference = (golden.features.mean(axis=0), np.zeros(len(manifest.int_names), np.int64))
        own = score(golden.features, golden.ints)
        is_probability = bool(((own >= 0) & (own <= 1)).all())
        self._link: Link = logit if is_probability else _plain

    def rows_scored(self, items: int, permutations: int) -> int:
        """How many rows the graph scores to explain so many items."""
        return items * (2 + 2 * permutations * max(0, len(self._blocks) - 1))

    def contributions(
        self, features: Matrix, ints: Ints, *, permutations: int = PERMUTATIONS, rows: int = _ROWS
    ) -> Contributions:
        """Of rows float32 (n, F) and int64 (n, K); the raw score is the logit of a probability, else the score.

        `rows`: scored at once, at most.
        """
        return shapley(
            self._score, features, ints, self._reference, self._blocks,
            permutations=permutations, link=self._link, rows=rows,
        )  # fmt: skip


def _plain(scores: npt.NDArray[np.floating]) -> Vector:
    return np.asarray(scores, np.float64)
