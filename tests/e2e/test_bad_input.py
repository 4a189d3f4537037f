"""What is wrong is refused by name, wherever it comes in, and what stands beside it goes through."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import polars as pl
import pytest
from kafka import KafkaProducer
from local_stack.harness import NativeStack
from millrace.client import Entity, EventClient, RankingClient, now_us
from millrace.collector.v1 import collector_pb2, collector_pb2_grpc
from millrace.events.v1 import events_pb2 as pb
from servicekit.kafka import TopicReader, end_offsets, make_producer
from servicekit.topics import DEAD_LETTERS, id_key, topic
from stores.offline import Lake

pytestmark = pytest.mark.real

PATIENCE_S = 30.0
BEGIN = 9_300_000  # users, items and events from here on are this file's
ERASED = BEGIN + 99
RATE = 2
MINUTE_US = 60_000_000


def good(number: int, **wrong: Any) -> pb.Interaction:
    """A good event of user BEGIN + `number`, except for what is given."""
    fields = {
        "event_id": BEGIN + number,
        "user_id": BEGIN + number,
        "item_id": BEGIN + 1,
        "action": RATE,
        "value": 4.0,
        "event_time_us": now_us(),
    }
    return pb.Interaction(**{**fields, **wrong})


BROKEN_EVENTS: dict[str, tuple[dict[str, Any], str, str]] = {  # fields, reason, what the message names
    "no event id": ({"event_id": 0}, "missing_id", "event_id"),
    "no user": ({"user_id": 0}, "missing_id", "user_id"),
    "no item": ({"item_id": 0}, "missing_id", "item_id"),
    "an action that the use case has not": ({"action": 3}, "unknown_action", "action 3"),
    "not a number": ({"value": float("nan")}, "invalid_value", "value"),
    "infinite": ({"value": float("-inf")}, "invalid_value", "value"),
    "too large": ({"value": 2e9}, "invalid_value", "value"),
    "no time": ({"event_time_us": 0}, "invalid_value", "event_time_us"),
    "before 1970": ({"event_time_us": -MINUTE_US}, "invalid_value", "event_time_us"),
    "after the year 9999": ({"event_time_us": 2**62}, "invalid_value", "event_time_us"),
    "an hour ahead": ({"event_time_us": now_us() + 60 * MINUTE_US}, "future_time", "event_time_us"),
    "an erased user": ({"user_id": ERASED}, "erased", "user_id"),
}


class Dead(NamedTuple):
    """What a dead letter says, without its words."""

    topic: str
    partition: int
    offset: int
    reason: str
    raw: bytes
    raw_key: bytes


@pytest.fixture
def producer(stack: NativeStack) -> Iterator[KafkaProducer]:
    """Writes to the log without asking the collector."""
    made = make_producer(f"127.0.0.1:{stack.ports.kafka}")
    yield made
    made.close(timeout=5)


def test_a_broken_file_puts_nothing_on_the_log(stack: NativeStack, tmp_path: Path) -> None:
    """Exit 2; file, row, column and remedy are named; not even the good catalogue beside it is loaded."""
    events, items = tmp_path / "events.csv", tmp_path / "items.csv"
    events.write_text("user_id,item_id,rating,timestamp\n1,1,4,880000000\n2,1,good,880000001\n")
    items.write_text("item_id,movie_title,release_year,class\n1,One,1990,Drama\n")
    before = ends(stack)

    said = stack.millrace("load", "--interactions", str(events), "--items", str(items), code=2)["error"]

    assert said.startswith(f"{events}, row 2, column 'rating': 'good' is not a number.")
    assert len(said.partition("number. ")[2]) > 10  # what to do
    assert before == ends(stack)


def test_publish_rejects_by_index_and_takes_the_neighbours(stack: NativeStack) -> None:
    """Twelve kinds of broken event in one request: each is named with its field, and the good ones are on the log."""
    with EventClient(stack.address("collector"), timeout_s=PATIENCE_S) as client:
        assert client.put_users("movies", [Entity(id=ERASED, deleted=True)]).rejected == ()
        ends_at = time.monotonic() + PATIENCE_S
        events = [event for kind, _, _ in BROKEN_EVENTS.values() for event in (good(1), good(2, **kind))]
        answer = published(stack, events)
        while len(answer.rejected) < len(BROKEN_EVENTS):  # an erasure is known when the collector has read it
            assert time.monotonic() < ends_at, answer
            answer = published(stack, events)

    assert list(range(1, len(events), 2)) == [each.index for each in answer.rejected]
    assert list(range(0, len(events), 2)) == [each.index for each in answer.accepted]
    for each, (_, reason, named) in zip(answer.rejected, BROKEN_EVENTS.values(), strict=True):
        assert each.reason.startswith(f"{reason}: ")
        assert named in each.reason
        assert len(each.reason.split()) > 6  # what is wrong, and what would be right


@pytest.mark.parametrize("usecase", ["movies-2", ""])
def test_a_use_case_that_nobody_serves_is_refused(stack: NativeStack, usecase: str) -> None:
    """INVALID_ARGUMENT names what is served; nothing of the request is taken."""
    before = ends(stack)

    with pytest.raises(grpc.RpcError) as refused:
        published(stack, [good(3)], usecase)

    assert grpc.StatusCode.INVALID_ARGUMENT is refused.value.code()
    assert "usecase" in refused.value.details()
    assert "use one of loop, movies" in refused.value.details()
    assert before == ends(stack)


def test_bytes_that_are_no_request_are_the_callers_fault(stack: NativeStack) -> None:
    """INVALID_ARGUMENT, not a failure of the server, which goes on."""
    with grpc.insecure_channel(stack.address("collector")) as channel:
        call = channel.unary_unary("/millrace.collector.v1.CollectorService/Publish")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff", timeout=PATIENCE_S)

    assert grpc.StatusCode.INVALID_ARGUMENT is refused.value.code()
    assert 1 == len(published(stack, [good(4)]).accepted)


def test_broken_records_on_the_log_become_dead_letters_and_their_neighbours_go_through(
    stack: NativeStack, producer: KafkaProducer
) -> None:
    """Each is kept whole with its place and reason; archived and dead together are what the log holds."""
    user, name = BEGIN + 50, topic("movies", "interactions")
    stack.flush("archiver")
    first, archived_before = ends(stack), archived(stack)
    key, right = id_key(user), good(50).SerializeToString()
    broken: list[tuple[bytes | None, bytes | None, str]] = [
        (key, b"\xff\xff garbage", "MALFORMED"),
        (key, None, "MALFORMED"),
        (key, right[:-3], "MALFORMED"),
        (id_key(user + 1), right, "WRONG_KEY"),
        (None, right, "WRONG_KEY"),
        (key, good(50, item_id=0).SerializeToString(), "MISSING_ID"),
        (key, good(50, action=7).SerializeToString(), "UNKNOWN_ACTION"),
        (key, good(50, value=float("nan")).SerializeToString(), "INVALID_VALUE"),
        (key, good(50, event_time_us=now_us() + 60 * MINUTE_US).SerializeToString(), "FUTURE_TIME"),
    ]
    partition = sent(producer, name, key, good(50, event_id=BEGIN + 200).SerializeToString())[0]
    expected = []
    for number, (record_key, value, reason) in enumerate(broken):
        at = sent(producer, name, record_key, value, partition)
        expected.append(Dead(name, *at, f"DEAD_LETTER_REASON_{reason}", value or b"", record_key or b""))
        last = sent(producer, name, key, good(50, event_id=BEGIN + 201 + number).SerializeToString(), partition)[1]
    item = sent(producer, topic("movies", "items"), id_key(BEGIN), b"\xff")
    expected.append(
        Dead(topic("movies", "items"), *item, "DEAD_LETTER_REASON_MALFORMED", b"\xff", id_key(BEGIN)),
    )
    stack.flush("archiver")

    found = [
        letter for letter in dead_letters(stack) if letter[0].topic != name or letter[0].offset >= first[partition]
    ]
    assert sorted(expected) == sorted(dead for dead, _ in found if dead in expected)
    assert all(detail for dead, detail in found if dead in expected)
    on_log = sum(ends(stack).values()) - sum(first.values())
    dead = [each for each, _ in found if each.topic == name and each.offset >= first[each.partition]]
    assert on_log == archived(stack) - archived_before + len(dead) == 2 * len(broken) + 1
    assert len(broken) + 1 == mine(stack, user)
    assert last + 1 == served_offset(stack, user, last + 1)


def published(stack: NativeStack, events: list[pb.Interaction], usecase: str = "movies") -> Any:
    """Publish as any gRPC client could, past the checks of ours."""
    with grpc.insecure_channel(stack.address("collector")) as channel:
        stub = collector_pb2_grpc.CollectorServiceStub(channel)
        return stub.Publish(collector_pb2.PublishRequest(usecase=usecase, events=events), timeout=PATIENCE_S)


def sent(
    producer: KafkaProducer, name: str, key: bytes | None, value: bytes | None, partition: int | None = None
) -> tuple[int, int]:
    """Put one record on the log: its partition and offset."""
    place = producer.send(name, key=key, value=value, partition=partition).get(timeout=PATIENCE_S)
    return place.partition, place.offset


def ends(stack: NativeStack) -> dict[int, int]:
    """Partition of movies.interactions -> its end."""
    return end_offsets(f"127.0.0.1:{stack.ports.kafka}", topic("movies", "interactions"))


def archived(stack: NativeStack) -> int:
    """Interactions in the lake."""
    rows: int = Lake(stack.home / "lake", "movies").scan("interactions").select(pl.len()).collect().item()
    return rows


def mine(stack: NativeStack, user: int) -> int:
    """Interactions of one user in the lake."""
    rows = Lake(stack.home / "lake", "movies").scan("interactions").filter(pl.col("user_id") == user)
    return rows.collect().height


def dead_letters(stack: NativeStack) -> list[tuple[Dead, str]]:
    """Every dead letter that is there now, with its words."""
    found = []

    def take(_partition: int, _offset: int, _key: bytes | None, value: bytes | None) -> None:
        letter = pb.DeadLetter.FromString(value or b"")
        reason = pb.DeadLetterReason.Name(letter.reason)
        dead = Dead(letter.topic, letter.partition, letter.offset, reason, letter.raw, letter.raw_key)
        found.append((dead, letter.detail))

    reader = TopicReader(f"127.0.0.1:{stack.ports.kafka}", DEAD_LETTERS, take)
    reader.start()
    try:
        reader.wait_caught_up(PATIENCE_S)
    finally:
        reader.stop()
    return found


def served_offset(stack: NativeStack, user: int, at_least: int) -> int:
    """The offset up to which the user's row knows the log, once that is `at_least`, or what it stays at."""
    deadline = time.monotonic() + PATIENCE_S
    with RankingClient(stack.address("gateway")) as client:
        while True:
            row = client.rank("movies", user, [BEGIN + 1], timeout_s=1.0).row
            if row.interactions_offset >= at_least or time.monotonic() > deadline:
                return row.interactions_offset
