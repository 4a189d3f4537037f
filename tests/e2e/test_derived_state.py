"""Derived state against the facts, on the real stack: what was served is what the log says, and can be made again."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from definitions.item_feed import parse_item_features_key, parse_partial_value
from definitions.row_header import with_epoch
from local_stack.harness import NativeStack
from millrace.client import Entity, Event, EventClient, RankingClient
from servicekit import kafka
from servicekit.topics import topic
from stores.online import open_online

pytestmark = pytest.mark.real

USECASE = "movies"
FIRST_USER, USERS = 7_000_000, 12
FIRST_ITEM, ITEMS = 7_000_000, 25
EVENTS = 240
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Derived:
    """Everything that is derived, epochs taken out."""

    rows: dict[int, bytes]
    partials: dict[tuple[int, int], bytes]

    @classmethod
    def of(cls, stack: NativeStack) -> "Derived":
        """Of the running stack."""
        store = open_online(USECASE, 1, valkey=f"127.0.0.1:{stack.ports.valkey}", lmdb_path=Path("unused"))
        try:
            rows = {user: with_epoch(row, 0) for user, row in store.read_many(store.all_ids().tolist()).items()}
        finally:
            store.close()
        partials: dict[tuple[int, int], bytes] = {}

        def take(_partition: int, _offset: int, key: bytes | None, value: bytes | None) -> None:
            item, origin = parse_item_features_key(key)
            if item:
                _, partials[item, origin] = parse_partial_value(value)

        reader = kafka.TopicReader(f"127.0.0.1:{stack.ports.kafka}", topic(USECASE, "item-features"), take)
        reader.start()
        try:
            reader.wait_caught_up(PATIENCE_S)
        finally:
            reader.stop()
        return cls(rows, partials)


@pytest.fixture(scope="module")
def served(stack: NativeStack) -> NativeStack:
    """Users who rate what they were shown: each ranking waits for the user's own last event, not for others'."""
    items = range(FIRST_ITEM, FIRST_ITEM + ITEMS)
    with EventClient(stack.address("collector")) as events, RankingClient(stack.address("gateway")) as rankings:
        events.put_items(
            USECASE, [Entity(id=each, attributes={"year": 1990.0, "genre": [each % 5 + 1]}) for each in items]
        )
        events.put_users(USECASE, [Entity(id=FIRST_USER + each, attributes={"age": 30.0}) for each in range(USERS)])
        seen: dict[int, int] = {}
        for number in range(EVENTS):
            user = FIRST_USER + number % USERS
            ranking = rankings.rank(
                USECASE, user, items, min_interactions_offset=seen.get(user, 0), timeout_s=PATIENCE_S
            )
            chosen = ranking.items[number % len(ranking.items)].item_id
            published = events.publish(USECASE, [Event(user_id=user, item_id=chosen, action=2, value=number % 5 + 1)])
            seen[user] = 1 + published.accepted[0].offset
    return stack


def test_what_was_served_is_what_the_log_says(served: NativeStack) -> None:
    """Below the logged offsets every value is equal; what lagged is known, and how long."""
    found = consistency(served)

    assert found["impressions"] >= EVENTS
    assert found["cells"] > EVENTS * ITEMS * 20
    assert (0, []) == (found["logic"], found["examples"])
    assert found["inexact"] == found["classes"]["tie"]
    assert found["inside_rate"] + found["mismatch_rate"] < 0.5
    assert (served.home / "reports" / "consistency-movies.json").exists()


def test_a_rebuild_gives_the_same_bytes(served: NativeStack) -> None:
    """Rows and partials alike, in a new epoch; rankings go on, and agree with the log again."""
    served.millrace("up")  # whatever another test left
    before = Derived.of(served)

    said = served.millrace("rebuild", "features", "--yes")

    after = Derived.of(served)
    assert before.rows == after.rows
    assert before.partials == after.partials
    assert len(before.rows) >= USERS
    assert len(before.partials) >= ITEMS
    (movies,) = (each for each in said["rebuilt"] if each["usecase"] == USECASE)
    assert movies["events"] >= EVENTS
    with RankingClient(served.address("gateway")) as rankings:
        for user in range(FIRST_USER, FIRST_USER + USERS):
            ranking = rankings.rank(USECASE, user, range(FIRST_ITEM, FIRST_ITEM + ITEMS), timeout_s=PATIENCE_S)
            assert ranking.row.interactions_offset > 0
    assert 0 == consistency(served)["logic"]


def test_a_rebuild_asks_first(served: NativeStack) -> None:
    """Nobody is there to be asked: nothing is touched, exit 2."""
    said = served.millrace("rebuild", "features", code=2)

    assert "--yes" in said["error"]


def consistency(stack: NativeStack) -> dict[str, Any]:
    """`millrace consistency`, once the impressions that are on their way have arrived."""
    ends = time.monotonic() + PATIENCE_S
    while (found := stack.millrace("consistency", "--impressions", "2000"))["impressions"] < EVENTS:
        assert time.monotonic() < ends, found["impressions"]
    return found
