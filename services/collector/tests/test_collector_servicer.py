"""The collector over a real socket: what is accepted, what is rejected and how, what happens when the log is away."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from collector import errors
from collector.catalogue import Catalogue
from collector.collecting import MAX_RECORDS
from collector.servicer import SERVICE, STATUS
from millrace.collector.v1 import collector_pb2 as pb
from millrace.events.v1 import events_pb2
from servicekit.kit import Kit

NOW_US = 1_700_000_000_000_000
MINUTE_US = 60_000_000

Make = Callable[..., Any]


def request(*events: events_pb2.Interaction) -> pb.PublishRequest:
    return pb.PublishRequest(usecase="movies", events=events)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"event_id": 0}, "missing_id", "event_id"),
    ({"user_id": 0}, "missing_id", "user_id"),
    ({"item_id": 0}, "missing_id", "item_id"),
    ({"action": 2}, "unknown_action", "action"),
    ({"value": float("nan")}, "invalid_value", "value"),
    ({"value": float("-inf")}, "invalid_value", "value"),
    ({"event_time_us": 0}, "invalid_value", "event_time_us"),
    ({"event_time_us": -1}, "invalid_value", "event_time_us"),
    ({"event_time_us": NOW_US + 6 * MINUTE_US}, "future_time", "event_time_us"),
    ({"user_id": 666}, "erased", "user_id"),
]


async def test_ten_kinds_of_broken_event_are_named_by_index_and_spare_their_neighbours(
    stub: Any, event: Make, log: Any, catalogue: Catalogue
) -> None:
    """Each rejection names term and field; the good events between them are on the log."""
    catalogue.apply_user(events_pb2.User(id=666, deleted=True))
    events = [event(event_id=1_000)]
    for index, (fields, _, _) in enumerate(BROKEN):
        events += [event(**fields), event(event_id=1_001 + index)]

    answer = await stub.Publish(request(*events))

    assert [1 + 2 * n for n in range(len(BROKEN))] == [rejected.index for rejected in answer.rejected]
    for rejected, (_, term, field) in zip(answer.rejected, BROKEN, strict=True):
        assert rejected.reason.startswith(f"{term}: ")
        assert field in rejected.reason
    assert [2 * n for n in range(len(BROKEN) + 1)] == [accepted.index for accepted in answer.accepted]
    assert [1_000 + n for n in range(len(BROKEN) + 1)] == [each.event_id for each in log.events()]


async def test_an_answer_tells_where_each_record_lies(stub: Any, event: Make, log: Any) -> None:
    """Key = user id, 8 bytes big-endian; partition and offset are the log's."""
    answer = await stub.Publish(request(event(user_id=1), event(user_id=2), event(user_id=3)))

    assert [(0, 1, 0), (1, 0, 0), (2, 1, 1)] == [(a.index, a.partition, a.offset) for a in answer.accepted]
    assert (3).to_bytes(8, "big") == log.topics["movies.interactions"][1][1].key


async def test_the_past_is_welcome_and_a_little_future_too(stub: Any, event: Make) -> None:
    """History is published in its own time; clocks differ by less than 5 min."""
    answer = await stub.Publish(request(event(event_time_us=1), event(event_time_us=NOW_US + 5 * MINUTE_US)))

    assert [0, 1] == [accepted.index for accepted in answer.accepted]


async def test_the_category_is_stamped_only_where_it_is_absent(stub: Any, event: Make, item: Make, log: Any) -> None:
    """From the answer to PutItems on: the first code of the category attribute; an unknown item keeps 0."""
    await stub.PutItems(pb.PutItemsRequest(usecase="movies", items=[item(33, 7, 8)]))
    await stub.Publish(request(event(), event(category=5), event(item_id=44)))

    assert [7, 5, 0] == [each.category for each in log.events()]


async def test_an_older_record_of_an_item_never_wins(
    stub: Any, event: Make, item: Make, log: Any, catalogue: Any
) -> None:
    """The reader of the topic comes later than the answer, and must not bring back what was replaced."""
    await stub.PutItems(pb.PutItemsRequest(usecase="movies", items=[item(33, 7)]))
    await stub.PutItems(pb.PutItemsRequest(usecase="movies", items=[item(33, 9)]))
    catalogue.apply_item(item(33, 7), offset=0)

    await stub.Publish(request(event()))

    assert [9] == [each.category for each in log.events()]


async def test_a_deleted_item_has_no_category(stub: Any, event: Make, item: Make, log: Any) -> None:
    """`deleted` removes; events about it stay welcome."""
    await stub.PutItems(pb.PutItemsRequest(usecase="movies", items=[item(33, 7)]))
    await stub.PutItems(pb.PutItemsRequest(usecase="movies", items=[item(33, 7, deleted=True)]))
    await stub.Publish(request(event()))

    assert [0] == [each.category for each in log.events()]


