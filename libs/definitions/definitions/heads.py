"""One score of several heads: the weighted sum, by weights that are data and change without training."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def head_weights(trained: Mapping[str, float], said: Mapping[str, float]) -> Floats:
    """Weights float32 (H,) in the order of `trained`: what rules say of a head, else what it was trained with."""
    return np.array([said.get(name, weight) for name, weight in trained.items()], np.float32)


def combined(predictions: Floats, weights: Floats | None) -> Floats:
    """Scores float32 (n,) of predictions float32 (n, H); (n,), of a model without heads, are the scores already.

    Head by head, so that a row's bits do not depend on the rows beside it, as they would in a matrix product.
    """
    if weights is None or predictions.ndim != 2 or predictions.shape[1] != len(weights):
        return predictions
    scores: Floats = predictions[:, 0] * weights[0]
    for head in range(1, len(weights)):
        scores += predictions[:, head] * weights[head]
    return scores
