"""From a data set to the log: catalogue and users first, then the events over one stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from definitions.events import EventColumns
from millrace.client import Entity, Event, EventClient, MillraceError, Rejected
from millrace.events.v1 import events_pb2 as pb

from pipelines.datasets import Dataset
from pipelines.errors import UnavailableError
from pipelines.progress import SILENT, Progress

BATCH = 500
"""Events a message of the stream: the collector answers each batch when all of it is acknowledged."""


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What is on the log now. `next_offsets`: partition of `interactions` -> 1 + its newest event of this data set.

    `rejected`: what is not, each record by name, and why.
    """

    items: int
    users: int
    events: int
    rejected: tuple[str, ...]
    next_offsets: dict[int, int]


def as_events(events: EventColumns) -> list[Event]:
    """Columns as the client's type, in their order; place on the log and broker time are not part of an event."""
    names = [name for name in Event.__dataclass_fields__ if hasattr(events, name)]
    columns = [getattr(events, name).tolist() for name in names]
    return [Event(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def publish_dataset(dataset: Dataset, collector: str, usecase: str, *, progress: Progress = SILENT) -> PublishResult:
    """Publish catalogue, users and events, and return when all of it is acknowledged.

    A repeat adds nothing twice: the data set's event ids are a function of its rows.

    Raises:
        UnavailableError: the collector at `collector` (host:port) does not answer.
    """
    try:
        with EventClient(collector, timeout_s=30.0) as client:
            progress.stage("publish items and users", len(dataset.items) + len(dataset.users))
            items = client.put_items(usecase, [as_entity(item) for item in dataset.items])
            progress.advance(len(dataset.items))
            users = client.put_users(usecase, [as_entity(user) for user in dataset.users])
            progress.advance(len(dataset.users))
            progress.stage("publish events", len(dataset.interactions))
            rejected = [*_named("item", dataset.items, items.rejected), *_named("user", dataset.users, users.rejected)]
            next_offsets, accepted = dict[int, int](), 0
            for number, answer in enumerate(client.publish_stream(usecase, _batches(dataset.interactions))):
                rejected += [
                    f"{_place(dataset.interactions, number * BATCH + each.index)}: {each.reason}"
                    for each in answer.rejected
                ]
                for each in answer.accepted:
                    next_offsets[each.partition] = max(each.offset + 1, next_offsets.get(each.partition, 0))
                accepted += len(answer.accepted)
                progress.advance(len(answer.accepted) + len(answer.rejected))
    except MillraceError as exc:
        raise UnavailableError(f"collector {collector}: {exc}; is the stack up? Try: millrace up") from exc
    return PublishResult(len(items.accepted), len(users.accepted), accepted, tuple(rejected), next_offsets)


def _named(kind: str, sent: Sequence[pb.Item | pb.User], rejected: Sequence[Rejected]) -> Iterator[str]:
    for each in rejected:
        yield f"{kind} {sent[each.index].external_id or sent[each.index].id}: {each.reason}"


def _place(events: EventColumns, row: int) -> str:
    """An event by what it says: files are sorted on their way, so a row number would lead nowhere."""
    user, item, time_us = events.user_id[row], events.item_id[row], events.event_time_us[row]
    return f"event of user {user} on item {item} at {time_us} us"


def _batches(events: EventColumns) -> Iterator[Sequence[Event]]:
    for begin in range(0, len(events), BATCH):
        yield as_events(events.take(slice(begin, begin + BATCH)))


def as_entity(message: pb.Item | pb.User) -> Entity:
    """An item or a user as the client's type."""
    return Entity(
        id=message.id,
        external_id=message.external_id,
        attributes={name: _value(value) for name, value in message.attributes.items()},
        embedding=tuple(message.embedding),
        deleted=message.deleted,
    )


def _value(value: pb.AttributeValue) -> float | str | tuple[int, ...]:
    kind = value.WhichOneof("kind")
    if kind == "number":
        return value.number
    return value.text if kind == "text" else tuple(value.categories.codes)
