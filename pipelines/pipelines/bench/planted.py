"""Models that are good when they are deployed and bad later, for benches and tests of what the gateway does then."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from bundle import Bundle, Golden, OnnxScorer, write_bundle
from onnx import helper, numpy_helper

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


def with_blind_fallback(bundle: Bundle, folder: Path) -> str:
    """Write `bundle` as the version `folder` names, with a fallback that scores golden rows well and all others NaN.

    It stands for a graph that nobody's check has caught: it takes the root of a number that only real rows make
    negative. Returns the digest.
    """
    graph = onnx.load(bundle.fallback_path)
    output = graph.graph.output[0].name
    for node in graph.graph.node:
        for place, name in enumerate(node.output):
            if name == output:
                node.output[place] = "honest"

    def constant(name: str, value: npt.NDArray[Any]) -> None:
        graph.graph.initializer.append(numpy_helper.from_array(value, name))

    constant("planted_place", np.array([0], np.int64))
    constant("planted_edge", np.array([-0.5], np.float32))
    constant("planted_zero", np.array([0.0], np.float32))
    graph.graph.node.extend(
        [
            helper.make_node("Gather", ["features", "planted_place"], ["planted_column"], axis=1),
            helper.make_node("Sub", ["planted_edge", "planted_column"], ["planted_under"]),
            helper.make_node("Sqrt", ["planted_under"], ["planted_root"]),
            helper.make_node("Mul", ["planted_root", "planted_zero"], ["planted_nothing"]),
            helper.make_node("Add", ["honest", "planted_nothing"], [output]),
        ]
    )
    golden = bundle.golden
    features = golden.features.copy()
    features[:, 0] = -1.0  # a count, which no real row has below 0
    with tempfile.TemporaryDirectory(prefix="millrace-planted-") as made:
        aside = Path(made)
        onnx.save(graph, aside / "fallback.onnx")
        scores = OnnxScorer(bundle.model_path).score(features, golden.ints)
        blind = OnnxScorer(aside / "fallback.onnx").score(features, golden.ints)
        Golden(features, golden.ints, scores, blind).save(aside / "golden.npz")
        files = {name: bundle.folder / name for name in bundle.manifest.files}
        files |= {name: aside / name for name in ("fallback.onnx", "golden.npz")}
        manifest = bundle.manifest.model_copy(update={"version": int(folder.name), "files": {}})
        return write_bundle(folder, manifest, files)
