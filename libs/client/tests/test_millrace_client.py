"""The clients against a server of ours on a real socket."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from millrace.client import (
    Context,
    DeadlineExceeded,
    Entity,
    Event,
    EventClient,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    Priority,
    RankingClient,
    Rejected,
    ServerFailed,
    Unavailable,
)
from millrace.collector.v1 import collector_pb2 as pb
from millrace.collector.v1 import collector_pb2_grpc
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2, ranking_pb2_grpc


class Servers(collector_pb2_grpc.CollectorServiceServicer, ranking_pb2_grpc.RankingServiceServicer):
    """Accepts everything but events of user 13; fails as often as it is told to."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.hang = threading.Event()
        self.hang.set()
        self.offset = 0

    def Publish(self, request: pb.PublishRequest, context: grpc.ServicerContext) -> pb.PublishResponse:  # noqa: N802
        self._seen(request, context)
        answer = pb.PublishResponse()
        for index, event in enumerate(request.events):
            if event.user_id == 13:
                answer.rejected.add(index=index, reason="user_id: 13")
            else:
                answer.accepted.add(index=index, partition=1, offset=self.offset)
                self.offset += 1
        return answer

    def PublishStream(  # noqa: N802
        self, requests: Iterator[pb.PublishRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.PublishResponse]:
        for request in requests:
            yield self.Publish(request, context)

    def PutItems(self, request: pb.PutItemsRequest, context: grpc.ServicerContext) -> pb.PutItemsResponse:  # noqa: N802
        self._seen(request, context)
        return pb.PutItemsResponse(accepted=[pb.Accepted(index=index) for index in range(len(request.items))])

    def PutUsers(self, request: pb.PutUsersRequest, context: grpc.ServicerContext) -> pb.PutUsersResponse:  # noqa: N802
        self._seen(request, context)
        return pb.PutUsersResponse(accepted=[pb.Accepted(index=index) for index in range(len(request.users))])

    def Rank(self, request: ranking_pb2.RankRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._seen(request, context)
        return ranking_pb2.RankResponse(
            request_id=5,
            items=[ranking_pb2.RankedItem(item_id=50, score=0.5, position=1, reason="requested")],
            model_name="movies",
            model_version=3,
            served_by=events_pb2.RUNG_LOCAL_MODEL,
            row=events_pb2.RowVersion(epoch=1, interactions_offset=2, users_offset=3),
            stages=[events_pb2.StageTiming(stage="model", micros=400)],
            feature_age_us=9,
        )

    def Recommend(self, request: ranking_pb2.RecommendRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._seen(request, context)
        return ranking_pb2.RankResponse(served_by=events_pb2.RUNG_POPULAR, reason="no_catalogue")

    def _seen(self, request: Any, context: grpc.ServicerContext) -> None:
        self.hang.wait(5)
        self.requests.append(request)
        if self.failures:
            code, text = self.failures.pop(0)
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "700"),))
            context.abort(code, text)


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def target(servers: Servers) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    collector_pb2_grpc.add_CollectorServiceServicer_to_server(servers, server)
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(servers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    servers.hang.set()
    server.stop(0).wait()


@pytest.fixture
def events(target: str) -> Iterator[EventClient]:
    with EventClient(target) as client:
        yield client


@pytest.fixture
def rankings(target: str) -> Iterator[RankingClient]:
    with RankingClient(target, timeout_s=5.0) as client:
        yield client


def event(user_id: int = 1, **fields: Any) -> Event:
    return Event(user_id=user_id, item_id=2, action=0, **fields)


def test_a_large_batch_is_split_and_answered_by_its_own_indexes(events: EventClient, servers: Servers) -> None:
    """The caller sees one sequence, whatever the requests were."""
    answer = events.publish("movies", [event(user_id=13 if n in (7, 1_100) else 1) for n in range(1_200)])

    assert [500, 500, 200] == [len(request.events) for request in servers.requests]
    assert [Rejected(7, "user_id: 13"), Rejected(1_100, "user_id: 13")] == list(answer.rejected)
    assert [n for n in range(1_200) if n not in (7, 1_100)] == [accepted.index for accepted in answer.accepted]
    assert 1_197 == answer.accepted[-1].offset


def test_large_items_are_split_by_bytes(events: EventClient, servers: Servers) -> None:
    """No request is over the servers' 256 KiB."""
    events.put_items("movies", [Entity(id=n, embedding=[0.5] * 10_000) for n in range(1, 15)])

    assert 14 == sum(len(request.items) for request in servers.requests)
    assert all(request.ByteSize() <= 256 * 1024 for request in servers.requests)
    assert 3 == len(servers.requests)


def test_unavailable_is_retried_with_the_same_event_id(events: EventClient, servers: Servers) -> None:
    """A repeat counts once downstream, because its id is the same."""
    servers.failures = [(grpc.StatusCode.UNAVAILABLE, "away")] * 2

    answer = events.publish("movies", [event()])

    assert 1 == len(answer.accepted)
    assert 1 == len({request.events[0].event_id for request in servers.requests})
    assert 3 == len(servers.requests)


def test_a_retry_that_runs_out_of_time_leaves_the_answer_that_there_was(events: EventClient, servers: Servers) -> None:
    """That the log is away tells more than that the last try was too short."""
    servers.failures = [
        (grpc.StatusCode.UNAVAILABLE, "the log is away"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "5 ms are left"),
    ]

    with pytest.raises(Unavailable, match="the log is away"):
        events.publish("movies", [event()])
    assert 2 == len(servers.requests)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.INTERNAL, ServerFailed),
        (grpc.StatusCode.UNIMPLEMENTED, ServerFailed),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.PERMISSION_DENIED, NotAllowed),
        (grpc.StatusCode.UNAUTHENTICATED, NotAllowed),
    ],
)
def test_other_failures_are_not_retried(
    events: EventClient, servers: Servers, target: str, code: grpc.StatusCode, error: type[Exception]
) -> None:
    """They name the server and its reason."""
    servers.failures = [(code, "usecase: 'x' is not served")]

    with pytest.raises(error, match=f"{target}: usecase"):
        events.publish("movies", [event()])
    assert 1 == len(servers.requests)


