"""Good records become columns; bad ones are told apart, each with its reason."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from definitions.column_decode import decode_interactions_columns
from definitions.events import EventColumns
from definitions.impressions import packed
from definitions.record_columns import RecordColumns
from definitions.records import (
    CLOCK_AHEAD_US,
    BadRecord,
    LogRecord,
    decode_impressions,
    decode_interactions,
    decode_items,
    decode_users,
    interaction_problem,
)
from definitions.usecase import UseCase, load_usecase
from millrace.events.v1 import events_pb2 as pb

NOW_US = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def usecase(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    path: Path = tmp_path_factory.mktemp("usecases") / "shop.yaml"
    path.write_text("usecase: shop\nactions: [{name: view}, {name: buy, label: 1}]\n")
    return load_usecase(path)


Decode = Callable[..., tuple[EventColumns, list[BadRecord]]]


@pytest.fixture(params=["records", "columns"])
def decode(request: pytest.FixtureRequest) -> Decode:
    """Both ways to read interactions; there is one answer."""
    if request.param == "records":
        return decode_interactions

    def by_columns(
        usecase: UseCase, partition: int, records: list[LogRecord], **more: Any
    ) -> tuple[EventColumns, list[BadRecord]]:
        return decode_interactions_columns(usecase, partition, RecordColumns.of(records), **more)

    return by_columns


def key(entity_id: int) -> bytes:
    return entity_id.to_bytes(8, "big")


def event(**changed: object) -> pb.Interaction:
    fields: dict[str, object] = {
        "event_id": 11,
        "user_id": 5,
        "item_id": 7,
        "action": 1,
        "value": 2.5,
        "event_time_us": NOW_US,
    }
    return pb.Interaction(**(fields | changed))  # type: ignore[arg-type]


def record(message: pb.Interaction, offset: int = 0, record_key: bytes | None = b"") -> LogRecord:
    return LogRecord(
        offset, NOW_US, key(message.user_id) if record_key == b"" else record_key, message.SerializeToString()
    )


def test_every_field_of_a_good_event_arrives(usecase: UseCase, decode: Decode) -> None:
    """A column holds what the message held, and where it lay on the log."""
    full = pb.Interaction(
        event_id=2**64 - 1,
        user_id=2,
        item_id=3,
        action=1,
        value=-4.5,
        event_time_us=NOW_US - 6,
        request_id=7,
        position=8,
        session_id=9,
        device=10,
        surface=11,
        country=12,
        category=13,
    )

    columns, bad = decode(usecase, 3, [record(full, offset=42)])

    assert not bad
    assert len(columns) == 1
    for descriptor in pb.Interaction.DESCRIPTOR.fields:
        assert getattr(full, descriptor.name) == getattr(columns, descriptor.name)[0]
    assert (columns.partition[0], columns.offset[0], columns.timestamp_us[0]) == (3, 42, NOW_US)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"event_id": 0}, "missing_id"),
        ({"user_id": 0}, "missing_id"),
        ({"item_id": 0}, "missing_id"),
        ({"action": 2}, "unknown_action"),
        ({"value": math.nan}, "invalid_value"),
        ({"value": math.inf}, "invalid_value"),
        ({"value": -3e9}, "invalid_value"),
        ({"event_time_us": 0}, "invalid_value"),
        ({"event_time_us": -(2**63)}, "invalid_value"),
        ({"event_time_us": 2**63 - 1}, "invalid_value"),
        ({"event_time_us": NOW_US + CLOCK_AHEAD_US + 1}, "future_time"),
    ],
)
def test_a_bad_event_is_named_and_its_neighbours_stay(
    usecase: UseCase, decode: Decode, changed: dict[str, object], reason: str
) -> None:
    """One bad record costs itself alone."""
    records = [record(event(), 10), record(event(**changed), 11), record(event(event_id=12), 13)]

    columns, bad = decode(usecase, 0, records)

    assert columns.offset.tolist() == [10, 13]
    assert [(11, reason, records[1].value)] == [(each.offset, each.reason_name, each.value) for each in bad]


@pytest.mark.parametrize("wrong", [None, b"5", key(6), key(5) + b"\0", key(0)])
def test_a_key_that_is_not_the_user_is_refused(usecase: UseCase, decode: Decode, wrong: bytes | None) -> None:
    """Such a record may lie in another partition than its user's state."""
    columns, bad = decode(usecase, 0, [record(event(), 4, wrong)])

    assert len(columns) == 0
    assert [each.reason_name for each in bad] == ["wrong_key"]
    assert wrong == bad[0].key


@pytest.mark.parametrize("value", [None, b"\xff\xff\xff", event().SerializeToString()[:-3]])
def test_bytes_that_are_no_event_are_malformed(usecase: UseCase, decode: Decode, value: bytes | None) -> None:
    """Neither a null value nor cut bytes raise."""
    columns, bad = decode(usecase, 0, [LogRecord(1, NOW_US, key(5), value), record(event(), 2)])

    assert columns.offset.tolist() == [2]
    assert [(each.offset, each.reason_name) for each in bad] == [(1, "malformed")]


