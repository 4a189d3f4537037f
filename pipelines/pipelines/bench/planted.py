"""Models that are good when they are deployed and bad later, for benches and tests of what the gateway does then."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from definitions.kept_usecase import FILE, to_json
from definitions.layout import Layout
from onnx import TensorProto, helper, numpy_helper

EDGE: Final = 5_000.0  # no year, price or age of a catalogue comes near

_FAULT: Final = "fault"
# Behind the honest wrapper, in the same file: what it is told by a file beside the graph, it does from the next batch.
_PLANTED: Final = '''

import time as _time

_Honest = TritonPythonModel


class TritonPythonModel(_Honest):
    """Does as the file `fault` says: `slow <seconds>`, `nan`, `shape`; honest without it."""

    def initialize(self, args):
        """Remember where the file would be."""
        super().initialize(args)
        self._fault = Path(args["model_repository"]) / args["model_version"] / "fault"

    def execute(self, requests):
        """Score, then spoil."""
        fault = self._fault.read_text().split() if self._fault.exists() else []
        if fault[:1] == ["slow"]:
            _time.sleep(float(fault[1]))
        answers = super().execute(requests)
        if fault[:1] not in (["nan"], ["shape"]):
            return answers
        spoiled = []
        for answer in answers:
            scores = answer.output_tensors()[0].as_numpy()
            bad = np.full_like(scores, np.nan) if fault[0] == "nan" else np.hstack([scores, scores])
            spoiled.append(pb_utils.InferenceResponse([pb_utils.Tensor("score", bad)]))
        return spoiled
'''


def planted_templates(templates: Path, folder: Path) -> Path:
    """A copy of `infra/triton` whose wrapper obeys `spoil`: for the repository that a bench deploys into."""
    shutil.copytree(templates, folder, dirs_exist_ok=True)
    (folder / "model.py").write_text((templates / "model.py").read_text() + _PLANTED)
    return folder


def spoil(version: Path, fault: str) -> Callable[[], None]:
    """Have a version in Triton's repository, deployed with `planted_templates`, do as `fault` says; how to end it."""
    aside, path = version / f"{_FAULT}.tmp", version / _FAULT
    aside.write_text(fault)
    aside.rename(path)
    return lambda: path.unlink(missing_ok=True)


def with_fragile_fallback(bundle: Bundle, folder: Path, column: str) -> None:
    """Write `bundle` as the version that `folder` names, with a fallback that a value above `EDGE` turns into NaN.

    Such a graph passes every check until somebody feeds a column that nobody looks at with nonsense: all that it scores
    below the edge is as before.
    """
    graph = onnx.load(bundle.fallback_path)
    output = graph.graph.output[0].name
    for node in graph.graph.node:
        for place, name in enumerate(node.output):
            if name == output:
                node.output[place] = "honest"

    def constant(name: str, value: npt.NDArray[Any]) -> None:
        graph.graph.initializer.append(numpy_helper.from_array(value, name))

    constant("planted_place", np.array([bundle.manifest.feature_names.index(column)], np.int64))
    constant("planted_edge", np.array([EDGE], np.float32))
    constant("planted_zero", np.array([0.0], np.float32))
    graph.graph.node.extend(
        [
            helper.make_node("Gather", ["features", "planted_place"], ["planted_column"], axis=1),
            helper.make_node("Sub", ["planted_edge", "planted_column"], ["planted_under"]),
            helper.make_node("Sqrt", ["planted_under"], ["planted_root"]),  # NaN above the edge
            helper.make_node("Mul", ["planted_root", "planted_zero"], ["planted_nothing"]),
            helper.make_node("Add", ["honest", "planted_nothing"], [output]),
        ]
    )
    with tempfile.TemporaryDirectory(prefix="millrace-planted-") as made:
        fragile = Path(made) / "fallback.onnx"
        onnx.save(graph, fragile)
        files = {name: bundle.folder / name for name in bundle.manifest.files} | {fragile.name: fragile}
        manifest = bundle.manifest.model_copy(update={"version": int(folder.name), "files": {}})
        write_bundle(folder, manifest, files)


def small_bundle(folder: Path, layout: Layout) -> Bundle:
    """Write a small honest bundle as `folder`, which names model and version: two linear graphs over all columns."""
    draw = np.random.default_rng(0)
    weights = [draw.normal(size=len(layout.feature_names)) * 0.01 for _ in range(2)]
    return linear_bundle(folder, layout.feature_names, *weights, layout=layout)


def linear_bundle(
    folder: Path,
    feature_names: Sequence[str],
    weights: npt.NDArray[np.float64],
    fallback: npt.NDArray[np.float64] | None = None,
    *,
    layout: Layout | None = None,
) -> Bundle:
    """Write a bundle as `folder`, which names model and version, whose score is sigmoid(features @ weights).

    Args:
        folder: `<bundles>/<name>/<version>`, not there yet.
        feature_names: n of them, in order.
        weights: float (n,), of the model.
        fallback: the same of the fallback; by default the model's.
        layout: the bundle is of it, and keeps its use case as training does; without, of a use case of the model's
            name, whose layout nobody asks about.
    """
    draw, none = np.random.default_rng(0), np.empty((8, 0), np.int64)
    features = draw.normal(size=(8, len(feature_names))).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="millrace-planted-") as made:
        aside = Path(made)
        model = _linear(aside / "model.onnx", weights)
        other = _linear(aside / "fallback.onnx", weights if fallback is None else fallback)
        scores, other_scores = (OnnxScorer(path).score(features) for path in (model, other))
        Golden(features, none, scores, other_scores).save(aside / "golden.npz")
        manifest = Manifest(
            name=folder.parent.name,
            version=int(folder.name),
            usecase=folder.parent.name if layout is None else layout.usecase.name,
            revision=1 if layout is None else layout.revision,
            layout_hash=1 if layout is None else layout.layout_hash,
            feature_names=tuple(feature_names),
            window=TrainingWindow(from_us=0, to_us=1),
            commit="unknown",
            seeds=(0,),
            dataset="none",
            data_hash="00",
            metrics={},
            parity={},
            created_us=1,
        )
        names = ["model.onnx", "fallback.onnx", "golden.npz"]
        if layout is not None:
            (aside / FILE).write_bytes(to_json(layout.usecase))
            names.append(FILE)
        write_bundle(folder, manifest, {name: aside / name for name in names})
    return load_bundle(folder)


def _linear(path: Path, weights: npt.NDArray[np.float64]) -> Path:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "w"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["score"]),
        ],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights.astype(np.float32)[:, None], "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
