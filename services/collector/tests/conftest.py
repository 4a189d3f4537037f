"""A collector over a real socket, with a log that we own."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from collector.catalogue import Catalogue
from collector.collecting import Collector, Place, Record
from collector.errors import LogDown, Overloaded
from collector.metrics import Metrics
from collector.servicer import SERVICE, CollectorServicer
from definitions.usecase import UseCase, load_usecase
from millrace.collector.v1 import collector_pb2_grpc
from millrace.events.v1 import events_pb2
from servicekit.grpc_server import GrpcServer
from servicekit.kit import Kit, start
from servicekit.settings import ProcessSettings

NOW_US = 1_700_000_000_000_000

MOVIES = """
usecase: movies
actions:
  - {name: view, label: 0}
  - {name: rate, label: 1}
attributes:
  user: {age: number}
  item: {title: text, year: number, genre: {kind: categories, width: 6}}
category: item.genre
"""


@dataclass
class MemoryLog:
    """A log of two partitions by the key's last byte; down, slow or full on demand."""

    topics: dict[str, list[list[Record]]] = field(default_factory=dict)
    is_down: bool = False
    is_full: bool = False
    acks: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.acks.set()

    async def append(self, topic: str, records: Sequence[Record], budget_s: float, *, wait: bool) -> Sequence[Place]:
        if self.is_full and not wait:
            raise Overloaded("full")
        try:
            async with asyncio.timeout(budget_s):
                if self.is_down:
                    await asyncio.Event().wait()
                await self.acks.wait()
        except TimeoutError:
            raise LogDown("the log did not acknowledge") from None
        partitions = self.topics.setdefault(topic, [[], []])
        places = []
        for record in records:
            partition = record.key[-1] % 2
            partitions[partition].append(record)
            places.append(Place(partition, len(partitions[partition]) - 1))
        return places

    def events(self) -> list[events_pb2.Interaction]:
        """All interactions, by partition, then offset."""
        return [
            events_pb2.Interaction.FromString(record.value)
            for partition in self.topics.get("movies.interactions", [])
            for record in partition
        ]


@pytest.fixture
def movies(tmp_path: Path) -> UseCase:
    path = tmp_path / "movies.yaml"
    path.write_text(MOVIES)
    return load_usecase(path)


@pytest.fixture
def catalogue(movies: UseCase) -> Catalogue:
    return Catalogue(movies)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def collector(movies: UseCase, catalogue: Catalogue, log: MemoryLog) -> Collector:
    return Collector({"movies": (movies, catalogue)}, log, clock_us=lambda: NOW_US)


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with start("collector", ProcessSettings(home=tmp_path, metrics_port=0), signals=False) as started:
        yield started


@pytest.fixture
async def channel(kit: Kit, collector: Collector) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(kit, collector) as channel:
        yield channel


@asynccontextmanager
async def serving(kit: Kit, collector: Collector) -> AsyncIterator[grpc.aio.Channel]:
    servicer = CollectorServicer(collector, Metrics(kit.registry), ceiling_s=2.0)

    def register(server: grpc.aio.Server) -> list[str]:
        collector_pb2_grpc.add_CollectorServiceServicer_to_server(servicer, server)
        return [SERVICE]

    server = GrpcServer(kit, register, 0, routing_wait_s=0.0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as opened:
        yield opened
    await server.drain(1.0)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> collector_pb2_grpc.CollectorServiceStub:
    return collector_pb2_grpc.CollectorServiceStub(channel)


@pytest.fixture
def event() -> Callable[..., events_pb2.Interaction]:
    """A good event, but for the fields that a test gives."""

    def make(**fields: object) -> events_pb2.Interaction:
        good: dict[str, object] = {
            "event_id": 11,
            "user_id": 22,
            "item_id": 33,
            "action": 1,
            "value": 4.0,
            "event_time_us": NOW_US,
        }
        return events_pb2.Interaction(**good | fields)  # type: ignore[arg-type]  # protobuf checks the types

    return make


@pytest.fixture
def item() -> Callable[..., events_pb2.Item]:
    """An item of some genres."""

    def make(item_id: int, *genres: int, deleted: bool = False) -> events_pb2.Item:
        codes = events_pb2.AttributeValue(categories=events_pb2.CategoryCodes(codes=genres))
        return events_pb2.Item(id=item_id, attributes={"genre": codes}, deleted=deleted)

    return make


def elapsed_s(began: float) -> float:
    """Seconds since a `time.monotonic()`."""
    return time.monotonic() - began
