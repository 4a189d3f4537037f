"""Contributions of a fitted ranker, by the exact method of its kind; of any other by its scores alone."""

from typing import Any, cast

import numpy as np
from bundle.contributions import Contributions, Matrix, logit
from bundle.shapley import Block, Ints, blocks_of, shapley

from pipelines.explain import tabular
from pipelines.training.inputs import Inputs
from pipelines.training.linear import LinearRanker
from pipelines.training.linear_sparse import SparseRanker
from pipelines.training.ranker import Ranker
from pipelines.training.trees import TreeRanker
from pipelines.training.xgb import XgbRanker

Row = tuple[Matrix, Ints]


def contributions(ranker: Ranker, features: Matrix, ints: Ints, *, inputs: Inputs, reference: Row) -> Contributions:
    """What each column adds to the raw score of rows float32 (n, F) and int64 (n, K).

    Linear models and trees: exact, by column of their encoder, the reference is not needed. Deep ones: integrated
    gradients, whose sum errs by the rule's quadrature (under .01 of a logit here). Others: sampled Shapley values.

    Args:
        ranker: fitted on `inputs`.
        features, ints: the rows.
        inputs: names of their columns.
        reference: a row that stands for "nothing known", float32 (F,) and int64 (K,); see `reference_row`.
    """
    if isinstance(ranker, LinearRanker):
        encoder = ranker.encoder
        return tabular.of_linear(ranker.model, encoder.names, encoder.expand(features, ints))
    if isinstance(ranker, TreeRanker):
        model, encoder = ranker.model, ranker.encoder
        found = tabular.of_trees(model.booster, model.trees, encoder.names, encoder.expand(features, ints))
        return tabular.calibrated(found, model.slope, model.shift)
    if isinstance(ranker, XgbRanker):
        encoder = ranker.encoder
        found = tabular.of_xgboost(ranker.model.booster, encoder.names, encoder.expand(features, ints))
        return tabular.calibrated(found, ranker.model.slope, ranker.model.shift)
    if isinstance(ranker, SparseRanker):
        return _of_sparse(ranker, ints)
    if type(ranker).__module__.startswith("pipelines.deep."):  # torch is not imported to find out
        return _of_network(ranker, features, ints, inputs, reference)
    return shapley(ranker.score, features, ints, reference, input_blocks(inputs))


def reference_row(features: Matrix, ints: Ints) -> Row:
    """The mean of the floats of some fit rows, and code 0 (unknown) everywhere."""
    return features.mean(axis=0, dtype=np.float64).astype(np.float32), np.zeros(ints.shape[1], np.int64)


def input_blocks(inputs: Inputs) -> dict[str, Block]:
    """What `inputs` reads, as columns that change together."""
    history = inputs.history
    names = () if history is None else tuple(inputs.int_names[i] for i in (*history.ids, *history.values))
    found = blocks_of(inputs.feature_names, inputs.int_names, history=names)
    read = set(inputs.float_names)
    return {name: block for name, block in found.items() if len(block.ints) or name in read}


def _of_sparse(ranker: SparseRanker, ints: Ints) -> Contributions:
    """The weight of each code; the value of a column is its code."""
    places, there = ranker.at(ints)
    found = np.where(there, ranker.weights[places].astype(np.float64), 0.0)
    names = tuple(f"{ranker.inputs.int_names[place]}=" for place in ranker.places.tolist())
    return Contributions(names, np.full(found.shape, np.nan, np.float32), found, np.full(len(ints), ranker.bias))


def _of_network(ranker: Ranker, features: Matrix, ints: Ints, inputs: Inputs, reference: Row) -> Contributions:
    from pipelines.deep.explain import gradients

    heads = cast(Any, ranker).heads
    if len(heads.heads) != 1:
        return shapley(ranker.score, features, ints, reference, input_blocks(inputs))
    slope = float(heads.slope[0])
    by_float, by_int, change = gradients(cast(Any, ranker), (features, ints), reference)
    blocks = input_blocks(inputs)
    found = np.stack(
        [by_float[:, block.floats].sum(axis=1) + by_int[:, block.ints].sum(axis=1) for block in blocks.values()], axis=1
    )
    values = np.full(found.shape, np.nan, np.float32)
    for i, block in enumerate(blocks.values()):
        if len(block.floats):
            values[:, i] = features[:, block.floats[0]]
    base = logit(ranker.score(features, ints)) - slope * change
    return Contributions(tuple(blocks), values, slope * found, base)
