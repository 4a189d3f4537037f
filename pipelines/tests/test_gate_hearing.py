"""What the gate finds out by itself: who signed, what was known, how long it takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle import Manifest, OnnxScorer, Trust, read_manifest
from definitions.layout import Layout, layout_of
from definitions.usecase import find_usecase
from onnx import TensorProto, helper, numpy_helper
from pipelines.consistency import latest
from pipelines.consistency.report import publish
from pipelines.datasets import build_dataset
from pipelines.datasets.split import split_times
from pipelines.datasets.synthetic import synthetic_world
from pipelines.gate import planted
from pipelines.gate.hearing import Hearing, differing, prepare
from pipelines.gate.opening import incomplete, inconsistent, latency_ms, open_bundle
from pipelines.signing import development_key, signer
from pipelines.training.examples import Examples, Log, build_examples
from pipelines.training.inputs import Inputs
from servicekit.settings import checkout_root


@dataclass(frozen=True)
class World:
    """A small log, its rows, a maker of signed bundles, and the gate's view of them."""

    log: Log
    examples: Examples
    forge: planted.Forge
    trust: Trust
    heard: Hearing

    @property
    def layout(self) -> Layout:
        return self.forge.layout

    def rules(self, folder: Path, **changed: object) -> list[str]:
        heard = replace(self.heard, **changed)
        return sorted({reason.rule for reason in heard.evidence(folder, self.trust, who="it").faults})


def _graph(layout: Layout, path: Path) -> Path:
    """More stars of the item, a higher score; no integer inputs."""
    weights = np.zeros((len(layout.feature_names), 1), np.float32)
    weights[layout.feature_names.index("i_liked_all")] = 1
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["score"])],
        "mean",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("gate")
    layout = layout_of(find_usecase("movies", checkout_root() / "usecases"))
    log = Log.of_dataset(build_dataset(layout.usecase, synthetic_world(users=60, items=80, events=1500, seed=1)))
    examples = build_examples(layout, log)
    split = split_times(examples.time_us)
    places = np.arange(len(layout.feature_names), dtype=np.int64)
    inputs = Inputs(
        feature_names=layout.feature_names, floats=places, int_names=(), vocabularies={}, codes=(), history=None,
        item=None,
    )  # fmt: skip
    sign = signer(development_key(home / "signing.pem", home / "trusted"))
    forge = planted.Forge(layout, examples, split, inputs, _graph(layout, home / "honest.onnx"), home / "bundles", sign)
    heard = prepare(
        layout, log, valid_from_us=split.valid_from_us, test_from_us=split.test_from_us, stored=lambda _: None
    )
    return World(log, examples, forge, Trust.read(home / "trusted", required=True), heard)


@pytest.fixture
def write(world: World) -> Callable[..., Path]:
    """Writes the next version."""

    def written(**changed: object) -> Path:
        versions = [int(path.name) for path in (world.forge.bundles / "movies").glob("*")]
        return world.forge.bundle(max(versions, default=0) + 1, world.forge.fallback, "lr", **changed)

    return written


def test_an_honest_bundle_has_no_fault(world: World, write: Callable[..., Path]) -> None:
    """Its rows are rebuilt to the same digest, and its figures found again."""
    evidence = world.heard.evidence(write(), world.trust, who="it")

    assert () == evidence.faults
    assert evidence.scores is not None
    assert len(world.heard.rows.label) == len(evidence.scores)


def test_unsigned_and_tampered_bundles_are_not_opened(world: World, write: Callable[..., Path], tmp_path: Path) -> None:
    """By what says so first."""
    changed, forged = write(), write()
    (changed / "fallback.onnx").write_bytes(b"")
    planted.tamper(forged, planted.constant(world.forge.fallback, tmp_path / "other.onnx", 0.5))

    assert ["signature"] == world.rules(write(signed=False))
    assert ["tampered"] == world.rules(changed)
    assert ["signature"] == world.rules(forged)
    assert open_bundle(changed, world.trust).bundle is None


def test_rows_that_hold_their_own_event_are_refused_by_column(world: World, write: Callable[..., Path]) -> None:
    """Where somebody kept them; else because the log gives others. What it claims is not found again either."""
    leaky = planted.peeking(world.layout, world.log, world.examples)
    folder = write(examples=leaky)

    assert ["claims", "leak"] == world.rules(folder)
    found = replace(world.heard, stored=lambda _: (leaky.keys, leaky.features)).evidence(folder, world.trust, who="it")
    assert "trained on u_rated_1h (100.0% of rows)" in str(found.faults[0])


def test_rows_of_another_log_are_compared_where_both_have_them(world: World, write: Callable[..., Path]) -> None:
    """A log that has grown gives more rows, and the same values in the old ones."""
    early = slice(0, len(world.examples) // 2)

    def stored(_: object) -> tuple[np.ndarray, np.ndarray]:
        return world.examples.keys[early], world.examples.features[early]

    shares = differing(world.layout.feature_names, world.examples, *stored(None))
    assert {0.0} == set(shares.values())
    assert set(world.layout.feature_names) == set(shares)


def test_what_a_manifest_must_say(world: World, write: Callable[..., Path]) -> None:
    """Each gap is named; a check that did not hold at training is a leak."""
    whole: Manifest = read_manifest(write())[0]

    assert () == incomplete(whole)
    (gap,) = incomplete(whole.model_copy(update={"trials": None, "leaks": None, "commit": "unknown"}))
    assert ("manifest", "says nothing of commit, trials, leaks") == (gap.rule, gap.text)
    (leak,) = incomplete(whole.model_copy(update={"leaks": {"future": False}}))
    assert "leak" == leak.rule


def test_a_consistency_report_with_unexplained_values_blocks(tmp_path: Path) -> None:
    """The last one counts; without any, nothing is known against it."""
    assert latest(tmp_path, "movies") is None
    assert () == inconsistent(None)
    rates = dict.fromkeys(("mismatch_rate", "inside_rate", "missing_rate"), 0.0)
    for logic in (3, 0):
        publish(
            {"usecase": "movies", "layout_hash": "0", "impressions": 1, "cells": 9, "logic": logic, **rates}, tmp_path
        )
        assert bool(logic) == bool(inconsistent(latest(tmp_path, "movies")))


def test_the_time_of_a_request_is_measured(world: World, tmp_path: Path) -> None:
    """More arithmetic takes longer; scores are the same."""
    columns = len(world.layout.feature_names)
    features, none = world.examples.features[:100], np.empty((100, 0), np.int64)
    slow = OnnxScorer(planted.slow(world.forge.fallback, tmp_path / "slow.onnx", columns, width=256, layers=4))
    quick = OnnxScorer(world.forge.fallback)

    assert latency_ms(slow, features, none) > latency_ms(quick, features, none) > 0
    np.testing.assert_array_equal(quick.score(features), slow.score(features))
