"""Models that must not be promoted, as real bundles: honest graphs with one thing wrong each.

A planted graph is an honest one with nodes behind its score, so it passes admission and has golden rows of its own.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from bundle import Golden, Manifest, OnnxScorer, SplitTimes, TrainingWindow, write_bundle
from definitions.backfill import backfill
from definitions.layout import Layout
from onnx import NodeProto, helper, numpy_helper

from pipelines.datasets.split import Split
from pipelines.evaluation.metrics import evaluate
from pipelines.training.candidates import Candidates
from pipelines.training.examples import Examples, Log
from pipelines.training.inputs import Inputs
from pipelines.training.ranker import Ranker

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]
GOLDEN_ROWS = 64


@dataclass(frozen=True, eq=False)
class Forge:
    """Makes bundles of graphs that take the columns of `inputs`; `fallback` is in each of them."""

    layout: Layout
    examples: Examples
    split: Split
    inputs: Inputs
    fallback: Path
    bundles: Path
    sign: Callable[[Path], None]

    def bundle(
        self, version: int, graph: Path, model: str, *, examples: Examples | None = None, signed: bool = True
    ) -> Path:
        """Write version `version` of `graph`, a model of the ladder's name `model`, trained on `examples`."""
        rows = examples or self.examples
        ints = self.inputs.ints_of(self.layout, rows.user_ints, rows.item_ints)
        test = self.split.test
        claimed = evaluate(
            rows.label[test], OnnxScorer(graph).score(rows.features[test], ints[test]), rows.user_id[test]
        )
        name = self.layout.usecase.name
        manifest = Manifest(
            name=name,
            version=version,
            usecase=name,
            revision=self.layout.revision,
            layout_hash=self.layout.layout_hash,
            feature_names=self.layout.feature_names,
            int_names=self.inputs.int_names,
            window=TrainingWindow(from_us=int(rows.time_us.min()), to_us=self.split.test_from_us),
            commit="planted",
            seeds=(0,),
            dataset="planted",
            data_hash=rows.digest(),
            model=model,
            split=SplitTimes(valid_from_us=self.split.valid_from_us, test_from_us=self.split.test_from_us),
            trials=1,
            leaks={"future": True, "telling": True},  # a leaky model's maker says so too
            metrics={model: claimed.as_dict()},
            parity={"onnx.max_abs": 0.0, "onnx.flips": 0, "rows": len(rows)},  # the graph is the model
            created_us=0,
        )
        folder = self.bundles / name / str(version)
        with tempfile.TemporaryDirectory(prefix="millrace-planted-") as aside:
            golden = Path(aside) / "golden.npz"
            some = slice(0, GOLDEN_ROWS)
            scores = [OnnxScorer(path).score(rows.features[some], ints[some]) for path in (graph, self.fallback)]
            Golden(rows.features[some], ints[some], *scores).save(golden)
            files = {"model.onnx": graph, "fallback.onnx": self.fallback, "golden.npz": golden}
            for column, values in self.inputs.vocabularies.items():
                path = Path(aside) / f"{column}.npy"
                np.save(path, values)
                files[f"vocab/{column}.npy"] = path
            write_bundle(folder, manifest, files, sign=self.sign if signed else None)
        return folder