def test_the_clock_is_the_brokers(usecase: UseCase, decode: Decode) -> None:
    """Exactly five minutes ahead is allowed, the past always, and a record without timestamp is not judged."""
    exact = record(event(event_time_us=NOW_US + CLOCK_AHEAD_US), 1)
    old = record(event(event_time_us=1), 2)
    unstamped = record(event(event_time_us=NOW_US * 2), 3)._replace(timestamp_us=-1)
    future = record(event(event_time_us=NOW_US * 2), 4)

    assert not decode(usecase, 0, [exact, old, unstamped])[1]
    assert not decode(usecase, 0, [future], check_clock=False)[1]
    assert len(decode(usecase, 0, [future])[1]) == 1


def test_no_records_are_no_events(usecase: UseCase, decode: Decode) -> None:
    """An empty batch is normal."""
    columns, bad = decode(usecase, 0, [])

    assert (len(columns), len(bad)) == (0, 0)


def test_columns_and_single_records_are_judged_alike(usecase: UseCase, decode: Decode) -> None:
    """The collector asks about one event, consumers about batches: the answers agree on mutated bytes."""
    random_bytes = random.Random(3)  # noqa: S311  seeded on purpose
    records = []
    for offset in range(2_000):
        raw = bytearray(event(action=random_bytes.choice([0, 1, 2])).SerializeToString())
        for _ in range(random_bytes.choice([0, 1, 2])):
            raw[random_bytes.randrange(len(raw))] = random_bytes.randrange(256)
        records.append(LogRecord(offset, NOW_US, key(5), bytes(raw)))

    columns, bad = decode(usecase, 0, records)

    assert len(records) == len(columns) + len(bad)
    assert 300 < len(bad) < 1_700
    by_offset = {each.offset: each for each in bad}
    for each in records:
        assert each.value is not None
        try:
            message = pb.Interaction.FromString(each.value)
        except Exception:  # noqa: BLE001  protobuf's own error is not the point here
            assert by_offset[each.offset].reason_name == "malformed"
            continue
        problem = interaction_problem(usecase, message, NOW_US)
        if problem is None and message.user_id == 5:
            assert each.offset not in by_offset
        elif problem is not None and message.user_id == 5:
            assert problem.reason == by_offset[each.offset].reason


def test_a_tombstone_says_that_the_entity_is_gone() -> None:
    """After compaction nothing but the key is left of an erased user."""
    users, bad = decode_users(0, [LogRecord(1, NOW_US, key(9), None), LogRecord(2, NOW_US, b"short", None)])

    assert [(1, pb.User(id=9, deleted=True))] == users
    assert [(each.offset, each.reason_name) for each in bad] == [(2, "wrong_key")]


def test_entities_keep_log_order_and_lose_only_the_bad() -> None:
    """Wrong key, id 0, a number that is not finite, an empty attribute and garbage are refused."""
    good = pb.Item(id=1, external_id="x", attributes={"year": pb.AttributeValue(number=1990)})
    records = [
        LogRecord(0, NOW_US, key(1), good.SerializeToString()),
        LogRecord(1, NOW_US, key(2), good.SerializeToString()),
        LogRecord(2, NOW_US, key(3), None),
        LogRecord(3, NOW_US, key(0), pb.Item().SerializeToString()),
        LogRecord(4, NOW_US, key(1), b"\x0f"),
        LogRecord(
            5,
            NOW_US,
            key(1),
            pb.Item(id=1, attributes={"year": pb.AttributeValue(number=math.nan)}).SerializeToString(),
        ),
        LogRecord(6, NOW_US, key(1), pb.Item(id=1, attributes={"year": pb.AttributeValue()}).SerializeToString()),
        LogRecord(7, NOW_US, key(1), pb.Item(id=1, embedding=[math.inf]).SerializeToString()),
    ]

    items, bad = decode_items(0, records)

    assert [(0, good), (2, pb.Item(id=3, deleted=True))] == items
    assert [(each.offset, each.reason_name) for each in bad] == [
        (1, "wrong_key"),
        (3, "missing_id"),
        (4, "malformed"),
        (5, "invalid_value"),
        (6, "invalid_value"),
        (7, "invalid_value"),
    ]


def test_an_impression_must_be_rectangular() -> None:
    """Arrays that run over the candidates have one entry each; user 0 is a caller that named none."""
    features = np.zeros((2, 3), np.float32).tobytes()
    good = pb.Impression(request_id=1, time_us=NOW_US, item_ids=[1, 2], scores=[0.5, 0.4], features=features)
    short = pb.Impression(request_id=1, time_us=NOW_US, item_ids=[1, 2], scores=[0.5])
    ragged = pb.Impression(request_id=1, time_us=NOW_US, item_ids=[1, 2], features=features[:-4])
    nan = pb.Impression(request_id=1, time_us=NOW_US, item_ids=[1], scores=[math.nan])
    unnamed = pb.Impression(time_us=NOW_US)

    kept, bad = decode_impressions(
        0,
        [
            LogRecord(i, NOW_US, key(0), each.SerializeToString())
            for i, each in enumerate([good, short, ragged, nan, unnamed])
        ],
    )

    assert [(0, packed(good))] == kept
    assert [each.reason_name for each in bad] == ["invalid_value", "invalid_value", "invalid_value", "missing_id"]
