"""Report what people do, and what the catalogue holds."""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import grpc
from millrace.client import _channel
from millrace.client.access import Access, Tls, Token
from millrace.collector.v1 import collector_pb2 as pb
from millrace.events.v1 import events_pb2

MAX_BATCH = 500
PUBLISH_S = 5.0
SERVICE = f"/{pb.DESCRIPTOR.services_by_name['CollectorService'].full_name}"

Attribute = float | int | str | Sequence[int]


def new_event_id() -> int:
    """A random unsigned 64-bit id, never 0; keep it with the event, so that sending it again counts once."""
    return secrets.randbits(64) or 1


def now_us() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that a user did.

    `action` is the place in the use case's `actions`; `value` what it carries (rating, seconds, price). 0 means
    "absent" for ids and codes. Keep `event_id` when you send an event again: a repeat counts once.
    """

    user_id: int
    item_id: int
    action: int
    value: float = 0.0
    event_time_us: int = field(default_factory=now_us)
    event_id: int = field(default_factory=new_event_id)
    request_id: int = 0
    position: int = 0
    session_id: int = 0
    device: int = 0
    surface: int = 0
    country: int = 0
    category: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """An item or a user. Attributes: a number, a text, or a sequence of category codes. `deleted` removes (erases)."""

    id: int
    external_id: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    embedding: Sequence[float] = ()
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where the record at `index` lies on the log. `offset + 1` is what `min_interactions_offset` waits for."""

    index: int
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why the record at `index` was refused: field, what is wrong, remedy. Sending it again as it is never helps."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Published:
    """The answer to a batch; indexes are places in the sequence that was given."""

    accepted: tuple[Accepted, ...]
    rejected: tuple[Rejected, ...]


class _Answer(Protocol):
    @property
    def accepted(self) -> Any: ...
    @property
    def rejected(self) -> Any: ...


class EventClient:
    """Sends to the collector. Thread-safe; close it, or use it as a context manager.

    Example:
        >>> with EventClient("127.0.0.1:50052") as client:  # doctest: +SKIP
        ...     answer = client.publish("movies", [Event(user_id=196, item_id=242, action=2, value=4.0)])
        ...     assert not answer.rejected
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = PUBLISH_S,
        tls: Tls | None = None,
        token: Token | None = None,
    ) -> None:
        """`target` is `host:port`, several of them, or all in one text (`Access.of`).

        `timeout_s` is the deadline of each request unless a call says otherwise. `token`: a text, a file that is read
        again when it changes, or what returns one. ValueError if these do not go together.
        """
        self._timeout_s = timeout_s
        self._connection = _channel.Connection(Access.of(target, tls, token), hedging=None)
        method = self._connection.method
        self._publish = method(f"{SERVICE}/Publish", pb.PublishRequest, pb.PublishResponse)
        self._put_items = method(f"{SERVICE}/PutItems", pb.PutItemsRequest, pb.PutItemsResponse)
        self._put_users = method(f"{SERVICE}/PutUsers", pb.PutUsersRequest, pb.PutUsersResponse)

    def publish(self, usecase: str, events: Sequence[Event], *, timeout_s: float | None = None) -> Published:
        """Send events, in requests of at most 500; returns when the log has every accepted one on all its replicas.

        UNAVAILABLE is retried within the deadline: a repeat carries the same `event_id` and counts once.

        Raises:
            InvalidRequest: unknown use case.
            DeadlineExceeded, Unavailable: the fate of the events is unknown; publish them again as they are.
            Overloaded: shed.
            ValueError: a number is outside what its field holds.
        """
        messages = [_event(index, event) for index, event in enumerate(events)]
        return self._send(
            self._publish, lambda part: pb.PublishRequest(usecase=usecase, events=part), messages, timeout_s
        )

    def publish_stream(
        self, usecase: str, batches: Iterable[Sequence[Event]], *, timeout_s: float | None = None
    ) -> Iterator[Published]:
        """Send batches over one stream and yield an answer for each, in order. For bulk: the next is sent meanwhile.

        `timeout_s` bounds the whole stream (absent: no bound). A broken stream raises: batches without an answer may be
        on the log; publish them again as they are.

        Raises:
            MillraceError: as `publish`. There are no retries.
            ValueError: a batch does not fit one request (256 KiB), or as `publish`.
        """

        def requests() -> Iterator[pb.PublishRequest]:
            for batch in batches:
                request = pb.PublishRequest(
                    usecase=usecase, events=[_event(index, event) for index, event in enumerate(batch)]
                )
                if request.ByteSize() > _channel.MAX_MESSAGE_BYTES:
                    raise ValueError(f"batch: {len(batch)} events are {request.ByteSize()} bytes; send fewer at once")
                yield request

        source = _Source(requests())
        target, method = self._connection.stream(f"{SERVICE}/PublishStream", pb.PublishRequest, pb.PublishResponse)
        try:
            for answer in method(iter(source), timeout=timeout_s, metadata=self._connection.metadata()):
                yield _published(0, answer)
        except grpc.RpcError as exc:
            if source.failed is not None:
                raise source.failed from exc
            raise _channel.translate(exc, target) from exc

    def put_items(self, usecase: str, items: Sequence[Entity], *, timeout_s: float | None = None) -> Published:
        """Add, replace or (with `deleted`) remove items of the catalogue. Errors as `publish`."""
        messages = [_entity(events_pb2.Item, index, item) for index, item in enumerate(items)]
        return self._send(
            self._put_items, lambda part: pb.PutItemsRequest(usecase=usecase, items=part), messages, timeout_s
        )

    def put_users(self, usecase: str, users: Sequence[Entity], *, timeout_s: float | None = None) -> Published:
        """Add or replace users' attributes, or (with `deleted`) erase users for good. Errors as `publish`."""
        messages = [_entity(events_pb2.User, index, user) for index, user in enumerate(users)]
        return self._send(
            self._put_users, lambda part: pb.PutUsersRequest(usecase=usecase, users=part), messages, timeout_s
        )

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _send(self, method: Any, request_of: Any, messages: Sequence[Any], timeout_s: float | None) -> Published:
        deadline_s = self._timeout_s if timeout_s is None else timeout_s
        parts = [
            _published(begin, self._connection.call(method, request_of(part), deadline_s))
            for begin, part in _channel.split(messages, lambda message: message.ByteSize(), MAX_BATCH)
        ]
        return Published(
            tuple(accepted for part in parts for accepted in part.accepted),
            tuple(rejected for part in parts for rejected in part.rejected),
        )


