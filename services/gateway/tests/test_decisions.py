"""What a decision does to the model that serves."""

import pytest
from bundle import IntInputs
from gateway.decisions import Decisions
from gateway.errors import BundleRefused
from gateway.model import ActiveModel
from millrace.decisions.v1 import decisions_pb2 as pb


class FakeLoader:
    """Makes a model of any pin but those of `refused`."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        self.loaded: list[int] = []

    def __call__(self, pin: pb.ModelPin) -> ActiveModel:
        if pin.version in self.refused:
            raise BundleRefused("model.onnx: changed since it was written")
        self.loaded.append(pin.version)
        return ActiveModel(pin.name, pin.version, pin.digest, None, None, IntInputs((), (), (), {}))


def decision(version: int | None) -> bytes:
    state = pb.ServingState()
    if version is not None:
        state.pin.CopyFrom(pb.ModelPin(name="trees", version=version, digest=f"{version:064x}"))
    return pb.Decision(usecase="movies", kind=pb.DECISION_KIND_DEPLOY, state=state).SerializeToString()


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def counts() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def decisions(loader: FakeLoader, counts: list[tuple[str, str]]) -> Decisions:
    return Decisions({"movies": loader}, lambda *labels: counts.append(labels))


def serve(decisions: Decisions, *values: bytes | None, key: bytes = b"movies") -> int | None:
    for offset, value in enumerate(values):
        decisions.take(0, offset, key, value)
    decisions.judge()
    active = decisions.active("movies")
    return None if active is None else active.version


def test_nothing_serves_before_the_first_decision(decisions: Decisions) -> None:
    """The first start."""
    assert serve(decisions) is None


def test_a_long_history_costs_one_load(decisions: Decisions, loader: FakeLoader) -> None:
    """Each record holds the whole state: only the newest is in force."""
    assert 3 == serve(decisions, decision(1), decision(2), decision(3))
    assert [3] == loader.loaded


def test_a_new_decision_swaps_and_a_rollback_swaps_back(decisions: Decisions, counts: list[tuple[str, str]]) -> None:
    """Versions may go either way."""
    assert [1, 2, 1] == [serve(decisions, decision(version)) for version in (1, 2, 1)]
    assert [("movies", "loaded")] * 3 == counts


def test_the_same_pin_again_loads_nothing(decisions: Decisions, loader: FakeLoader) -> None:
    """An event that is no deploy repeats the state."""
    assert [1, 1] == [serve(decisions, decision(1)), serve(decisions, decision(1))]
    assert [1] == loader.loaded


def test_a_bad_bundle_is_refused_and_the_former_serves_on(
    decisions: Decisions, loader: FakeLoader, counts: list[tuple[str, str]]
) -> None:
    """Counted, and the next good one is taken."""
    loader.refused.add(2)
    assert [1, 1, 3] == [serve(decisions, decision(version)) for version in (1, 2, 3)]
    assert ["loaded", "refused", "loaded"] == [outcome for _, outcome in counts]


def test_bytes_that_are_no_decision_change_nothing(decisions: Decisions, counts: list[tuple[str, str]]) -> None:
    """Counted; a tombstone and other use cases' decisions are not even that."""
    assert 1 == serve(decisions, decision(1))
    assert 1 == serve(decisions, b"\xff\xff\xff")
    assert 1 == serve(decisions, None)
    assert 1 == serve(decisions, decision(9), key=b"other")
    assert 1 == serve(decisions, decision(9), key=b"\xff")
    assert ["loaded", "unreadable"] == [outcome for _, outcome in counts]


def test_a_state_without_a_pin_takes_the_model_away(decisions: Decisions, counts: list[tuple[str, str]]) -> None:
    """Back to popularity."""
    assert [1, None, None] == [serve(decisions, decision(version)) for version in (1, None, None)]
    assert ["loaded", "removed"] == [outcome for _, outcome in counts]
