"""The books that commands keep and check: what was loaded, what was archived, what was published."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from definitions.events import EventColumns
from millrace.client import Event
from millrace.collector.v1 import collector_pb2 as pb
from millrace.collector.v1 import collector_pb2_grpc
from millrace.events.v1 import events_pb2
from pipelines.audit import archived_since
from pipelines.datasets import DataPaths, Dataset
from pipelines.errors import BadInputError, UnavailableError
from pipelines.journal import Loaded
from pipelines.publishing import BATCH, as_events, publish_dataset
from stores.offline import Lake, app_id
from stores.offline.rows import interactions_table

from pipelines import journal

LOADED = Loaded("films", "ml-100k", None, None, 0, 100, 90, 89, ("user_id",), ("item_id",))


def test_the_note_on_a_load_reads_as_it_was_written(tmp_path: Path) -> None:
    """The newest one counts; each use case has its own."""
    journal.write(tmp_path, LOADED)
    journal.write(tmp_path, replace(LOADED, replayed=True))

    assert replace(LOADED, replayed=True) == journal.read(tmp_path, "films")
    assert journal.read(tmp_path, "shop") is None
    assert [journal.path_of(tmp_path, "films")] == list((tmp_path / "data" / "loaded").iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"usecase": "films"}', '{"shifted_ids": []}'])
def test_a_damaged_note_is_named_with_the_way_out(tmp_path: Path, text: str) -> None:
    """Guessing would replay the wrong events."""
    journal.write(tmp_path, LOADED)
    journal.path_of(tmp_path, "films").write_text(text)

    with pytest.raises(BadInputError, match=r"films\.json: not the note of a load .*; remove it and load again"):
        journal.read(tmp_path, "films")


def test_a_note_leads_back_to_its_data() -> None:
    """A name, or the files as they were given."""
    files = replace(LOADED, source="/data/e.csv", items="/data/i.csv")

    assert LOADED.dataset == "ml-100k"
    assert files.dataset == DataPaths(Path("/data/e.csv"), Path("/data/i.csv"), None)


def events(partition: int, offsets: range) -> EventColumns:
    n = len(offsets)
    return EventColumns.of(
        n, event_id=[1000 * partition + offset + 1 for offset in offsets], user_id=[1] * n, item_id=[1] * n,
        event_time_us=[1] * n, timestamp_us=[1] * n, partition=[partition] * n, offset=offsets,
    )  # fmt: skip


def test_what_is_archived_is_counted_by_log_and_from_where_it_began(tmp_path: Path) -> None:
    """Another log's records and those before the span are not this run's."""
    lake = Lake(tmp_path, "films")
    for log_id, partition, end in (("log", 0, 10), ("log", 1, 5), ("former", 0, 50)):
        rows = interactions_table(log_id, events(partition, range(end)))
        lake.append("interactions", rows, app_id=app_id(log_id, "films.interactions", partition), version=end)

    found = archived_since(lake, "log", {0: 4, 1: 0})

    assert (11, 11, 0) == (found.rows, found.places, found.duplicates)
    assert 0 == archived_since(lake, "next", {0: 0, 1: 0}).rows


def test_a_record_that_is_there_twice_is_a_duplicate(tmp_path: Path) -> None:
    """Two rows of one place: the count of places stays, and the difference is told."""
    lake = Lake(tmp_path, "films")
    lake.append("interactions", interactions_table("log", events(0, range(10))), app_id="one", version=10)
    lake.append("interactions", interactions_table("log", events(0, range(8, 10))), app_id="two", version=10)

    found = archived_since(lake, "log", {0: 0})

    assert (12, 10, 2) == (found.rows, found.places, found.duplicates)


def test_columns_become_events_and_lose_nothing() -> None:
    """Every field of the client's type that the log carries, at its largest too."""
    names = [name for name in Event.__dataclass_fields__ if hasattr(EventColumns.empty(), name)]
    largest = {
        name: np.iinfo(column.dtype).max if column.dtype.kind in "iu" else 0.5
        for name in names
        for column in [getattr(EventColumns.empty(), name)]
    }
    columns = EventColumns.of(2, **{name: [number, value] for number, (name, value) in enumerate(largest.items(), 1)})

    first, second = as_events(columns)

    assert set(Event.__dataclass_fields__) == set(names)
    assert {name: getattr(first, name) for name in names} == {name: n for n, name in enumerate(names, 1)}
    assert largest == {name: getattr(second, name) for name in names}


class Collector(collector_pb2_grpc.CollectorServiceServicer):
    """Takes what has an even user or item id, as if it were one partition."""

    def PutItems(self, request: pb.PutItemsRequest, context: grpc.ServicerContext) -> pb.PutItemsResponse:  # noqa: N802
        return pb.PutItemsResponse(**self._judged([item.id for item in request.items]))

    def PutUsers(self, request: pb.PutUsersRequest, context: grpc.ServicerContext) -> pb.PutUsersResponse:  # noqa: N802
        return pb.PutUsersResponse(**self._judged([user.id for user in request.users]))

    def PublishStream(  # noqa: N802
        self, requests: Iterator[pb.PublishRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.PublishResponse]:
        for request in requests:
            yield pb.PublishResponse(**self._judged([event.user_id for event in request.events]))

    def _judged(self, ids: list[int]) -> dict[str, Any]:
        return {
            "accepted": [{"index": i, "partition": 3, "offset": 10 + i} for i, id_ in enumerate(ids) if id_ % 2 == 0],
            "rejected": [{"index": i, "reason": "odd"} for i, id_ in enumerate(ids) if id_ % 2],
        }


@pytest.fixture
def collector() -> Iterator[str]:
    """host:port of a collector that rejects whatever is odd."""
    server = grpc.server(ThreadPoolExecutor(2))
    collector_pb2_grpc.add_CollectorServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_what_the_collector_rejects_is_named_by_what_it_says(collector: str) -> None:
    """Rows are sorted and sent in batches on their way: an index would point at nothing that its owner has."""
    users = [2] * BATCH + [4, 5, 6]
    columns = EventColumns.of(
        len(users), event_id=range(1, len(users) + 1), user_id=users, item_id=range(1, len(users) + 1),
        event_time_us=range(1, len(users) + 1),
    )  # fmt: skip
    items = [events_pb2.Item(id=1, external_id="one"), events_pb2.Item(id=2, external_id="two")]
    dataset = Dataset(columns, [events_pb2.User(id=3), events_pb2.User(id=4)], items, "test", "")

    result = publish_dataset(dataset, collector, "films")

    assert (1, 1, BATCH + 2, {3: 10 + BATCH}) == (result.items, result.users, result.events, result.next_offsets)
    assert ("item one: odd", "user 3: odd", "event of user 5 on item 502 at 502 us: odd") == result.rejected


def test_a_collector_that_is_not_there_is_the_environments_fault() -> None:
    """It says what to start."""
    dataset = Dataset(EventColumns.empty(), [], [events_pb2.Item(id=1)], "test", "")

    with pytest.raises(UnavailableError, match="is the stack up"):
        publish_dataset(dataset, "127.0.0.1:1", "films")
