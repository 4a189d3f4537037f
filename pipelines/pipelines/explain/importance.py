"""What a model leans on, of any model that can be asked for scores."""

from collections.abc import Mapping

import numpy as np
from bundle.contributions import Matrix
from bundle.shapley import Block, Ints, Score

from pipelines.evaluation.intervals import Bootstrap, Interval
from pipelines.evaluation.metrics import Groups, Labels


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