class _Source:
    """Requests for a stream; keeps the caller's own error, which gRPC would turn into a cancelled call."""

    def __init__(self, requests: Iterator[pb.PublishRequest]) -> None:
        self._requests = requests
        self.failed: Exception | None = None

    def __iter__(self) -> Iterator[pb.PublishRequest]:
        try:
            yield from self._requests
        except Exception as exc:
            self.failed = exc
            raise


def _event(index: int, event: Event) -> events_pb2.Interaction:
    try:
        return events_pb2.Interaction(
            event_id=event.event_id,
            user_id=event.user_id,
            item_id=event.item_id,
            action=event.action,
            value=event.value,
            event_time_us=event.event_time_us,
            request_id=event.request_id,
            position=event.position,
            session_id=event.session_id,
            device=event.device,
            surface=event.surface,
            country=event.country,
            category=event.category,
        )
    except (ValueError, TypeError) as exc:
        raise ValueError(f"events[{index}]: {exc}") from exc


def _entity(kind: Any, index: int, entity: Entity) -> Any:
    try:
        return kind(
            id=entity.id,
            external_id=entity.external_id,
            attributes={name: _attribute(value) for name, value in entity.attributes.items()},
            embedding=entity.embedding,
            deleted=entity.deleted,
        )
    except (ValueError, TypeError) as exc:
        raise ValueError(f"{kind.DESCRIPTOR.name.lower()}s[{index}]: {exc}") from exc


def _attribute(value: Attribute) -> events_pb2.AttributeValue:
    if isinstance(value, str):
        return events_pb2.AttributeValue(text=value)
    if isinstance(value, int | float):
        return events_pb2.AttributeValue(number=value)
    return events_pb2.AttributeValue(categories=events_pb2.CategoryCodes(codes=value))


def _published(begin: int, answer: _Answer) -> Published:
    return Published(
        tuple(Accepted(begin + each.index, each.partition, each.offset) for each in answer.accepted),
        tuple(Rejected(begin + each.index, each.reason) for each in answer.rejected),
    )
