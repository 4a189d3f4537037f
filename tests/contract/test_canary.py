"""Canary and shadow on a real Triton and a real Kafka: what serves the others is never touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle import Bundle
from definitions.serving_state import same
from millrace.decisions.v1 import decisions_pb2 as pb
from pipelines.decisions import change, newest, serving_state
from pipelines.deploy import deploy, rollback
from pipelines.errors import DeployError
from pipelines.triton_client import Triton
from pipelines.triton_repository import Repository

from pipelines import canary

pytestmark = pytest.mark.real

MakeBundle = Callable[[Path, str, int], Bundle]


@pytest.fixture
def to(triton: str, log: str, repository: Repository) -> dict[str, Any]:
    """Where it is deployed."""
    return {"kafka": log, "triton": triton, "repository": repository}


def ready(target: str, name: str) -> set[int]:
    """Under whatever names."""
    with Triton(target) as client:
        states = [client.states(each) for each in (name, f"{name}.2", f"{name}.3")]
    return {version for each in states for version, (state, _) in each.items() if state == "READY"}


def test_a_canary_grows_to_the_version_that_serves(to: dict[str, Any], tmp_path: Path, make_bundle: MakeBundle) -> None:
    """Loaded beside pin and former version at every step; then a rollback returns to what served before it."""
    name, log = "canary-grows", to["kafka"]
    folders = [make_bundle(tmp_path, name, version).folder for version in (1, 2, 3)]
    for folder in folders[:2]:
        deploy(folder, **to)
    begun = deploy(folders[2], canary=1.0, **to)
    assert (2, 1, 3, 1.0) == (begun.version, begun.previous_version, begun.canary_version, begun.canary_percent)
    assert {1, 2, 3} == ready(to["triton"], name)
    assert pb.DECISION_KIND_CANARY == newest(log, name).kind

    assert [5.0, 25.0] == [canary.widen(log, name).canary_percent for _ in range(2)]
    assert 40.0 == canary.widen(log, name, 40.0).canary_percent
    done = canary.widen(log, name)
    assert (3, 2, None) == (done.version, done.previous_version, done.canary_version)
    assert 2 == rollback(name, bundles=tmp_path / "bundles", **to).version


def test_a_canary_that_is_taken_back_leaves_no_trace(
    to: dict[str, Any], tmp_path: Path, make_bundle: MakeBundle
) -> None:
    """Nor does one that Triton, the state or the caller refuses."""
    name, log = "canary-back", to["kafka"]
    folders = [make_bundle(tmp_path, name, version).folder for version in (1, 2, 3)]
    with pytest.raises(DeployError, match="deploy this one to everybody"):
        deploy(folders[0], canary=5.0, **to)
    with pytest.raises(DeployError, match="millrace deploy --canary"):
        canary.widen(log, name)
    deploy(folders[0], **to)
    before = serving_state(log, name)
    deploy(folders[1], canary=5.0, **to)
    with pytest.raises(DeployError, match="canary of version 2"):
        deploy(folders[2], **to)
    assert {1, 2} == ready(to["triton"], name)
    canary.stop(log, name)
    assert before == serving_state(log, name)
    with pytest.raises(DeployError, match="no canary"):
        canary.stop(log, name)


def test_a_shadow_is_loaded_and_serves_nobody(to: dict[str, Any], tmp_path: Path, make_bundle: MakeBundle) -> None:
    """A deploy beside it keeps both; ended, it is gone from the state."""
    name, log = "shadow", to["kafka"]
    folders = [make_bundle(tmp_path, name, version).folder for version in (1, 2, 3)]
    with pytest.raises(DeployError, match="to be compared with"):
        canary.begin_shadow(folders[1], 0.5, **to)
    deploy(folders[0], **to)
    with pytest.raises(DeployError, match="shadow of itself"):
        canary.begin_shadow(folders[0], 0.5, **to)
    assert (1, 2) == ((begun := canary.begin_shadow(folders[1], 0.5, **to)).version, begun.shadow_version)
    deploy(folders[2], **to)
    assert {1, 2, 3} == ready(to["triton"], name)
    state = serving_state(log, name)
    assert (3, 2, 0.5) == (state.pin.version, state.shadow.pin.version, state.shadow.share)
    assert canary.end_shadow(log, name).shadow_version is None


def test_a_rollback_to_what_is_loaded_loads_nothing(
    to: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle
) -> None:
    """So it takes no time; scores are checked all the same."""
    name = "instant"
    for version in (1, 2):
        deploy(make_bundle(tmp_path, name, version).folder, **to)

    def refuse(_self: Triton, name: str) -> None:
        raise AssertionError(f"{name} was loaded again")

    monkeypatch.setattr(Triton, "load", refuse)
    result = rollback(name, bundles=tmp_path / "bundles", **to)
    assert 1 == result.version
    assert result.triton_max_abs is not None
    assert "load into Triton" not in result.stages


def test_two_who_decide_at_once_keep_what_the_other_decided(
    to: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle
) -> None:
    """While Triton loads for seconds, somebody changes the rules: the deploy does not undo that."""
    name, log = "both", to["kafka"]
    deploy(make_bundle(tmp_path, name, 1).folder, **to)
    load = Triton.load

    def rules_changed(state: pb.ServingState) -> pb.ServingState:
        state.rules_version = 7
        return state

    def slow(self: Triton, served_as: str) -> None:
        change(log, name, pb.DECISION_KIND_RULES, rules_changed, reason="rules", actor="somebody")
        load(self, served_as)

    monkeypatch.setattr(Triton, "load", slow)
    bundle = make_bundle(tmp_path, name, 2)
    deploy(bundle.folder, **to)
    state = serving_state(log, name)
    assert 7 == state.rules_version
    assert same(state.pin, pb.ModelPin(name=name, version=2, digest=bundle.digest))
