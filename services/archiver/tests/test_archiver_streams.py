"""Real decoding into a real lake: what each topic's records become."""

from pathlib import Path

import pytest
from archiver.kafka import to_letter
from archiver.log import Part, Place, Stream
from archiver.streams import streams
from definitions.records import MALFORMED, BadRecord, LogRecord
from definitions.usecase import UseCase, load_usecase
from millrace.decisions.v1 import decisions_pb2
from millrace.events.v1 import events_pb2 as pb
from servicekit.topics import id_key
from stores.errors import NewerWriter
from stores.offline import Lake

NOW_US = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """A small use case."""
    path = tmp_path_factory.mktemp("usecases") / "movies.yaml"
    path.write_text(
        "usecase: movies\n"
        "actions: [{name: view, label: 0}, {name: rate, label: 1}]\n"
        "features: [{name: u_rated, of: user, group: base, kind: count, action: rate, windows: [all]}]\n"
    )
    return load_usecase(path)


@pytest.fixture
def found(movies: UseCase, tmp_path: Path) -> dict[str, Stream]:
    """All streams, over an empty lake."""
    return {each.topic: each for each in streams([movies], "log-1", lambda name: Lake(tmp_path, name))}


def test_each_topic_has_a_table(found: dict[str, Stream]) -> None:
    """Everything that a use case has on the log, and the shared decisions."""
    kinds = {"movies.interactions", "movies.impressions", "movies.users", "movies.items"}
    assert set(found) == {*kinds, "decisions"}
    for stream in found.values():
        rows, bad = stream.decode(0, [])
        assert (len(rows), list(bad)) == (0, [])


@pytest.mark.parametrize(
    ("topic", "key", "message"),
    [
        (
            "movies.interactions",
            id_key(2**64 - 1),
            pb.Interaction(event_id=1, user_id=2**64 - 1, item_id=3, event_time_us=NOW_US),
        ),
        ("movies.impressions", id_key(7), pb.Impression(request_id=1, user_id=7, time_us=NOW_US)),
        ("movies.users", id_key(7), pb.User(id=7)),
        ("movies.items", id_key(7), pb.Item(id=7)),
        ("decisions", b"movies", decisions_pb2.Decision(usecase="movies")),
    ],
)
def test_good_records_become_rows_and_bad_ones_letters(
    found: dict[str, Stream], topic: str, key: bytes, message: pb.Interaction
) -> None:
    """Garbage, a wrong key, an absent value: none of them stops its neighbours; each keeps its offset."""
    good = message.SerializeToString()
    records = [
        LogRecord(3, NOW_US, key, good),
        LogRecord(4, NOW_US, key, b"\xff garbage"),
        LogRecord(6, NOW_US, b"nobody", good),
        LogRecord(7, NOW_US, None, None),
        LogRecord(9, NOW_US, key, good),
    ]
    place = Place(topic, 2)
    rows, bad = found[topic].decode(2, records)

    assert [each.offset for each in bad] == [4, 6, 7]
    assert rows.select(["log_id", "partition", "offset", "timestamp_us"]).to_pylist() == [
        {"log_id": "log-1", "partition": 2, "offset": offset, "timestamp_us": NOW_US} for offset in (3, 9)
    ]
    table = found[topic].table
    assert table.append([Part(place, rows, 10, expected=0)]) == 2
    assert table.next_offset(place) == 10
    assert table.next_offset(Place(topic, 1)) == 0
    with pytest.raises(NewerWriter):
        table.append([Part(place, rows, 11, expected=9)])


def test_the_end_of_a_key_is_a_row(found: dict[str, Stream]) -> None:
    """Compaction's tombstone of an item says that it is gone."""
    rows, bad = found["movies.items"].decode(0, [LogRecord(0, NOW_US, id_key(7), None)])

    assert list(bad) == []
    assert rows.select(["id", "deleted"]).to_pylist() == [{"id": 7, "deleted": True}]


def test_a_letter_holds_the_record_as_it_was() -> None:
    """Cut only where no letter can hold it."""
    place = Place("movies.items", 3)
    small = to_letter(place, BadRecord(5, MALFORMED, "no Item", b"key", b"\xffvalue"))
    assert small == pb.DeadLetter(
        topic="movies.items",
        partition=3,
        offset=5,
        reason=MALFORMED,
        detail="no Item",
        raw=b"\xffvalue",
        raw_key=b"key",
    )

    assert to_letter(place, BadRecord(5, MALFORMED, "no value", None, None)).raw == b""
    large = to_letter(place, BadRecord(5, MALFORMED, "no Item", b"k" * 2_000_000, b"v" * 3_000_000))
    assert large.ByteSize() < 2 << 20
    assert large.detail == "no Item (cut: the key has 2000000 bytes, the value 3000000)"
