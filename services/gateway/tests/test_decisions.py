"""What a decision does to the model that serves."""

from collections.abc import Callable

import pytest
from gateway.decisions import Decisions
from gateway.errors import BadModel, BundleRefused
from millrace.decisions.v1 import decisions_pb2 as pb

Serve = Callable[..., int | None]


class FakeServed:
    """Puts any state in force but those whose pin is in `refused` or `bad`; of others it refuses `parts`."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        self.bad: set[int] = set()
        self.parts: list[str] = []
        self.loaded: list[int] = []
        self.states: list[pb.ServingState] = []
        self.version: int | None = None

    def serve(self, state: pb.ServingState) -> list[str]:
        version = state.pin.version if state.HasField("pin") else None
        if version in self.refused:
            raise BundleRefused("model.onnx: changed since it was written")
        if version in self.bad:
            raise BadModel("trees", int(version or 0), "replayed requests: bad_scores")
        if version is not None:
            self.loaded.append(version)
        self.version = version
        self.states.append(state)
        return self.parts


def decision(version: int | None, previous: int | None = None, revision: int = 0) -> bytes:
    state = pb.ServingState()
    if previous is not None:
        state.previous.CopyFrom(pb.ModelPin(name="trees", version=previous))
    if version is not None:
        state.pin.CopyFrom(pb.ModelPin(name="trees", version=version, digest=f"{version:064x}"))
    made = pb.Decision(usecase="movies", kind=pb.DECISION_KIND_DEPLOY, state=state, revision=revision)
    return made.SerializeToString()


@pytest.fixture
def served() -> FakeServed:
    return FakeServed()


@pytest.fixture
def counts() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def decisions(served: FakeServed, counts: list[tuple[str, str]]) -> Decisions:
    return Decisions({"movies": served}, lambda *labels: counts.append(labels))


@pytest.fixture
def serve(decisions: Decisions, served: FakeServed) -> Callable[..., int | None]:
    """Takes records and judges; the version that serves then."""

    def taken(*values: bytes | None, key: bytes = b"movies") -> int | None:
        for offset, value in enumerate(values):
            decisions.take(0, offset, key, value)
        decisions.judge()
        return served.version

    return taken


def test_nothing_serves_before_the_first_decision(serve: Serve) -> None:
    """The first start."""
    assert serve() is None


def test_a_long_history_costs_one_load(serve: Serve, served: FakeServed) -> None:
    """Each record holds the whole state: only the newest is in force."""
    assert 3 == serve(decision(1), decision(2), decision(3))
    assert [3] == served.loaded


def test_a_new_decision_swaps_and_a_rollback_swaps_back(serve: Serve, counts: list[tuple[str, str]]) -> None:
    """Versions may go either way."""
    assert [1, 2, 1] == [serve(decision(version)) for version in (1, 2, 1)]
    assert [("movies", "loaded")] * 3 == counts


def test_the_same_pin_again_loads_nothing(serve: Serve, served: FakeServed) -> None:
    """An event that is no deploy repeats the state."""
    assert [1, 1] == [serve(decision(1)), serve(decision(1))]
    assert [1] == served.loaded


def test_a_bad_bundle_is_refused_and_the_former_serves_on(
    serve: Serve, served: FakeServed, counts: list[tuple[str, str]]
) -> None:
    """Counted, and the next good one is taken."""
    served.refused.add(2)
    assert [1, 1, 3] == [serve(decision(version)) for version in (1, 2, 3)]
    assert ["loaded", "refused", "loaded"] == [outcome for _, outcome in counts]


def test_bytes_that_are_no_decision_change_nothing(serve: Serve, counts: list[tuple[str, str]]) -> None:
    """Counted; a tombstone and other use cases' decisions are not even that."""
    assert 1 == serve(decision(1))
    assert 1 == serve(b"\xff\xff\xff")
    assert 1 == serve(None)
    assert 1 == serve(decision(9), key=b"other")
    assert 1 == serve(decision(9), key=b"\xff")
    assert ["loaded", "unreadable"] == [outcome for _, outcome in counts]


def test_a_state_without_a_pin_takes_the_model_away(serve: Serve, counts: list[tuple[str, str]]) -> None:
    """Back to popularity."""
    assert [1, None, None] == [serve(decision(version)) for version in (1, None, None)]
    assert ["loaded", "removed"] == [outcome for _, outcome in counts]


def test_the_whole_state_is_put_in_force(serve: Serve, served: FakeServed, counts: list[tuple[str, str]]) -> None:
    """Also where the pin stays; that is no load."""
    for state in (decision(1), decision(2, previous=1), decision(2)):
        serve(state)
    assert [False, True, False] == [state.HasField("previous") for state in served.states]
    assert ["loaded", "loaded"] == [outcome for _, outcome in counts]


def test_a_part_that_is_refused_is_counted_and_the_rest_in_force(
    serve: Serve, served: FakeServed, counts: list[tuple[str, str]]
) -> None:
    """A canary whose files are broken does not hold up a deploy."""
    served.parts = ["version 9: changed since it was written"]
    assert 1 == serve(decision(1))
    assert ["refused", "loaded"] == [outcome for _, outcome in counts]


def test_the_newest_decision_is_known_before_it_is_in_force(decisions: Decisions, serve: Serve) -> None:
    """What is decided next builds on it; bytes that are no decision do not count."""
    assert not decisions.newest("movies").state.HasField("pin")
    serve(decision(1))
    decisions.take(0, 1, b"movies", decision(2))
    decisions.take(0, 2, b"movies", b"\xff\xff\xff")
    assert 2 == decisions.newest("movies").state.pin.version


def test_a_decision_that_another_overtook_is_not_served(
    decisions: Decisions, serve: Serve, served: FakeServed, counts: list[tuple[str, str]]
) -> None:
    """Counted; what was decided first stays, also as what the next is made from."""
    assert 2 == serve(decision(1, revision=4), decision(2, revision=5), decision(3, revision=5))
    assert ([2], 5) == (served.loaded, decisions.newest("movies").revision)
    assert ["overtaken", "loaded"] == [outcome for _, outcome in counts]
    assert 4 == serve(decision(4, revision=6))


def test_a_pin_that_scored_badly_is_told(served: FakeServed) -> None:
    """It must not stay pinned: a restart would find no model at all."""
    told: list[tuple[str, str, int]] = []
    decisions = Decisions(
        {"movies": served}, lambda *_: None, lambda usecase, bad: told.append((usecase, bad.name, bad.version))
    )
    served.bad.add(2)
    served.refused.add(3)
    for version in (1, 2, 3):
        decisions.take(0, version, b"movies", decision(version))
        decisions.judge()
    assert ([("movies", "trees", 2)], 1) == (told, served.version)
