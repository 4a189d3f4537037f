"""A small use case and a small world, for all tests of this room."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import pytest
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from definitions.layout import Layout
from definitions.usecase import UseCase, load_usecase
from onnx import TensorProto, helper, numpy_helper

YAML = """
usecase: films
columns:
  user_id: who
  item_id: what
  value: stars
  event_time_us: {from: when, unit: s}
  action: action
item_columns: {item_id: id, year: year, genre: {from: genres, split: "|"}}
user_columns: {user_id: id}
actions:
  - {name: view, label: 0}
  - {name: rate, label: {if_value_at_least: 4, weight: 1}}
attributes:
  user: {gender: category}
  item: {year: number, genre: {kind: categories, width: 3}}
category: item.genre
features:
  - {name: u_rated, of: user, kind: count, action: rate, windows: [1h, all]}
  - name: u_liked
    of: user
    kind: rate
    num: &liked {rate: {if_value_at_least: 4}}
    den: rate
    windows: [all]
    prior: &p {mean: 0.5, weight: 5}
  - {name: u_gender, of: user, kind: attribute, from: gender}
  - {name: u_genre, of: user, kind: affinity, action: rate, k: 10, half_life: 365d, positive: *liked}
  - {name: x_genre, of: cross, kind: affinity_rate, table: u_genre, prior: *p}
  - {name: i_rated, of: item, kind: count, action: rate, windows: [all]}
  - {name: i_liked, of: item, kind: rate, num: *liked, den: rate, windows: [all], prior: *p}
  - {name: i_year, of: item, kind: attribute, from: year, default: 1990}
  - {name: i_genre, of: item, kind: attribute, from: genre}
label: {examples: [rate], positive: {rate: {if_value_at_least: 4}}}
"""


@pytest.fixture
def films(tmp_path: Path) -> UseCase:
    """Columns with names of their own, two actions, one of which is no example."""
    path = tmp_path / "films.yaml"
    path.write_text(YAML)
    return load_usecase(path)


class MakeBundle(Protocol):
    """Writes a bundle and loads it."""

    def __call__(
        self, layout: Layout, weights: Mapping[str, float], version: int = 1, also: Sequence[Path] = ()
    ) -> Bundle:
        """One whose score is the logistic function of the weighted sum of the named columns; `also` files are in it."""
        ...


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Small honest bundles, whose scores can be told in advance."""

    def make(layout: Layout, weights: Mapping[str, float], version: int = 1, also: Sequence[Path] = ()) -> Bundle:
        names, parts = layout.feature_names, tmp_path / f"parts-{version}"
        parts.mkdir()
        row = np.array([[weights.get(name, 0.0)] for name in names], np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["features", "w"], ["logit"]),
                helper.make_node("Sigmoid", ["logit"], ["score"]),
            ],
            "linear",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(names)])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(row, "w")],
        )
        model = parts / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
        features, none = np.eye(len(names), dtype=np.float32), np.empty((len(names), 0), np.int64)
        scores = OnnxScorer(model).score(features)
        Golden(features, none, scores, scores).save(parts / "golden.npz")
        manifest = Manifest(
            name=layout.usecase.name, version=version, usecase=layout.usecase.name, revision=1,
            layout_hash=layout.layout_hash, feature_names=names, window=TrainingWindow(from_us=0, to_us=1),
            commit="unknown", seeds=(0,), dataset="none", data_hash="00", metrics={}, parity={}, created_us=1,
        )  # fmt: skip
        folder = tmp_path / "bundles" / layout.usecase.name / str(version)
        files = {"model.onnx": model, "fallback.onnx": model, "golden.npz": parts / "golden.npz"}
        write_bundle(folder, manifest, files | {path.name: path for path in also})
        return load_bundle(folder)

    return make