async def test_an_erased_user_is_refused_from_the_answer_on(stub: Any, event: Make, log: Any) -> None:
    """Neither events nor attributes bring the id back; erasing again is no mistake."""
    erase = pb.PutUsersRequest(usecase="movies", users=[events_pb2.User(id=22, deleted=True)])
    await stub.PutUsers(erase)

    published = await stub.Publish(request(event()))
    returned = await stub.PutUsers(pb.PutUsersRequest(usecase="movies", users=[events_pb2.User(id=22)]))
    again = await stub.PutUsers(erase)

    assert ["erased"] == [rejected.reason.partition(":")[0] for rejected in published.rejected]
    assert ["erased"] == [rejected.reason.partition(":")[0] for rejected in returned.rejected]
    assert 1 == len(again.accepted)
    assert [] == log.events()


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (events_pb2.Item(), "id"),
        (events_pb2.Item(id=1, attributes={"year": events_pb2.AttributeValue(number=float("nan"))}), "year"),
        (events_pb2.Item(id=1, attributes={"year": events_pb2.AttributeValue(text="1999")}), "year"),
        (events_pb2.Item(id=1, attributes={"year": events_pb2.AttributeValue()}), "year"),
        (events_pb2.Item(id=1, embedding=[0.1, float("inf")]), "embedding"),
        (events_pb2.Item(id=1, external_id="x" * 2_000), "external_id"),
    ],
)
async def test_a_broken_item_is_named_and_spares_its_neighbours(
    stub: Any, item: Make, broken: events_pb2.Item, named: str
) -> None:
    """As with events."""
    answer = await stub.PutItems(pb.PutItemsRequest(usecase="movies", items=[item(1, 2), broken, item(3, 4)]))

    assert [0, 2] == [accepted.index for accepted in answer.accepted]
    assert [(1, True)] == [(rejected.index, named in rejected.reason) for rejected in answer.rejected]


async def test_an_unknown_use_case_is_the_callers_mistake(stub: Any, event: Make) -> None:
    """The message names the field and what is served."""
    error = await failure(stub.Publish(pb.PublishRequest(usecase="films", events=[event()])))

    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
    assert "usecase" in error.details()
    assert "movies" in error.details()


async def test_too_many_events_are_the_callers_mistake(stub: Any) -> None:
    """Judging them all at once would hold everybody up."""
    events = [events_pb2.Interaction()] * (MAX_RECORDS + 1)

    error = await failure(stub.Publish(request(*events)))

    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()


@pytest.mark.parametrize("method", ["Publish", "PutItems", "PutUsers"])
@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x12\x05\x09\x01"])
async def test_malformed_bytes_are_the_callers_mistake(channel: grpc.aio.Channel, method: str, raw: bytes) -> None:
    """Never INTERNAL or UNKNOWN."""
    error = await failure(channel.unary_unary(f"/{SERVICE}/{method}")(raw))

    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()


async def test_an_empty_batch_is_answered_with_nothing(stub: Any) -> None:
    """Also where the log is away: there is nothing to acknowledge."""
    answer = await stub.Publish(request())

    assert pb.PublishResponse() == answer


async def test_a_stream_answers_each_batch_in_order(stub: Any, event: Make) -> None:
    """One bad event in the middle ends neither its batch nor the stream."""
    batches = [request(event(event_id=1)), request(event(event_id=0), event(event_id=2)), request(event(event_id=3))]

    answers = [answer async for answer in stub.PublishStream(iter(batches))]

    assert [(1, 0), (1, 1), (1, 0)] == [(len(answer.accepted), len(answer.rejected)) for answer in answers]


async def test_a_log_that_does_not_acknowledge_is_unavailable_within_the_deadline(
    stub: Any, event: Make, log: Any
) -> None:
    """Never accepted without the log's word, and the caller hears of it in time to act."""
    log.is_down = True
    began = time.monotonic()

    error = await failure(stub.Publish(request(event()), timeout=0.2))

    assert grpc.StatusCode.UNAVAILABLE == error.code()
    assert time.monotonic() - began < 0.2


async def test_only_rejections_need_no_log(stub: Any, event: Make, log: Any) -> None:
    """A batch without a good event is answered although the log is away."""
    log.is_down = True

    answer = await stub.Publish(request(event(event_id=0)))

    assert 1 == len(answer.rejected)


async def test_no_time_left_is_no_attempt(collector: Any, stub: Any, event: Make, log: Any) -> None:
    """Under 20 ms the answer could not return: nothing is appended."""
    error = await failure(stub.Publish(request(event()), timeout=0.015))

    assert grpc.StatusCode.DEADLINE_EXCEEDED == error.code()
    assert [] == log.events()


async def test_a_full_log_sheds_calls_and_slows_streams(stub: Any, event: Make, log: Any) -> None:
    """A caller of Publish is told to return later; a stream is simply read later."""
    log.is_full = True

    error = await failure(stub.Publish(request(event())))
    answers = [answer async for answer in stub.PublishStream(iter([request(event())]))]

    assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()
    assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
    assert [1] == [len(answer.accepted) for answer in answers]


async def test_calls_do_not_wait_for_each_other(stub: Any, event: Make, log: Any) -> None:
    """While one batch waits for its acknowledgement, the event loop serves others."""
    log.acks.clear()
    waiting = asyncio.ensure_future(stub.Publish(request(event())))
    rejected = await stub.Publish(request(event(event_id=0)))
    assert not waiting.done()

    log.acks.set()

    assert 1 == len(rejected.rejected)
    assert 1 == len((await waiting).accepted)


async def test_fates_are_counted(stub: Any, event: Make, kit: Kit) -> None:
    """By use case, kind and outcome; a rejection under its term."""
    await stub.Publish(request(event(), event(event_id=0), event(action=9)))

    def count(outcome: str) -> float | None:
        labels = {"usecase": "movies", "kind": "events", "outcome": outcome}
        return kit.registry.get_sample_value("collector_records_total", labels)

    assert (1.0, 1.0, 1.0) == (count("accepted"), count("missing_id"), count("unknown_action"))


def test_every_error_has_a_status() -> None:
    """A new error forces a choice."""
    assert set(errors.CollectorError.__subclasses__()) == set(STATUS)
