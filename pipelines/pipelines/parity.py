"""Scores through a running Triton against ONNX Runtime, on the rows that a bundle was measured on."""

import numpy as np
import polars as pl
from bundle import Bundle, IntInputs
from definitions.layout import Layout
from stores.offline import Lake

from pipelines.errors import TrainingError
from pipelines.export.parity import Parity, compare
from pipelines.triton_client import triton_scores


def through_triton(target: str, bundle: Bundle, layout: Layout, lake: Lake, *, name: str = "") -> Parity:
    """Score the bundle's test examples by Triton at `target` and in this process, and compare.

    `name`: Triton's of the model; empty = the manifest's.

    Raises:
        TrainingError: the lake has no test rows of this bundle.
        ParityError: too far apart, or a pair changes order.
        UnavailableError: Triton does not answer.
    """
    manifest = bundle.manifest
    training_set = f"{manifest.name}-{manifest.version}"
    rows = lake.scan("examples").filter(pl.col("training_set") == training_set, pl.col("split") == "test").collect()
    if rows.height == 0:
        raise TrainingError(f"the lake has no test rows of {training_set}; train with the lake as the source")
    features = np.array(rows["features"].to_list(), np.float32)
    raw = np.array(rows["int_features"].to_list(), np.int64)
    ints = IntInputs.of(bundle, layout)(*np.split(raw, [len(layout.user_int_names)], axis=1))
    scores = triton_scores(target, manifest, manifest.version, features, ints, name=name)
    return compare("Triton", bundle.model().score(features, ints), scores, rows["user_id"].to_numpy())
