"""Good log records from bad ones: the one place that decides, for `features` (skips) and `archiver` (dead letters).

Protobuf and arrays only. A function of the log: a rebuild judges every record as the first reading did.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from millrace.decisions.v1.decisions_pb2 import Decision
from millrace.events.v1 import events_pb2 as pb

from definitions.events import MAX_ABS_VALUE, EventColumns
from definitions.impressions import PackedImpression, length, numbers, read_packed
from definitions.usecase import UseCase

CLOCK_AHEAD_US = 5 * 60 * 1_000_000
"""How far an event may be ahead of the broker's timestamp of its record."""
MAX_TIME_US = 253_402_300_800 * 1_000_000
"""End of the year 9999: a time beyond it overflows the dates of the stores."""

MALFORMED = pb.DEAD_LETTER_REASON_MALFORMED
WRONG_KEY = pb.DEAD_LETTER_REASON_WRONG_KEY
FUTURE_TIME = pb.DEAD_LETTER_REASON_FUTURE_TIME
MISSING_ID = pb.DEAD_LETTER_REASON_MISSING_ID
UNKNOWN_ACTION = pb.DEAD_LETTER_REASON_UNKNOWN_ACTION
INVALID_VALUE = pb.DEAD_LETTER_REASON_INVALID_VALUE
CORRUPT_BATCH = pb.DEAD_LETTER_REASON_CORRUPT_BATCH