def test_a_shed_caller_learns_when_to_return(events: EventClient, servers: Servers) -> None:
    """The server's push-back is a number, not a text."""
    servers.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")]

    with pytest.raises(Overloaded) as raised:
        events.publish("movies", [event()])

    assert 0.7 == raised.value.retry_after_s


def test_no_server_is_unavailable_within_the_deadline() -> None:
    """All attempts share one deadline."""
    with EventClient("127.0.0.1:1", timeout_s=0.2) as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        client.publish("movies", [event()])


def test_a_silent_server_costs_the_deadline_and_no_more(rankings: RankingClient, servers: Servers) -> None:
    """A late answer is a wrong answer."""
    servers.hang.clear()

    with pytest.raises(DeadlineExceeded):
        rankings.rank("movies", 1, [2], timeout_s=0.05)


def test_a_stream_answers_batch_by_batch(events: EventClient) -> None:
    """In order, with indexes within each batch."""
    answers = list(events.publish_stream("movies", [[event(), event(13)], [event()]]))

    assert [(1, 1), (1, 0)] == [(len(answer.accepted), len(answer.rejected)) for answer in answers]
    assert 1 == answers[0].rejected[0].index


def test_an_error_of_the_callers_batches_reaches_the_caller(events: EventClient) -> None:
    """gRPC alone would say that the call was cancelled."""

    def batches() -> Iterator[list[Event]]:
        yield [event()]
        raise LookupError("no more rows")

    with pytest.raises(LookupError, match="no more rows"):
        list(events.publish_stream("movies", batches()))


def test_a_broken_stream_is_translated(events: EventClient, servers: Servers) -> None:
    """Batches without an answer are the caller's to send again."""
    servers.failures = [(grpc.StatusCode.UNAVAILABLE, "draining")]

    with pytest.raises(Unavailable, match="draining"):
        list(events.publish_stream("movies", [[event()]]))


@pytest.mark.parametrize("bad", [lambda: event(user_id=-1), lambda: event(event_id=2**64), lambda: event(position="x")])
def test_a_number_that_does_not_fit_is_named_before_anything_is_sent(
    events: EventClient, servers: Servers, bad: Callable[[], Event]
) -> None:
    """The index is that of the caller's sequence."""
    with pytest.raises(ValueError, match=r"events\[1\]"):
        events.publish("movies", [event(), bad()])
    assert [] == servers.requests


def test_events_get_an_id_and_a_time_of_their_own() -> None:
    """An id per event, made once: sending the event again is a repeat, not a second event."""
    one, two = event(), event()

    assert 0 != one.event_id != two.event_id != 0
    assert one.event_time_us > 1_600_000_000_000_000


def test_attributes_are_sent_by_their_kind(events: EventClient, servers: Servers) -> None:
    """A number, a text, or category codes."""
    events.put_users("movies", [Entity(id=1, attributes={"age": 42, "name": "x", "genres": [3, 4]}, deleted=True)])

    (user,) = servers.requests[0].users
    assert (42.0, "x", [3, 4], True) == (
        user.attributes["age"].number,
        user.attributes["name"].text,
        list(user.attributes["genres"].categories.codes),
        user.deleted,
    )


def test_a_ranking_says_how_it_came_about(rankings: RankingClient, servers: Servers) -> None:
    """Rung, model, row and stages are typed; the request is what the caller asked."""
    ranking = rankings.rank(
        "movies", 196, [50, 60], limit=1, context=Context(country=49, time_us=7), min_interactions_offset=3
    )

    (request,) = servers.requests
    assert (196, [50, 60], 1, 49, 7, 3) == (
        request.user_id,
        list(request.item_ids),
        request.limit,
        request.context.country,
        request.context.time_us,
        request.min_interactions_offset,
    )
    assert ("LOCAL_MODEL", "movies", 3) == (ranking.served_by, ranking.model_name, ranking.model_version)
    assert (50, 0.5, 1, "requested") == (
        ranking.items[0].item_id,
        ranking.items[0].score,
        ranking.items[0].position,
        ranking.items[0].reason,
    )
    assert (1, 2, 3) == (ranking.row.epoch, ranking.row.interactions_offset, ranking.row.users_offset)
    assert {"model": 400} == ranking.stages


def test_without_a_context_the_time_is_absent(rankings: RankingClient, servers: Servers) -> None:
    """Absent means now; 0 would be 1970, and refused."""
    ranking = rankings.recommend("movies", 196, exclude_ids=[4], priority=Priority.BATCH)

    (request,) = servers.requests
    assert not request.context.HasField("time_us")
    assert (ranking_pb2.PRIORITY_BATCH, [4], 10) == (request.priority, list(request.exclude_ids), request.limit)
    assert ("POPULAR", "no_catalogue", ()) == (ranking.served_by, ranking.reason, ranking.items)
