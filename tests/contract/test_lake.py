"""The lake holds each log record exactly once, whatever is repeated, killed or late."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from definitions.events import EventColumns
from definitions.impressions import packed
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from google.protobuf import json_format
from millrace.decisions.v1 import decisions_pb2
from millrace.events.v1 import events_pb2 as pb
from stores.errors import NewerWriter, StoreUnavailable, UnknownTable
from stores.offline import Lake, Part, app_id, lake, rows, schemas

LOG = "log-1"
DAY_US = 86_400_000_000


@pytest.fixture
def movies(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(tmp_path, "movies")


def events(first: int, last: int, partition: int = 0, **columns: Any) -> EventColumns:
    """Events at the offsets `first` to `last`, excluded."""
    n = last - first
    offsets = np.arange(first, last)
    defaults = {"event_id": offsets + 1, "user_id": np.full(n, 3), "item_id": np.full(n, 4)}
    defaults["event_time_us"] = offsets * DAY_US
    return EventColumns.of(n, **{**defaults, **columns}, offset=offsets, partition=np.full(n, partition))


def table(first: int, last: int, partition: int = 0, **columns: Any) -> pa.Table:
    """The same as rows."""
    return rows.interactions_table(LOG, events(first, last, partition, **columns))


def name(partition: int = 0) -> str:
    """The partition's transactions."""
    return app_id(LOG, "movies.interactions", partition)


def offsets(lake: Lake, partition: int = 0) -> list[int]:
    """What the table holds of one partition."""
    frame = lake.scan("interactions").filter(pl.col("partition") == partition).select("offset").collect()
    return sorted(frame["offset"].to_list())


def test_an_empty_lake_reads_as_empty_tables(movies: Lake) -> None:
    """Nothing was written yet, which is no error."""
    for table_name, spec in schemas.TABLES.items():
        assert movies.scan(table_name).collect().shape == (0, len(spec.schema))
    assert movies.next_offset("interactions", name()) == 0
    assert movies.version("interactions") is None
    movies.compact("interactions")


def test_rows_and_position_are_one_commit(movies: Lake) -> None:
    """The table itself says where to resume, per partition and per log."""
    assert movies.append("interactions", table(0, 10), app_id=name(), version=10) == 10
    assert movies.append("interactions", table(10, 12), app_id=name(), version=15) == 2  # 12-14: dead letters

    assert movies.next_offset("interactions", name()) == 15
    assert movies.next_offset("interactions", name(1)) == 0
    assert movies.next_offset("interactions", app_id("log-2", "movies.interactions", 0)) == 0
    assert offsets(movies) == list(range(12))


def test_a_repeat_adds_nothing(movies: Lake) -> None:
    """After a crash the log is read again from an older place: only what is new arrives."""
    movies.append("interactions", table(0, 10), app_id=name(), version=10)
    version = movies.version("interactions")

    assert movies.append("interactions", table(0, 10), app_id=name(), version=10) == 0
    assert movies.append("interactions", table(2, 7), app_id=name(), version=7) == 0
    assert movies.version("interactions") == version
    assert movies.append("interactions", table(5, 20), app_id=name(), version=20) == 10
    assert offsets(movies) == list(range(20))


def test_records_without_rows_move_the_position(movies: Lake) -> None:
    """A partition of nothing but dead letters is not read again."""
    assert movies.append("interactions", table(0, 0), app_id=name(), version=40) == 0

    assert movies.next_offset("interactions", name()) == 40
    assert offsets(movies) == []


def test_several_partitions_are_one_commit(movies: Lake) -> None:
    """All or nothing, each with its own position."""
    movies.append("interactions", table(0, 5, partition=1), app_id=name(1), version=5)
    parts = [Part(name(0), table(0, 3), 3), Part(name(1), table(3, 9, partition=1), 9), Part(name(2), table(0, 0), 7)]
    before = movies.version("interactions")

    assert movies.commit("interactions", parts) == 3 + 4
    assert movies.version("interactions") == (before or 0) + 1
    assert offsets(movies, 0) == [0, 1, 2]
    assert offsets(movies, 1) == list(range(9))
    assert [movies.next_offset("interactions", name(p)) for p in range(3)] == [3, 9, 7]


