"""The collector's process against a real Kafka that is killed: nothing acknowledged is lost, nobody is kept waiting."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_stack import process
from local_stack.components.kafka import kafka as kafka_component
from local_stack.components.kafka import new_cluster_id
from local_stack.home import Home
from local_stack.java import Java
from local_stack.ports import Ports
from local_stack.service import without_settings
from local_stack.topics import create_topics, declared_topics
from millrace.client import Entity, Event, EventClient, MillraceError, Unavailable
from millrace.events.v1 import events_pb2
from one_service import OneService
from servicekit.kafka import TopicReader, end_offsets

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
RECOVERY_S = 120.0  # after a kill Kafka reads its logs again: 30 s on 2 cores under a load of 17


class Broker:
    """A Kafka of this test alone, which keeps its data through a kill."""

    def __init__(self, root: Path, downloads: Path, java: Java) -> None:
        self._home = Home(root, downloads=downloads)
        self._home.make()
        self._ports = Ports.free()
        self._component = kafka_component(self._home, self._ports, java, new_cluster_id())
        self._component.fetch()
        self.address = f"127.0.0.1:{self._ports.kafka}"
        self._run: process.RunFile | None = None

    def start(self) -> None:
        self._run = process.start(self._component, self._home, os.environ)
        process.await_ready(self._run, RECOVERY_S)

    def kill(self) -> None:
        assert self._run is not None
        os.killpg(self._run.pid, signal.SIGKILL)
        until(lambda: self._run is None or self._run.process() is None)

    def stop(self) -> None:
        if self._run is not None:
            process.stop(self._run, self._home)


class Publisher(threading.Thread):
    """Publishes batches of numbered events until stopped; keeps what was acknowledged and where."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self._client = EventClient(target, timeout_s=0.5)
        self._stopping = threading.Event()
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.failures = 0
        self.longest_s = 0.0

    def run(self) -> None:
        numbers = itertools.count(1)
        while not self._stopping.is_set():
            events = [Event(user_id=n % 97 + 1, item_id=5, action=0, event_id=n) for n in itertools.islice(numbers, 20)]
            began = time.monotonic()
            try:
                answer = self._client.publish("movies", events)
            except MillraceError:
                self.failures += 1
            else:
                for place in answer.accepted:
                    self.acknowledged[place.partition, place.offset] = events[place.index].event_id
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)
        self._client.close()


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def broker(tmp_path: Path, java: Java) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker", ROOT / ".millrace" / "dist", java)
    broker.start()
    create_topics(broker.address, declared_topics(ROOT / "infra" / "kafka" / "topics.yaml", ["movies"]))
    yield broker
    broker.stop()


@pytest.fixture
def collector(broker: Broker, tmp_path: Path) -> Iterator[OneService]:
    collector = OneService("collector", tmp_path, kafka=broker.address, delivery_timeout_s="2")
    collector.start()
    until(collector.is_ready)
    yield collector
    collector.close()


def test_a_killed_broker_costs_time_and_nothing_that_was_acknowledged(broker: Broker, collector: OneService) -> None:
    """While it is away: UNAVAILABLE within the deadline, not ready. When it is back: as before, by itself."""
    target = collector.address or ""
    with EventClient(target) as client:
        client.put_items("movies", [Entity(id=5, attributes={"genre": [8]})])
    publisher = Publisher(target)
    publisher.start()
    until(lambda: len(publisher.acknowledged) > 200)

    broker.kill()
    until(lambda: not collector.is_ready())
    with EventClient(target) as client:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.publish("movies", [Event(user_id=1, item_id=5, action=0)], timeout_s=0.4)
        assert time.monotonic() - began < 0.5
    assert publisher.failures > 0

    broker.start()
    until(collector.is_ready)
    before = len(publisher.acknowledged)
    until(lambda: len(publisher.acknowledged) > before + 200)
    publisher.stop()

    found: dict[tuple[int, int], events_pb2.Interaction] = {}
    reader = TopicReader(
        broker.address,
        "movies.interactions",
        lambda partition, offset, _, value: found.update(
            {(partition, offset): events_pb2.Interaction.FromString(value or b"")}
        ),
    )
    reader.start()
    reader.wait_caught_up(DEADLINE_S)
    reader.stop()
    assert publisher.acknowledged == {place: found[place].event_id for place in publisher.acknowledged}
    assert {8} == {event.category for event in found.values()}
    assert sum(end_offsets(broker.address, "movies.interactions").values()) == len(found)
    assert publisher.longest_s < 0.7
    assert 0 == collector.terminate()


def test_a_collector_without_a_broker_says_so_and_ends(tmp_path: Path) -> None:
    """Exit code 3: the environment's fault, a retry may help."""
    environment = without_settings(os.environ) | {
        "MILLRACE_HOME": str(tmp_path),
        "MILLRACE_KAFKA": f"127.0.0.1:{Ports.free().kafka}",
        "MILLRACE_METRICS_PORT": "0",
        "MILLRACE_CONNECT_S": "0.5",
    }

    ended = subprocess.run(
        [sys.executable, "-m", "collector"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )

    assert 3 == ended.returncode
    assert "MILLRACE_KAFKA" in ended.stderr
