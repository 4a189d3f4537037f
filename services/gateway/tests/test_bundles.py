"""From a pin to a model: real bundles on disk, honest and not."""

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundle import Golden, Manifest, OnnxScorer, TrainingWindow, Trust, write_bundle
from cryptography.hazmat.primitives.asymmetric import ec
from definitions.layout import Layout
from gateway.bundles import BundleLoader, InProcess, InTriton
from gateway.errors import BundleRefused
from gateway.local_model import Worker
from gateway.metrics import Metrics
from gateway.triton import TritonClient, TritonModel
from millrace.decisions.v1 import decisions_pb2 as pb
from onnx import TensorProto, helper, numpy_helper
from prometheus_client import CollectorRegistry

Write = Callable[..., pb.ModelPin]


def linear(path: Path, weights: list[float]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["score"])],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(np.array(weights, np.float32)[:, None], "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def write(tmp_path: Path, layout: Layout) -> Write:
    """Writes `<tmp>/bundles/trees/<version>`: the model sums all columns, the fallback takes the first."""

    def written(version: int = 1, **changed: Any) -> pb.ModelPin:
        columns = len(layout.feature_names)
        model = linear(tmp_path / "m.onnx", [1.0] * columns)
        fallback = linear(tmp_path / "f.onnx", [1.0] + [0.0] * (columns - 1))
        features = np.ones((4, columns), np.float32)
        golden = tmp_path / "golden.npz"
        none = np.empty((4, 0), np.int64)
        Golden(features, none, OnnxScorer(model).score(features), OnnxScorer(fallback).score(features)).save(golden)
        fields = {
            "name": "trees",
            "version": version,
            "usecase": "tiny",
            "revision": 1,
            "layout_hash": layout.layout_hash,
            "feature_names": layout.feature_names,
            "window": TrainingWindow(from_us=0, to_us=1),
            "commit": "unknown",
            "seeds": (0,),
            "dataset": "none",
            "data_hash": "00",
            "metrics": {},
            "parity": {},
            "created_us": 1,
        }
        files = {"model.onnx": model, "fallback.onnx": fallback, "golden.npz": golden}
        folder = tmp_path / "bundles" / "trees" / str(version)
        digest = write_bundle(folder, Manifest(**{**fields, **changed}), files)
        return pb.ModelPin(name="trees", version=version, digest=digest)

    return written


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def load(tmp_path: Path, layout: Layout, worker: Worker) -> BundleLoader:
    return BundleLoader(tmp_path / "bundles", layout.usecase, InProcess(worker), worker)


def test_where_keys_are_required_an_unsigned_bundle_is_refused(
    write: Write, tmp_path: Path, layout: Layout, worker: Worker
) -> None:
    """Production serves only what somebody signed; keys are read at each pin."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pin = write()

    def trust() -> Trust:
        return Trust((key,), required=True)

    with pytest.raises(BundleRefused, match="is not signed"):
        BundleLoader(tmp_path / "bundles", layout.usecase, InProcess(worker), worker, trust)(pin)


def test_what_the_bundle_says_of_its_rungs_is_a_metric(write: Write, load: BundleLoader) -> None:
    """Asked at each scrape, so that it is of what serves then; a rung that nobody measured is not a number."""
    registry = CollectorRegistry()
    serving = [load(write(rungs={"MODEL": 0.82, "POPULAR": None}))]
    Metrics(registry).quality("tiny", lambda rung: serving[0].rungs.get(rung.value))

    def shown(rung: str) -> float | None:
        return registry.get_sample_value("gateway_rung_ndcg_at_10", {"usecase": "tiny", "rung": rung})

    assert [0.82, True, True] == [
        shown("MODEL"),
        *(math.isnan(shown(rung) or 0) for rung in ("POPULAR", "LOCAL_MODEL")),
    ]
    serving[0] = load(write(2, rungs={"MODEL": 0.9}))
    assert 0.9 == shown("MODEL")


def test_a_good_bundle_gives_both_rungs(write: Write, load: BundleLoader, layout: Layout) -> None:
    """The model in process on MODEL, its fallback on LOCAL_MODEL, integer columns as its manifest says."""
    pin = write()
    active = load(pin)
    features = np.full((2, len(layout.feature_names)), 2.0, np.float32)
    scores = asyncio.run(active.model.score(features, None, 1.0))
    local = asyncio.run(active.local.score(features, None, 1.0))
    assert ([2.0 * len(layout.feature_names)] * 2, [2.0, 2.0]) == (scores.tolist(), local.tolist())
    assert ("trees", 1, pin.digest) == (active.name, active.version, active.digest)
    assert active.ints(np.zeros(4, np.int64), np.zeros((2, 1), np.int64)) is None


async def test_with_triton_the_model_is_not_loaded_here(
    write: Write, tmp_path: Path, layout: Layout, worker: Worker
) -> None:
    """Only its fallback is."""
    client = TritonClient("127.0.0.1:1")
    active = BundleLoader(tmp_path / "bundles", layout.usecase, InTriton(client), worker)(write())
    assert isinstance(active.model, TritonModel)
    await client.close(1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout_hash": 5}, "layout_hash: the bundle says 5"),
        ({"usecase": "other"}, "usecase: the bundle says 'other', expected 'tiny'"),
        ({"name": "other"}, "the bundle says 'other' version 1, expected 'trees' version 1"),
    ],
)
def test_a_bundle_that_is_not_for_us_is_refused(
    write: Write, load: BundleLoader, changed: dict[str, Any], message: str
) -> None:
    """Scores of other columns would be numbers without meaning."""
    pin = write(**changed)
    with pytest.raises(BundleRefused, match=message):
        load(pin)


def test_a_model_of_another_revision_brings_its_layout(write: Write, load: BundleLoader) -> None:
    """Which rows are read is the bundle's to say."""
    assert [1, 2] == [load(write(version, revision=version)).layout.revision for version in (1, 2)]


def test_columns_in_another_order_are_refused(write: Write, load: BundleLoader, layout: Layout) -> None:
    """The hash is of what is stored; the order is the model's."""
    pin = write(feature_names=layout.feature_names[::-1])
    with pytest.raises(BundleRefused, match="feature_names"):
        load(pin)


def test_a_changed_file_another_digest_and_no_folder_are_refused(
    write: Write, load: BundleLoader, tmp_path: Path
) -> None:
    """What is served is what was pinned, to the byte."""
    pin = write()
    with pytest.raises(BundleRefused, match="is not the pinned"):
        load(pb.ModelPin(name="trees", version=1, digest="0" * 64))
    with pytest.raises(BundleRefused, match=r"manifest\.json"):
        load(pb.ModelPin(name="trees", version=2))
    model = tmp_path / "bundles" / "trees" / "1" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(BundleRefused, match=r"model\.onnx: changed"):
        load(pin)
