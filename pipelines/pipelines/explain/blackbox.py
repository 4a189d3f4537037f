"""Contributions and importances of any model that can only be asked for scores: deep ones, graphs of others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.intervals import Bootstrap, Interval
from pipelines.evaluation.metrics import Groups, Labels
from pipelines.explain.additive import Contributions, Matrix, Vector, logit

Ints = npt.NDArray[np.int64]
Score = Callable[[Matrix, Ints], npt.NDArray[np.floating]]
"""float32 (n, F), int64 (n, K) -> scores (n,)."""

PERMUTATIONS = 16  # each forwards and backwards
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
) -> Contributions:
    """Shapley values of the logit against a reference row, sampled by permutations of the blocks.

    Each permutation turns the reference into the row block by block; what the score gains with a block is its share.
    So every permutation sums exactly to logit(row) - logit(reference), and so does their mean. Permutations come in
    pairs, each with its reverse (Castro et al., Computers & OR 2009; Mitchell et al., JMLR 2022).

    Args:
        score: of probabilities.
        features, ints: the rows, (n, F) and (n, K).
        reference: the row that stands for "nothing known", (F,) and (K,).
        blocks: what is explained; columns of no block stay as in the row.
        permutations: pairs of them.
        seed: of the permutations, which all rows share.
    """
    names, n = tuple(blocks), len(features)
    parts = [blocks[name] for name in names]
    blank_floats, blank_ints = features.copy(), ints.copy()
    for part in parts:
        blank_floats[:, part.floats] = reference[0][part.floats]
        blank_ints[:, part.ints] = reference[1][part.ints]
    base = _raw(score, blank_floats, blank_ints)
    full = _raw(score, features, ints)
    gained = np.zeros((n, len(parts)))
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        order = rng.permutation(len(parts))
        for turn in (order, order[::-1]):
            steps = _path(score, features, ints, (blank_floats, blank_ints), [parts[i] for i in turn])
            path = np.column_stack([base, steps, full])
            gained[:, turn] += np.diff(path, axis=1)
    values = np.full((n, len(parts)), np.nan, np.float32)
    for i, part in enumerate(parts):
        if len(part.floats) == 1 and not len(part.ints):
            values[:, i] = features[:, part.floats[0]]
    return Contributions(names, values, gained / (2 * permutations), base)


def _path(score: Score, features: Matrix, ints: Ints, blank: tuple[Matrix, Ints], parts: Sequence[Block]) -> Vector:
    """Logits (n, blocks - 1) after the first block, the second, ... but the last, in one batch."""
    floats, codes = blank[0].copy(), blank[1].copy()
    stages = []
    for part in parts[:-1]:
        floats[:, part.floats] = features[:, part.floats]
        codes[:, part.ints] = ints[:, part.ints]
        stages.append((floats.copy(), codes.copy()))
    if not stages:
        return np.empty((len(features), 0))
    raw = _raw(score, np.concatenate([f for f, _ in stages]), np.concatenate([c for _, c in stages]))
    return raw.reshape(len(stages), len(features)).T


def _raw(score: Score, features: Matrix, ints: Ints) -> Vector:
    parts = [
        logit(score(features[start : start + _ROWS], ints[start : start + _ROWS]))
        for start in range(0, len(features), _ROWS)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def permutation_importance(
    score: Score,
    features: Matrix,
    ints: Ints,
    labels: Labels,
    users: Groups,
    blocks: Mapping[str, Block],
    *,
    metric: str = "auc",
    seed: int = 0,
) -> dict[str, Interval]:
    """What `metric` loses when a block's values are dealt among the rows at random (Breiman, Machine Learning 2001).

    Positive = the model leans on the block and is right to. Intervals are paired, by user.

    Args:
        score, features, ints: as of `shapley`.
        labels, users: of the rows, (n,).
        blocks: what is dealt anew, each alone.
        metric: one of `intervals.METRICS` where more is better.
        seed: of the dealing and the intervals.
    """
    rng, drawn = np.random.default_rng(seed), Bootstrap(users, seed=seed)
    whole = np.asarray(score(features, ints), np.float64)
    found = {}
    for name, block in blocks.items():
        order = rng.permutation(len(labels))
        floats, codes = features.copy(), ints.copy()
        floats[:, block.floats] = features[np.ix_(order, block.floats)]
        codes[:, block.ints] = ints[np.ix_(order, block.ints)]
        found[name] = drawn.difference(metric, labels, whole, np.asarray(score(floats, codes), np.float64))
    return found
