"""Integrated gradients: what each column of a row adds to a network's logit, against a baseline row."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.deep.inputs import Batch
from pipelines.deep.rankers import DeepRanker

STEPS = 64


def gradients(
    ranker: DeepRanker,
    rows: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
    baseline: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
    *,
    head: int = 0,
    steps: int = STEPS,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Attribution of the logit by the straight path from the baseline's numbers and embeddings to the row's.

    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, by the midpoint rule. Together they add up
    to the row's logit minus the baseline's (completeness), but for the sum's error.

    Args:
        ranker: a trained network.
        rows: features float32 (n, F) and ints int64 (n, K).
        baseline: one row of each, (F,) and (K,), such as means and code 0: what "nothing known" is.
        head: whose logit.
        steps: points of the path.

    Returns:
        float64 (n, F) by feature column, (n, K) by integer column (a history's value counts at its id), and (n,) the
        difference of the logits that they explain.
    """
    net = ranker.net
    columns = net.inputs.columns
    with torch.no_grad():
        here = net.inputs(*(torch.from_numpy(np.ascontiguousarray(part)) for part in rows))
        base = net.inputs(*(torch.from_numpy(np.ascontiguousarray(part))[None] for part in baseline))
        vectors, empty = net.table(here.rows), net.table(base.rows)
        # Which codes are known is the row's own all along the path: a mask has no gradient.
        nothing = Batch(base.numbers.expand_as(here.numbers), here.rows, here.known, base.values.expand_as(here.values))
        ends = [net.body(here, vectors)[:, head], net.body(nothing, empty.expand_as(vectors))[:, head]]
    start = (base.numbers, empty, base.values)
    change = (here.numbers - base.numbers, vectors - empty, here.values - base.values)
    summed = [torch.zeros_like(part) for part in change]
    for step in range(steps):
        share = (step + 0.5) / steps
        points = [(first + share * way).requires_grad_() for first, way in zip(start, change, strict=True)]
        batch = Batch(points[0], here.rows, here.known, points[2])
        logit = net.body(batch, points[1])[:, head].sum()
        for total, each in zip(summed, torch.autograd.grad(logit, points, allow_unused=True), strict=True):
            if each is not None:
                total += each / steps
    numbers, codes, values = (gradient * way for gradient, way in zip(summed, change, strict=True))
    by_code = codes.sum(2)
    if columns.history is not None:
        by_code[:, -values.shape[1] :] += values
    n = len(rows[0])
    features = _spread(numbers, columns.numbers, n, columns.features)
    places = tuple(place for field in columns.all_fields for place in field.places)
    ints = _spread(by_code, places, n, columns.ints)
    return features, ints, (ends[0] - ends[1]).double().numpy()


def _spread(parts: Tensor, places: tuple[int, ...], n: int, width: int) -> npt.NDArray[np.float64]:
    out = np.zeros((n, width))
    out[:, list(places)] = parts.detach().double().numpy()
    return out
