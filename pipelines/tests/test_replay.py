"""Replay against a stack in memory: what is asked, in which order, and what has to be visible first."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from definitions.events import EventColumns
from millrace.client import Accepted, Context, Event, Published, RankedItem, Ranking, Row
from pipelines.errors import UnavailableError
from pipelines.replay import Pace, replay, tied_groups


def events(rows: list[tuple[int, int, int]]) -> EventColumns:
    """Events (user, item, second) in log order."""
    users, items, seconds = zip(*rows, strict=True)
    return EventColumns.of(
        len(rows),
        event_id=range(1, len(rows) + 1),
        user_id=users,
        item_id=items,
        event_time_us=[second * 1_000_000 for second in seconds],
    )


@dataclass
class Stack:
    """A gateway and a collector that share one log; a row becomes visible after `lag` answers."""

    lag: int = 0
    log: list[tuple[int, int]] = field(default_factory=list)
    asked: list[tuple[int, tuple[int, ...], int]] = field(default_factory=list)
    stale: int = 0

    def rank(
        self, usecase: str, user_id: int, item_ids: Sequence[int], *, context: Context | None = None,
        min_interactions_offset: int = 0, timeout_s: float | None = None,
    ) -> Ranking:  # fmt: skip
        mine = [offset for offset, (user, _) in enumerate(self.log) if user == user_id]
        offset = mine[-1] + 1 if mine else 0
        if min_interactions_offset and self.stale < self.lag:
            self.stale += 1
            offset = 0
        else:
            self.stale = 0
            self.asked.append((user_id, tuple(item_ids), len(self.log)))
        items = tuple(RankedItem(item, item / 100, 1, "requested") for item in item_ids)
        return Ranking(1, items, "MODEL", "movies", 7, "", "", 5, Row(1, offset, 0), {})

    def publish(self, usecase: str, events: Sequence[Event], *, timeout_s: float | None = None) -> Published:
        self.log += [(event.user_id, event.item_id) for event in events]
        return Published((Accepted(0, 0, len(self.log) - 1),), ())


def quiet(done: int) -> None:
    """Show nothing."""


def test_a_tied_group_is_scored_whole_before_any_of_it_is_published() -> None:
    """Otherwise the second row of a tie would see the label of the first."""
    stack = Stack()
    tied = events([(1, 10, 5), (1, 11, 5), (1, 12, 6)])

    replay(tied, np.ones(3, bool), "movies", stack, stack, progress=quiet)

    assert [(1, (10, 11), 0), (1, (12,), 2)] == stack.asked
    assert [(1, 10), (1, 11), (1, 12)] == stack.log


def test_a_users_next_group_waits_until_the_previous_one_is_visible() -> None:
    """An answer from an older row is asked for again, never taken."""
    stack = Stack(lag=2)

    served = replay(events([(1, 10, 5), (1, 11, 6)]), np.ones(2, bool), "movies", stack, stack, progress=quiet)

    assert [(1, (10,), 0), (1, (11,), 1)] == stack.asked
    assert served.waited_us[0] == 0
    assert served.waited_us[1] > 0


def test_an_event_that_never_becomes_visible_ends_the_replay_with_the_offset_that_is_missing() -> None:
    """Going on would report the accuracy of a broken stack."""
    stack = Stack(lag=10**9)

    with pytest.raises(UnavailableError, match="user 1: the online row stays at offset 0, 1 was acknowledged"):
        replay(
            events([(1, 10, 5), (1, 11, 6)]), np.array([False, True]), "movies", stack, stack,
            progress=quiet, pace=Pace(visible_s=0.05),
        )  # fmt: skip


def test_events_without_a_label_are_published_and_not_asked_for() -> None:
    """They are history for what follows."""
    stack = Stack()

    served = replay(events([(1, 10, 5), (2, 11, 6)]), np.array([False, True]), "movies", stack, stack, progress=quiet)

    assert [1] == served.row.tolist()
    assert np.float32(0.11) == served.score[0]
    assert 2 == len(stack.log)


def test_groups_follow_event_time_whatever_order_the_columns_have() -> None:
    """Files need not be sorted."""
    groups = [group.tolist() for group in tied_groups(events([(2, 1, 9), (1, 1, 3), (2, 2, 9), (1, 2, 9)]))]

    assert [[1], [3], [0, 2]] == groups