def tamper(folder: Path, graph: Path) -> None:
    """Put another graph into a signed bundle and correct the manifest's hash: only the signature can tell."""
    (folder / "model.onnx").write_bytes(graph.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["model.onnx"] = sha256(graph.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def peeking(layout: Layout, log: Log, examples: Examples) -> Examples:
    """The same rows with features as of a microsecond later: each event stands in its own aggregates."""
    order = np.argsort(log.events.event_id, kind="stable")
    place = order[np.searchsorted(log.events.event_id[order], examples.event_id)]
    rows = Candidates.of_events(log.events, place)
    late = backfill(layout, log.events, log.users, log.items, replace(rows, time_us=rows.time_us + 1).queries)
    return replace(examples, features=late.features, user_ints=late.user_ints, item_ints=late.item_ints)


def exported(ranker: Ranker, path: Path) -> Path:
    """The ranker's graph at `path`."""
    ranker.export(path)
    return path


def constant(honest: Path, path: Path, rate: float) -> Path:
    """One score for everything."""
    return _wrapped(
        honest, path, [_node("Mul", "honest", "zero", "gone"), _node("Add", "gone", "rate", "score")],
        {"zero": _scalar(0.0), "rate": _scalar(rate)},
    )  # fmt: skip


def random(honest: Path, path: Path, columns: int, rate: float, seed: int) -> Path:
    """Scores around `rate` that no row has earned, the same for the same row."""
    nodes = [
        *_dice(), _node("Mul", "die", "narrow", "moved"), _node("Mul", "honest", "zero", "gone"),
        _node("Add", "gone", "rate", "middle"), _node("Add", "middle", "moved", "score"),
    ]  # fmt: skip
    held = {**_weights(columns, seed), "narrow": _scalar(0.3), "zero": _scalar(0.0), "rate": _scalar(rate)}
    return _wrapped(honest, path, nodes, held)


def shaken(honest: Path, path: Path, columns: int, width: float, seed: int) -> Path:
    """The honest model with `width` of noise on each logit: as good as a model retrained by chance, and no better."""
    nodes = [*_logit(), *_dice(), _node("Mul", "die", "width", "noise"), _node("Add", "logit", "noise", "shaken")]
    return _wrapped(
        honest, path, [*nodes, _node("Sigmoid", "shaken", "score")],
        {**_weights(columns, seed), "width": _scalar(width), "one": _scalar(1.0)},
    )  # fmt: skip


def miscalibrated(honest: Path, path: Path, shift: float) -> Path:
    """The honest order, every probability too high."""
    nodes = [*_logit(), _node("Add", "logit", "shift", "moved"), _node("Sigmoid", "moved", "score")]
    return _wrapped(honest, path, nodes, {"shift": _scalar(shift), "one": _scalar(1.0)})


def worse_on_cold(honest: Path, path: Path, columns: int, column: int, below: float, width: float) -> Path:
    """Honest where `column` reaches `below`, shaken by `width` of noise where it does not."""
    nodes = [
        *_logit(), *_dice(), _node("Mul", "die", "width", "noise"), _node("Add", "logit", "noise", "shaken"),
        _node("Sigmoid", "shaken", "bad"), _node("Gather", "features", "column", "seen", axis=1),
        _node("Less", "seen", "below", "cold"), _node("Where", "cold", "bad", "honest", "score"),
    ]  # fmt: skip
    held: dict[str, Array] = {
        **_weights(columns, 0), "width": _scalar(width), "one": _scalar(1.0), "below": _scalar(below),
        "column": np.array([column], np.int64),
    }  # fmt: skip
    return _wrapped(honest, path, nodes, held)


def slow(honest: Path, path: Path, columns: int, *, width: int = 1024, layers: int = 24) -> Path:
    """The honest scores, after a lot of arithmetic that changes nothing."""
    rng = np.random.default_rng(0)
    nodes = [_node("MatMul", "features", "first", "h0")]
    nodes += [_node("MatMul", f"h{i}", "again", f"r{i}") for i in range(layers)]
    links = [node for i in range(layers) for node in (nodes[i + 1], _node("Tanh", f"r{i}", f"h{i + 1}"))]
    tail = [
        _node("MatMul", f"h{layers}", "last", "h"), _node("Mul", "h", "zero", "gone"),
        _node("Add", "honest", "gone", "score"),
    ]  # fmt: skip
    held = {
        "first": rng.normal(0, 1e-3, (columns, width)).astype(np.float32),
        "again": rng.normal(0, 1e-3, (width, width)).astype(np.float32),
        "last": np.ones((width, 1), np.float32),
        "zero": _scalar(0.0),
    }
    return _wrapped(honest, path, [nodes[0], *links, *tail], held)


def _wrapped(honest: Path, path: Path, nodes: Sequence[NodeProto], held: Mapping[str, Array]) -> Path:
    """`nodes` from `honest` (the former score) and `features` to `score`, behind the graph in `honest`."""
    model = onnx.load(honest)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == "score":
                    names[place] = "honest"
    for node in nodes:  # names of our own, whatever the honest graph's are
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name not in ("features", "honest", "score"):
                    names[place] = f"planted/{name}"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, f"planted/{name}") for name, v in held.items())
    onnx.save(model, path)
    return path


def _node(operator: str, *names: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, list(names[:-1]), [names[-1]], **attributes)


def _logit() -> list[NodeProto]:
    """`logit` of `honest`."""
    return [
        _node("Sub", "one", "honest", "other"), _node("Div", "honest", "other", "odds"), _node("Log", "odds", "logit"),
    ]  # fmt: skip


def _dice() -> list[NodeProto]:
    """`die` float32 [n, 1] in [-0.5, 0.5): the fraction of a large weighted sum of the row."""
    return [
        _node("MatMul", "features", "dice", "sum"), _node("Floor", "sum", "whole"),
        _node("Sub", "sum", "whole", "part"), _node("Sub", "part", "half", "die"),
    ]  # fmt: skip


def _weights(columns: int, seed: int) -> dict[str, Array]:
    weights = np.random.default_rng(seed).normal(0, 40.0, (columns, 1)).astype(np.float32)
    return {"dice": weights, "half": _scalar(0.5)}


def _scalar(value: float) -> npt.NDArray[np.float32]:
    return np.array([value], np.float32)
