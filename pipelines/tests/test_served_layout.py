"""Impressions are compared under the layout that they were served by, not under what the file says by now."""

from pathlib import Path

import numpy as np
from bundle import Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from definitions.kept_usecase import FILE, to_json
from definitions.layout import layout_of
from definitions.usecase import UseCase
from millrace.decisions.v1 import decisions_pb2 as pb
from onnx import TensorProto, helper, numpy_helper
from pipelines.consistency.served import archived_state, served_layout
from stores.offline import Lake
from stores.offline.rows import decisions_table


def bundle_of(usecase: UseCase, folder: Path, tmp_path: Path) -> str:
    """A bundle that was trained under `usecase`, revision 3; its digest."""
    layout, width = layout_of(usecase), len(layout_of(usecase).feature_names)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["score"])],
        "sum",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.full((width, 1), 0.5, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    features = np.eye(3, width, dtype=np.float32)
    scores = OnnxScorer(tmp_path / "model.onnx").score(features)
    Golden(features, np.empty((3, 0), np.int64), scores, scores).save(tmp_path / "golden.npz")
    (tmp_path / FILE).write_bytes(to_json(usecase))
    manifest = Manifest(
        name=usecase.name, version=1, usecase=usecase.name, revision=3, layout_hash=layout.layout_hash,
        feature_names=layout.feature_names, window=TrainingWindow(from_us=0, to_us=1), commit="unknown", seeds=(0,),
        dataset="none", data_hash="00", metrics={}, parity={}, created_us=1,
    )  # fmt: skip
    files = {name: tmp_path / name for name in ("model.onnx", "golden.npz", FILE)}
    write_bundle(folder, manifest, {**files, "fallback.onnx": tmp_path / "model.onnx"})
    return load_bundle(folder).digest


def test_the_pinned_bundle_says_the_layout(films: UseCase, tmp_path: Path) -> None:
    """Its own columns, though the file has lost one since; with no stack up the archive says what was pinned last."""
    digest = bundle_of(films, tmp_path / "bundles" / "films" / "1", tmp_path)
    edited = films.model_copy(update={"features": films.features[:1]})
    lake = Lake(tmp_path / "lake", "films")
    assert (
        layout_of(edited).layout_hash == served_layout(edited, tmp_path / "bundles", kafka=None, lake=lake).layout_hash
    )

    state = pb.ServingState(pin=pb.ModelPin(name="films", version=1, digest=digest))
    decisions = [pb.Decision(usecase="films"), pb.Decision(usecase="films", state=state), pb.Decision(usecase="other")]
    lake.append("decisions", decisions_table("log", 0, [(0, 5), (1, 6), (2, 7)], decisions), app_id="d", version=3)

    assert state == archived_state(lake, "films")
    found = served_layout(edited, tmp_path / "bundles", kafka=None, lake=lake)
    assert (3, layout_of(films).feature_names) == (found.revision, found.feature_names)