class LogRecord(NamedTuple):
    """One record as it is on the log; `timestamp_us` is the broker's, negative where the record has none."""

    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that no reading can ever use, and why; `reason` is a `DeadLetterReason`."""

    offset: int
    reason: pb.DeadLetterReason
    detail: str
    key: bytes | None
    value: bytes | None

    @property
    def reason_name(self) -> str:
        """The reason as a metric label, such as `wrong_key`."""
        return reason_name(self.reason)


def reason_name(reason: pb.DeadLetterReason) -> str:
    """The reason as a metric label, such as `wrong_key`."""
    return pb.DeadLetterReason.Name(reason).removeprefix("DEAD_LETTER_REASON_").lower()


def corrupt_batch(first_offset: int, last_offset: int, detail: str, raw: bytes) -> BadRecord:
    """A record batch that cannot be read at all, as one bad record at its first offset; `last_offset` is inclusive."""
    return BadRecord(
        first_offset, CORRUPT_BATCH, f"offsets {first_offset} to {last_offset} are lost: {detail}", None, raw
    )


class Problem(NamedTuple):
    """Why a message is refused; `detail` names the field and what it may be."""

    reason: pb.DeadLetterReason
    detail: str


def interaction_problem(usecase: UseCase, event: pb.Interaction, timestamp_us: int) -> Problem | None:
    """What is wrong with one interaction, or None; the collector asks the same with its own clock.

    Args:
        usecase: whose actions count.
        event: the message.
        timestamp_us: the broker's time of the record; negative skips the check against it.
    """
    for field in ("event_id", "user_id", "item_id"):
        if getattr(event, field) == 0:
            return Problem(MISSING_ID, f"{field} is 0; an interaction names its event, its user and its item")
    if event.action >= len(usecase.actions):
        known = ", ".join(f"{place} {name}" for place, name in enumerate(usecase.action_names))
        return Problem(UNKNOWN_ACTION, f"action {event.action} is none of {usecase.name}; it has {known}")
    if not abs(event.value) <= MAX_ABS_VALUE:  # NaN compares false
        return Problem(INVALID_VALUE, f"value {event.value} is not a number within ±{MAX_ABS_VALUE:.0e}")
    if not 0 < event.event_time_us < MAX_TIME_US:
        return Problem(INVALID_VALUE, f"event_time_us {event.event_time_us} is not a time after 1970 in microseconds")
    if timestamp_us >= 0 and event.event_time_us > timestamp_us + CLOCK_AHEAD_US:
        ahead_s = (event.event_time_us - timestamp_us) / 1e6
        return Problem(FUTURE_TIME, f"event_time_us is {ahead_s:.0f} s ahead of the log's clock; 300 s are allowed")
    return None


def decode_interactions(
    usecase: UseCase, partition: int, records: Sequence[LogRecord], *, check_clock: bool = True
) -> tuple[EventColumns, list[BadRecord]]:
    """Columns of the good records of one partition of `interactions`, in their order, and the bad ones.

    Args:
        usecase: whose topic it is.
        partition: stamped on every row.
        records: in offset order.
        check_clock: False only where `timestamp_us` is not the log's own time of arrival.
    """
    messages, good, bad = _parse(pb.Interaction, records)
    columns = _interaction_columns(partition, messages, good)
    refused = refused_interactions(usecase, columns, _keys_of(good), check_clock=check_clock)
    if not refused.any():
        return columns, bad
    bad += [
        refused_record(usecase, good[index], messages[index], check_clock=check_clock)
        for index in np.flatnonzero(refused).tolist()
    ]
    bad.sort(key=lambda each: each.offset)
    return columns.take(~refused), bad


def refused_interactions(
    usecase: UseCase, columns: EventColumns, keys: npt.NDArray[np.uint64], *, check_clock: bool = True
) -> npt.NDArray[np.bool_]:
    """True (n,) for each interaction that `interaction_problem` or its key refuses; the same rules, over columns.

    Args:
        usecase: whose actions count.
        columns: n interactions.
        keys: uint64 (n,), each record's key as an id; 0 where it is none.
        check_clock: as for `decode_interactions`.
    """
    refused: npt.NDArray[np.bool_] = (
        (columns.event_id == 0)
        | (columns.user_id == 0)
        | (columns.item_id == 0)
        | (keys != columns.user_id)
        | (columns.action >= len(usecase.actions))
        | ~(np.abs(columns.value) <= MAX_ABS_VALUE)
        | (columns.event_time_us <= 0)
        | (columns.event_time_us >= MAX_TIME_US)
    )
    if check_clock:
        refused |= (columns.timestamp_us >= 0) & (columns.event_time_us - columns.timestamp_us > CLOCK_AHEAD_US)
    return refused


def refused_record(usecase: UseCase, record: LogRecord, message: pb.Interaction, *, check_clock: bool) -> BadRecord:
    """Why `refused_interactions` refuses this one; AssertionError where the two disagree."""
    # The ids first: a record without its ids cannot have the right key either.
    problem = interaction_problem(usecase, message, record.timestamp_us if check_clock else -1)
    if problem is None or problem.reason != MISSING_ID:
        problem = _key_problem(record.key, message.user_id, "user_id") or problem
    if problem is None:
        raise AssertionError(f"offset {record.offset}: the column check and the record check disagree")
    return BadRecord(record.offset, *problem, record.key, record.value)


def malformed_record(record: LogRecord, name: str) -> BadRecord:
    """The record as one whose value is no message of the type `name`."""
    detail = f"no value; {name} is expected" if record.value is None else f"the value is no {name}"
    return BadRecord(record.offset, MALFORMED, detail, record.key, record.value)


def decode_items(
    partition: int,  # noqa: ARG001  (same shape as its siblings)
    records: Sequence[LogRecord],
) -> tuple[list[tuple[int, pb.Item]], list[BadRecord]]:
    """Offset and message of the good records of `items`; a tombstone is an `Item` with `deleted` set."""
    return _decode_entities(pb.Item, records)


def decode_users(
    partition: int,  # noqa: ARG001  (same shape as its siblings)
    records: Sequence[LogRecord],
) -> tuple[list[tuple[int, pb.User]], list[BadRecord]]:
    """Offset and message of the good records of `users`; a tombstone is a `User` with `deleted` set."""
    return _decode_entities(pb.User, records)


def decode_impressions(
    partition: int,  # noqa: ARG001  (same shape as its siblings)
    records: Sequence[LogRecord],
) -> tuple[list[tuple[int, PackedImpression]], list[BadRecord]]:
    """Offset and message of the good records of `impressions`. User 0 is a caller that named none."""
    messages, good, bad = _parsed(read_packed, pb.Impression.DESCRIPTOR.name, records)
    finite = _are_finite(messages)  # almost always
    kept: list[tuple[int, PackedImpression]] = []
    for record, message in zip(good, messages, strict=True):
        problem = _impression_problem(message) or _key_problem(record.key, message.user_id, "user_id")
        if problem is None and not (finite or _are_finite([message])):
            problem = Problem(INVALID_VALUE, "scores or propensities hold a number that is not finite")
        if problem is None:
            kept.append((record.offset, message))
        else:
            bad.append(BadRecord(record.offset, *problem, record.key, record.value))
    bad.sort(key=lambda each: each.offset)
    return kept, bad


def decode_decisions(
    partition: int,  # noqa: ARG001  (same shape as its siblings)
    records: Sequence[LogRecord],
) -> tuple[list[tuple[int, Decision]], list[BadRecord]]:
    """Offset and message of the good records of `decisions`; their key is the use case in UTF-8."""
    messages, good, bad = _parse(Decision, records)
    kept: list[tuple[int, Decision]] = []
    for record, message in zip(good, messages, strict=True):
        if not message.usecase:
            bad.append(BadRecord(record.offset, MISSING_ID, "usecase is empty", record.key, record.value))
        elif record.key != message.usecase.encode():
            detail = f"the record's key is not its usecase {message.usecase!r}"
            bad.append(BadRecord(record.offset, WRONG_KEY, detail, record.key, record.value))
        else:
            kept.append((record.offset, message))
    bad.sort(key=lambda each: each.offset)
    return kept, bad


def entity_problem(message: pb.Item | pb.User) -> Problem | None:
    """What is wrong with one item or user, or None; the collector asks the same."""
    if message.id == 0:
        return Problem(MISSING_ID, "id is 0")
    for name, value in message.attributes.items():
        if value.WhichOneof("kind") is None:
            return Problem(
                INVALID_VALUE, f"attribute {name!r} has no value; leave it out or set number, categories or text"
            )
        if value.WhichOneof("kind") == "number" and not np.isfinite(value.number):
            return Problem(INVALID_VALUE, f"attribute {name!r} is {value.number}; a number must be finite")
    if message.embedding and not np.isfinite(np.fromiter(message.embedding, np.float32)).all():
        return Problem(INVALID_VALUE, "embedding holds a number that is not finite")
    return None


Read = TypeVar("Read")
Message = TypeVar("Message", pb.Interaction, pb.Item, pb.User, Decision)
Entity = TypeVar("Entity", pb.Item, pb.User)


def _parse(
    message_type: type[Message], records: Sequence[LogRecord]
) -> tuple[list[Message], list[LogRecord], list[BadRecord]]:
    return _parsed(message_type.FromString, message_type.DESCRIPTOR.name, records)


def _parsed(
    parse: Callable[[bytes], Read], name: str, records: Sequence[LogRecord]
) -> tuple[list[Read], list[LogRecord], list[BadRecord]]:
    """What `parse` makes of the values and their records, and the records that it refuses: no `name`."""
    try:  # almost every batch is whole
        return [parse(record.value) for record in records], list(records), []  # type: ignore[arg-type]  # None raises
    except (DecodeError, TypeError):
        pass
    messages: list[Read] = []
    good: list[LogRecord] = []
    bad: list[BadRecord] = []
    for record in records:
        try:
            messages.append(parse(record.value))  # type: ignore[arg-type]  # None raises
        except (DecodeError, TypeError):
            bad.append(malformed_record(record, name))
        else:
            good.append(record)
    return messages, good, bad


def _decode_entities(
    message_type: type[Entity], records: Sequence[LogRecord]
) -> tuple[list[tuple[int, Entity]], list[BadRecord]]:
    present = [record.value is not None for record in records]
    messages, good, bad = _parse(message_type, list(compress(records, present)))
    kept: list[tuple[int, Entity]] = []
    for record, message in zip(good, messages, strict=True):
        problem = entity_problem(message) or _key_problem(record.key, message.id, "id")
        if problem is None:
            kept.append((record.offset, message))
        else:
            bad.append(BadRecord(record.offset, *problem, record.key, record.value))
    for record in compress(records, (not each for each in present)):
        entity_id = int.from_bytes(record.key, "big") if record.key is not None and len(record.key) == 8 else 0
        if entity_id:  # compaction's end of a key: all that it still says is "gone"
            kept.append((record.offset, message_type(id=entity_id, deleted=True)))
        else:
            bad.append(BadRecord(record.offset, WRONG_KEY, "a tombstone's key must be an id", record.key, None))
    kept.sort(key=lambda each: each[0])
    bad.sort(key=lambda each: each.offset)
    return kept, bad


def _impression_problem(message: PackedImpression) -> Problem | None:
    if message.request_id == 0:
        return Problem(MISSING_ID, "request_id is 0")
    if not 0 < message.time_us < MAX_TIME_US:
        return Problem(INVALID_VALUE, f"time_us {message.time_us} is not a time after 1970 in microseconds")
    items = length(message, "item_ids")
    for field in ("scores", "propensities", "positions", "reasons"):
        found = len(message.reasons) if field == "reasons" else length(message, field)
        if found not in (0, items):
            return Problem(INVALID_VALUE, f"{field} has {found} entries for {items} item_ids")
    if len(message.features) % (4 * items or 1) or (message.features and not items):
        return Problem(
            INVALID_VALUE, f"features has {len(message.features)} bytes: no float32 rows of {items} item_ids"
        )
    if len(message.int_features) % 8:
        return Problem(INVALID_VALUE, f"int_features has {len(message.int_features)} bytes: no int64 numbers")
    return None


def _are_finite(messages: Sequence[PackedImpression]) -> bool:
    """Whether all their scores and propensities are numbers."""
    return all(bool(np.isfinite(numbers(messages, name)).all()) for name in ("scores", "propensities"))


def _key_problem(key: bytes | None, entity_id: int, field: str) -> Problem | None:
    if key is not None and len(key) == 8 and int.from_bytes(key, "big") == entity_id:
        return None
    shown = "none" if key is None else f"{len(key)} bytes" if len(key) != 8 else str(int.from_bytes(key, "big"))
    return Problem(WRONG_KEY, f"the record's key ({shown}) is not its {field} {entity_id} as 8 bytes big-endian")


def _keys_of(records: Sequence[LogRecord]) -> npt.NDArray[np.uint64]:
    """The keys as ids; a key that is none becomes 0, which no good record has."""
    joined = b"".join(
        [record.key if record.key is not None and len(record.key) == 8 else bytes(8) for record in records]
    )
    return np.frombuffer(joined, ">u8").astype(np.uint64)


def _interaction_columns(
    partition: int, messages: Sequence[pb.Interaction], records: Sequence[LogRecord]
) -> EventColumns:
    count = len(messages)
    return EventColumns(
        event_id=np.fromiter([m.event_id for m in messages], np.uint64, count),
        user_id=np.fromiter([m.user_id for m in messages], np.uint64, count),
        item_id=np.fromiter([m.item_id for m in messages], np.uint64, count),
        action=np.fromiter([m.action for m in messages], np.uint32, count),
        value=np.fromiter([m.value for m in messages], np.float32, count),
        event_time_us=np.fromiter([m.event_time_us for m in messages], np.int64, count),
        request_id=np.fromiter([m.request_id for m in messages], np.uint64, count),
        position=np.fromiter([m.position for m in messages], np.uint32, count),
        session_id=np.fromiter([m.session_id for m in messages], np.uint64, count),
        device=np.fromiter([m.device for m in messages], np.uint32, count),
        surface=np.fromiter([m.surface for m in messages], np.uint32, count),
        country=np.fromiter([m.country for m in messages], np.uint32, count),
        category=np.fromiter([m.category for m in messages], np.uint32, count),
        partition=np.full(count, partition, np.int32),
        offset=np.fromiter([r.offset for r in records], np.int64, count),
        timestamp_us=np.fromiter([r.timestamp_us for r in records], np.int64, count),
    )