def test_a_writer_that_was_overtaken_is_refused(movies: Lake) -> None:
    """A process that slept past its successor's first commit ends, and nothing of its call is written."""
    movies.append("interactions", table(0, 10), app_id=name(), version=10)
    zombie = [Part(name(), table(0, 8), 8, expected=0), Part(name(1), table(0, 2, partition=1), 2, expected=0)]

    with pytest.raises(NewerWriter, match=r"movies\.interactions-0.*at offset 10.*left it at 0"):
        movies.commit("interactions", zombie)
    assert offsets(movies, 0) == list(range(10))
    assert offsets(movies, 1) == []


def test_a_writer_that_is_overtaken_during_its_commit_is_refused(movies: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stale handle: another process commits the same partition between our reading and our writing."""
    movies.append("interactions", table(0, 1), app_id=name(), version=1)
    commit = lake._commit

    def overtaken(*args: Any) -> int:
        monkeypatch.setattr(lake, "_commit", commit)
        movies.append("interactions", table(1, 10), app_id=name(), version=10)
        return commit(*args)

    monkeypatch.setattr(lake, "_commit", overtaken)
    with pytest.raises(NewerWriter, match="moved past 1"):
        movies.append("interactions", table(1, 20), app_id=name(), version=20)
    assert offsets(movies) == list(range(10))
    assert movies.next_offset("interactions", name()) == 10


def test_another_partition_is_no_conflict(movies: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions share a table, so a handle is always stale for the others' sake: both commits stay."""
    movies.append("interactions", table(0, 1), app_id=name(), version=1)
    commit = lake._commit

    def beside(*args: Any) -> int:
        monkeypatch.setattr(lake, "_commit", commit)
        movies.append("interactions", table(0, 5, partition=1), app_id=name(1), version=5)
        return commit(*args)

    monkeypatch.setattr(lake, "_commit", beside)
    assert movies.append("interactions", table(1, 4), app_id=name(), version=4) == 3
    assert offsets(movies, 0) == [0, 1, 2, 3]
    assert offsets(movies, 1) == [0, 1, 2, 3, 4]


def test_partitions_write_side_by_side(tmp_path: Path) -> None:
    """Six writers, none of which finds the table there: no commit is lost, none is refused."""
    problems: list[BaseException] = []

    def write(partition: int) -> None:
        own = Lake(tmp_path, "movies")
        try:
            for first in range(0, 12, 3):
                part = Part(name(partition), table(first, first + 3, partition), first + 3, expected=first)
                own.commit("interactions", [part])
        except BaseException as exc:  # noqa: BLE001  shown by the assertion below
            problems.append(exc)

    threads = [threading.Thread(target=write, args=(partition,)) for partition in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert [offsets(Lake(tmp_path, "movies"), p) for p in range(6)] == [list(range(12))] * 6


def test_compaction_keeps_rows_and_positions(movies: Lake) -> None:
    """Many small files become one, and a replay still adds nothing."""
    for first in range(0, 12, 3):
        rows_of_a_day = table(first, first + 3, event_time_us=np.full(3, DAY_US))
        movies.append("interactions", rows_of_a_day, app_id=name(), version=first + 3)
    assert movies.compact("interactions") == (4, 1)

    assert len(DeltaTable(movies.uri("interactions")).file_uris()) == 1
    assert movies.append("interactions", table(9, 12), app_id=name(), version=12) == 0
    assert offsets(movies) == list(range(12))


def test_vacuum_removes_what_no_commit_names(movies: Lake) -> None:
    """Files that a compaction replaced and those of a killed commit go; rows and positions stay."""
    for first in range(0, 12, 3):
        rows_of_a_day = table(first, first + 3, event_time_us=np.full(3, DAY_US))
        movies.append("interactions", rows_of_a_day, app_id=name(), version=first + 3)
    movies.compact("interactions")
    (kept,) = {Path(uri).parent for uri in DeltaTable(movies.uri("interactions")).file_uris()}
    (kept / "part-of-a-killed-commit.parquet").write_bytes(b"rows")

    assert movies.vacuum("interactions", keep_hours=1) == 0  # a reader may have begun an hour ago
    assert movies.vacuum("interactions", keep_hours=0) == 5
    assert movies.next_offset("interactions", name()) == 12
    assert movies.append("interactions", table(9, 12), app_id=name(), version=12) == 0
    assert offsets(movies) == list(range(12))


def test_wrong_rows_are_refused_before_anything_is_written(movies: Lake) -> None:
    """The caller's mistakes are ValueErrors that name what is wrong."""
    with pytest.raises(UnknownTable, match="'clicks' is none of interactions"):
        movies.scan("clicks")
    with pytest.raises(ValueError, match=r"wrong or missing: .*event_id"):
        movies.append("interactions", table(0, 3).drop_columns(["event_id"]), app_id=name(), version=3)
    with pytest.raises(ValueError, match="offset 2 is not below next_offset 2"):
        movies.append("interactions", table(0, 3), app_id=name(), version=2)
    assert movies.version("interactions") is None


def test_a_lake_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """A file where the folder should be stands for full disks and lost rights."""
    (tmp_path / "movies").write_text("in the way")
    broken = Lake(tmp_path, "movies")

    with pytest.raises(StoreUnavailable):
        broken.append("interactions", table(0, 3), app_id=name(), version=3)


def test_interactions_come_back_as_they_were(movies: Lake) -> None:
    """Every column, at the ends of its type; event_date is the event's day."""
    limits = {"action": [0, 2**32 - 1], "value": [-0.5, 1e9], "category": [2**32 - 1, 7], "position": [2**31, 0]}
    ids = {"event_id": [2**64 - 1, 1], "user_id": [2**63, 2], "item_id": [1, 2**63 - 1], "request_id": [0, 2**64 - 2]}
    times = {"event_time_us": [1, 253_402_300_799_999_999], "timestamp_us": [-1, 1_700_000_000_000_000]}
    columns = {**limits, **ids, **times, "session_id": [2**64 - 3, 0], "device": [1, 2], "surface": [3, 4]}
    written = EventColumns.of(2, **columns, country=[5, 6], partition=[0, 0], offset=[8, 9])
    movies.append("interactions", rows.interactions_table(LOG, written), app_id=name(), version=10)

    frame = movies.scan("interactions").sort("offset").collect()
    read = rows.to_events(frame)
    for column in vars(written):
        np.testing.assert_array_equal(getattr(read, column), getattr(written, column), strict=True)
    assert frame["log_id"].to_list() == [LOG, LOG]
    assert [str(day) for day in frame["event_date"]] == ["1970-01-01", "9999-12-31"]
    assert rows.to_events(frame.clear()).event_id.dtype == np.uint64


def entity(message_type: type[pb.Item] | type[pb.User], entity_id: int) -> Any:
    """One with all kinds of attributes."""
    attributes = {
        "year": pb.AttributeValue(number=1994.1),
        "genre": pb.AttributeValue(categories=pb.CategoryCodes(codes=[3, 2**32 - 1])),
        "none": pb.AttributeValue(categories=pb.CategoryCodes()),
        "title": pb.AttributeValue(text='Amélie "1"\x00'),
    }
    return message_type(id=entity_id, external_id="é-1", attributes=attributes, embedding=[0.5, -1.25])


def test_items_and_users_come_back_as_they_were(movies: Lake) -> None:
    """Attributes of every kind, embedding, and what is deleted."""
    items = [entity(pb.Item, 2**64 - 1), pb.Item(id=2, deleted=True)]
    users = [entity(pb.User, 7), pb.User(id=2**63, deleted=True)]
    places = [(4, 1_000), (6, -1)]
    movies.append("items", rows.items_table(LOG, 0, places, items), app_id="i", version=7)
    movies.append("users", rows.users_table(LOG, 3, places, users), app_id="u", version=7)

    frame = movies.scan("items").sort("offset").collect()
    assert rows.to_items(frame) == items
    assert frame.select("partition", "offset", "timestamp_us").rows() == [(0, 4, 1_000), (0, 6, -1)]
    assert rows.to_users(movies.scan("users").sort("offset").collect()) == users


def test_impressions_keep_what_was_known_and_shown(movies: Lake) -> None:
    """The bytes the model saw, the cut of what was known, and the user row's version; empty ones too."""
    features = np.arange(4, dtype="<f4").tobytes()
    full = pb.Impression(
        request_id=2**64 - 1,
        user_id=5,
        time_us=DAY_US,
        usecase="movies",
        item_ids=[2**64 - 1, 2],
        scores=[0.5, 0.25],
        propensities=[1, 0.5],
        positions=[1, 0],
        features=features,
        int_features=b"\xff" * 16,
        layout_hash=2**32 - 1,
        row=pb.RowVersion(epoch=3, interactions_offset=2**63, users_offset=1),
        item_markers=[pb.ItemMarker(partition=1, offset=2**40)],
        model_name="lightgbm",
        model_version=4,
        rung=pb.RUNG_MODEL,
        arm="control",
        context=pb.Context(device=1, surface=2, country=3, session_id=2**63),
        deadline_ms=150,
        stages=[pb.StageTiming(stage="features", micros=120)],
        reasons=["popular", "requested"],
        model_digest="d" * 64,
        rules='{"limit":500}',
        rule_codes=b"\x01\x00\x00\x00" * 2,
        unknown=[False, True],
        candidates=3,
    )
    bare = pb.Impression(request_id=1, time_us=1)
    written = rows.impressions_table(LOG, 2, [(0, 10), (1, 11)], [packed(full), packed(bare)])
    movies.append("impressions", written, app_id="x", version=2)

    first, second = movies.scan("impressions").sort("offset").collect().rows(named=True)
    assert first["request_id"] == 2**64 - 1
    assert first["item_ids"] == [2**64 - 1, 2]
    assert first["scores"] == [0.5, 0.25]
    assert first["positions"] == [1, 0]
    assert first["features"] == features
    assert first["int_features"] == b"\xff" * 16
    assert first["layout_hash"] == 2**32 - 1
    assert (first["row_epoch"], first["row_interactions_offset"], first["row_users_offset"]) == (3, 2**63, 1)
    assert (first["marker_partitions"], first["marker_offsets"]) == ([1], [2**40])
    assert (first["model_name"], first["model_version"], first["rung"], first["arm"]) == ("lightgbm", 4, 1, "control")
    assert (first["device"], first["surface"], first["country"], first["session_id"]) == (1, 2, 3, 2**63)
    assert (first["stages"], first["stage_micros"], first["reasons"]) == (["features"], [120], ["popular", "requested"])
    assert (first["model_digest"], first["rules"]) == ("d" * 64, '{"limit":500}')
    codes = b"\x01\x00\x00\x00" * 2
    assert (first["rule_codes"], first["unknown"], first["candidates"]) == (codes, [False, True], 3)
    assert str(first["event_date"]) == "1970-01-02"
    assert (second["item_ids"], second["features"], second["user_id"]) == ([], b"", 0)
    assert (second["model_digest"], second["rules"], second["rule_codes"], second["unknown"]) == ("", "", b"", [])


def test_a_table_older_than_some_of_its_columns_is_read_and_gets_them(movies: Lake) -> None:
    """Its rows have nothing there; the next commit brings the columns, and the position stays."""
    spec = schemas.TABLES["impressions"]
    written = rows.impressions_table(LOG, 0, [(0, 10)], [packed(pb.Impression(request_id=7, time_us=1))])
    former = pa.schema([field for field in spec.stored if field.name not in schemas.ADDED])
    DeltaTable.create(movies.uri("impressions"), former, partition_by=list(spec.partition_by))
    write_deltalake(
        movies.uri("impressions"),
        schemas.to_stored(spec, written).select(former.names),
        mode="append",
        commit_properties=CommitProperties(app_transactions=[Transaction("x", 1)]),
    )

    [old] = movies.scan("impressions").collect().rows(named=True)
    assert (7, "", "", b"", [], 0) == tuple(
        old[column] for column in ("request_id", "model_digest", "rules", "rule_codes", "unknown", "candidates")
    )
    newer = pb.Impression(request_id=8, time_us=1, model_digest="d" * 64, unknown=[True], candidates=1)
    written = rows.impressions_table(LOG, 0, [(1, 11)], [packed(newer)])
    assert movies.append("impressions", written, app_id="x", version=2) == 1
    movies.compact("impressions")

    found = movies.scan("impressions").sort("offset").select("request_id", "model_digest", "unknown", "candidates")
    assert [(7, "", [], 0), (8, "d" * 64, [True], 1)] == found.collect().rows()
    assert movies.scan("impressions").filter(pl.col("model_digest") == "").collect().height == 1
    assert movies.next_offset("impressions", "x") == 2


def test_decisions_are_one_table_for_all_use_cases(tmp_path: Path) -> None:
    """The audit: the record as it was, and its parts to query."""
    state = decisions_pb2.ServingState(pin=decisions_pb2.ModelPin(name="lightgbm", version=2, digest="ab"))
    decision = decisions_pb2.Decision(
        usecase="movies", kind=decisions_pb2.DECISION_KIND_DEPLOY, reason="gate", actor="ci", time_us=9, state=state
    )
    Lake(tmp_path, "movies").append(
        "decisions", rows.decisions_table(LOG, 0, [(0, 1)], [decision]), app_id="d", version=1
    )

    row = Lake(tmp_path, "songs").scan("decisions").collect().row(0, named=True)
    assert decisions_pb2.Decision.FromString(row["record"]) == decision
    assert (row["usecase"], row["kind"], row["actor"], row["time_us"]) == ("movies", 1, "ci", 9)
    assert json_format.Parse(row["state"], decisions_pb2.ServingState()) == state


def test_use_cases_have_their_own_tables(tmp_path: Path) -> None:
    """The same offsets of two use cases are two records."""
    for usecase in ("movies", "songs"):
        Lake(tmp_path, usecase).append("interactions", table(0, 3), app_id=name(), version=3)

    assert offsets(Lake(tmp_path, "songs")) == [0, 1, 2]


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    """What a URL would encode: space, percent, hash, letters that are not ASCII. Written, read, merged, read."""
    lake = Lake(tmp_path / "my data 50% #1 ü?", "movies")
    for first in (0, 5):
        same_day = table(first, first + 5, event_time_us=np.zeros(5, np.int64))
        lake.append("interactions", same_day, app_id=name(), version=first + 5)
    assert [*range(10)] == offsets(lake)
    assert (2, 1) == lake.compact("interactions")
    assert [*range(10)] == offsets(lake)


def test_a_training_set_is_replaced_whole(movies: Lake) -> None:
    """Building a set again leaves its rows once, and the other sets alone."""

    def examples(training_set: str, labels: list[float]) -> pa.Table:
        n = len(labels)
        columns: dict[str, list[Any]] = {field.name: [0] * n for field in schemas.EXAMPLES.schema}
        columns |= {"label": labels, "features": [[0.5]] * n, "int_features": [[2**40]] * n}
        columns |= {"source": ["logged"] * n, "split": ["train"] * n, "training_set": [training_set] * n}
        return pa.table(columns, schema=schemas.EXAMPLES.schema)

    movies.overwrite("examples", examples("a", [1.0]), predicate="training_set = 'a'")
    movies.overwrite("examples", examples("b", [0.0, 1.0]), predicate="training_set = 'b'")
    movies.overwrite("examples", examples("a", [0.0]), predicate="training_set = 'a'")

    frame = movies.scan("examples").sort("training_set", "label").collect()
    assert frame.select("training_set", "label").rows() == [("a", 0.0), ("b", 0.0), ("b", 1.0)]
    assert frame["int_features"].to_list() == [[2**40]] * 3
