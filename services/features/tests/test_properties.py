"""What is online depends on the log alone: not on batch cuts, on owners, on restarts, or on who was evicted."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from definitions.record_columns import RecordColumns
from features.partition import INTERACTIONS, PartitionState
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from conftest import World
else:
    World = Any

NewWorld = Callable[[], World]
Sent = tuple[int, int, int, int, float, int]  # event id, user, item, action, value, seconds before the newest
Life = tuple[int, int, bool, int]  # records a poll, turns, one process for both partitions, bytes for users

NOW_US = 1_700_000_000_000_000
SENT = st.tuples(
    st.integers(1, 25),  # few, so that events are sent again
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 1),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.one_of(st.integers(0, 3), st.integers(0, 5_000), st.integers(0, 3_000_000)),
)
LIFE = st.tuples(st.integers(1, 12), st.integers(0, 6), st.booleans(), st.sampled_from([1, 15_000, 1 << 40]))


@pytest.fixture
def new_world(world: World, tmp_path_factory: pytest.TempPathFactory) -> NewWorld:
    return lambda: type(world)(tmp_path_factory.mktemp("world"))


def online(world: World, sent: list[Sent], lives: list[Life]) -> tuple[dict[int, bytes], dict[tuple[int, int], bytes]]:
    """Rows and partials after these processes, one after the other, and a last one that reads to the end."""
    for event_id, user, item, action, value, before_s in sent:
        fields = {"action": action, "value": value, "category": item % 3}
        world.event(event_id, user=user, item=item, event_time_us=NOW_US - before_s * 1_000_000, **fields)
    for most, turns, together, most_bytes in lives:
        world.log.most, world.most_bytes = most, most_bytes
        for partitions in [(0, 1)] if together else [(0,), (1,)]:
            loop = world.loop(partitions, checkpoint_s=0.2)
            loop.recover()
            for _ in range(turns):
                loop.step()
                world.clock.now += 0.15
    last = world.loop()
    last.recover()
    world.settle(last)
    return world.stored(), world.topic.partials()


def agrees(new_world: NewWorld, sent: list[Sent], lives: list[Life]) -> None:
    """The property: these lives give the very bytes that one process gives which reads the log in one poll."""
    assert online(new_world(), sent, lives) == online(new_world(), sent, [])


@pytest.mark.property
def test_bytes_are_independent_of_batch_cuts_owners_and_restarts(new_world: NewWorld) -> None:
    """Repeats may be in another batch, or in another life, than what they repeat."""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(sent=st.lists(SENT, max_size=50), lives=st.lists(LIFE, max_size=4))
    def holds(sent: list[Sent], lives: list[Life]) -> None:
        agrees(new_world, sent, lives)

    holds()


@pytest.mark.parametrize(
    "lives", [[(1, 3, True, 1)], [(4, 2, False, 1 << 40), (7, 1, True, 1)]], ids=["one", "three owners"]
)
def test_a_few_lives_give_the_same_bytes(new_world: NewWorld, lives: list[Life]) -> None:
    """The same in every run of the fast tests."""
    sent = [
        (number % 11 + 1, number % 4 + 1, number % 3 + 1, number % 2, 1.0, number * 997 % 9_000) for number in range(24)
    ]
    agrees(new_world, sent, lives)


def test_a_dropped_batch_turns_the_property_red(new_world: NewWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the second batch of a partition is passed over, its offset counted as read."""
    folded = PartitionState.fold
    calls: dict[int, int] = {}

    def fold(self: PartitionState, kind: str, records: Any, next_offset: int) -> Any:
        calls[id(self)] = calls.get(id(self), 0) + (kind == INTERACTIONS)
        if kind == INTERACTIONS and calls[id(self)] == 2:
            records = RecordColumns.of([])
        return folded(self, kind, records, next_offset)

    sent = [(number, number % 2 + 1, 1, 0, 1.0, 60) for number in range(1, 13)]
    agrees(new_world, sent, [(2, 4, True, 1 << 40)])
    monkeypatch.setattr(PartitionState, "fold", fold)

    with pytest.raises(AssertionError):
        agrees(new_world, sent, [(2, 4, True, 1 << 40)])


@pytest.mark.property
def test_the_search_finds_a_dropped_batch(new_world: NewWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random examples are rich enough to meet it, not only the one above."""
    kept = PartitionState.fold

    def fold(self: PartitionState, kind: str, records: Any, next_offset: int) -> Any:
        dropped = kind == INTERACTIONS and self.offsets[kind] > 0
        return kept(self, kind, RecordColumns.of([]) if dropped else records, next_offset)

    monkeypatch.setattr(PartitionState, "fold", fold)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        derandomize=True, database=None,
    )  # fmt: skip
    @given(sent=st.lists(SENT, max_size=50), lives=st.lists(LIFE, max_size=4))
    def holds(sent: list[Sent], lives: list[Life]) -> None:
        agrees(new_world, sent, lives)

    with pytest.raises((AssertionError, ExceptionGroup)):
        holds()
