"""A real Kafka, one use case on it, and processes of ours that are killed, stopped and continued by the supervisor."""

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from chaos.ledger import Ack, Ledger, record_bytes, record_id
from local_stack import process
from local_stack.component import Component
from local_stack.components.kafka import kafka as kafka_component
from local_stack.components.kafka import new_cluster_id
from local_stack.home import Home, checkout_root
from local_stack.java import find_java
from local_stack.ports import Ports
from local_stack.probes import Probe
from local_stack.service import without_settings
from local_stack.topics import create_topics, declared_topics
from servicekit.kafka import assign, end_offsets, make_consumer, make_producer
from servicekit.topics import Kind, topic

NAME: Final = "chaos"
DEADLINE_S: Final = 120.0
_BATCH: Final = 50
# Often enough that kills meet commits and checkpoints too.
_PACE: Final = {"features": {"MILLRACE_CHECKPOINT_S": "0.5"}, "archiver": {"MILLRACE_COMMIT_S": "0.4"}}
_LITTLE_MEMORY: Final = {"MILLRACE_USER_STATE_MIB": "0.1"}  # so that most users leave it at each checkpoint


class Failed(Exception):
    """The run cannot go on; the message says what did not happen."""


class Worker:
    """One life of one of our processes."""

    def __init__(self, world: "World", module: str, *, failpoint: str | None = None, home: Path | None = None) -> None:
        self.world, self.module, self.failpoint = world, module, failpoint
        service = module.split(".")[0]
        port = Ports.free().features_metrics
        environment = {
            "MILLRACE_HOME": str(home or world.home.root),
            "MILLRACE_KAFKA": world.kafka,
            "MILLRACE_USECASES": str(world.usecase),
            "MILLRACE_METRICS_PORT": str(port),
            **_PACE[service],
            **(_LITTLE_MEMORY if service == "features" and home is None else {}),
            **({"MILLRACE_FAILPOINT": failpoint} if failpoint else {}),
        }
        self._address = f"127.0.0.1:{port}"
        component = Component(
            name=f"{module}-{next(world.lives):03d}",
            wave=3,
            command=[sys.executable, "-m", module],
            ports={"metrics": port},
            probe=Probe("http", self._address, "/ready"),
            start_s=DEADLINE_S,
            stop_s=30,
            environment=lambda: environment,
        )
        self.run = process.start(component, world.home, without_settings(os.environ))
        world.workers.append(self)

    def await_ready(self) -> None:
        """Until it works."""
        process.await_ready(self.run, DEADLINE_S)

    def await_end(self, deadline_s: float = DEADLINE_S) -> int:
        """Its exit code, -9 for SIGKILL."""
        until(lambda: process.exit_code(self.run) is not None, f"{self} ends: {self.run.tail()}", deadline_s)
        code = process.exit_code(self.run)
        assert code is not None
        return code

    def await_stopped(self) -> None:
        """Until a SIGSTOP holds it."""
        until(
            lambda: process.is_stopped(self.run) or process.exit_code(self.run) is not None,
            f"{self} stops at its failpoint",
        )
        if not process.is_stopped(self.run):
            raise Failed(f"{self} ended before its failpoint: {self.run.tail()}")

    def is_ready(self) -> bool:
        """Whether it says so."""
        return self.run.probe.ask() is None

    def send(self, signum: signal.Signals) -> None:
        """Kill or continue it."""
        process.send(self.run, signum)

    def flush(self) -> dict[str, Any]:
        """Have it save everything that is on the log."""
        connection = http.client.HTTPConnection(self._address, timeout=90)
        try:
            connection.request("POST", "/flush")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def stop(self) -> int | None:
        """Have it drain; its exit code."""
        self.send(signal.SIGTERM)
        return self.await_end()

    def close(self) -> None:
        """End it, whatever it does."""
        process.send(self.run, signal.SIGCONT)
        process.send(self.run, signal.SIGKILL)
        process.stop(self.run, self.world.home)

    def __str__(self) -> str:
        return f"{self.run.name}{f' ({self.failpoint})' if self.failpoint else ''}"


class World:
    """Kafka with the topics of one use case, and a folder for everything else. A context manager."""

    def __init__(self, folder: Path, seed: int, **settings: str) -> None:
        """`settings`: Kafka's own, of the topics (`segment_bytes="1048576"`), beside the declared ones."""
        self._settings = {name.replace("_", "."): value for name, value in settings.items()}
        self.home = Home(folder, downloads=checkout_root() / ".millrace" / "dist")
        self.home.make()
        self.seed = seed
        self.ports = Ports.free()
        self.kafka = f"127.0.0.1:{self.ports.kafka}"
        self.usecase = folder / f"{NAME}.yaml"
        movies = (checkout_root() / "usecases" / "movies.yaml").read_text()
        self.usecase.write_text(movies.replace("usecase: movies", f"usecase: {NAME}"))
        self.ledger = Ledger(folder / "ledger")
        self.lives = iter(range(10_000))
        self.workers: list[Worker] = []
        self.stopping = threading.Event()
        self.publishers: list[Publisher] = []
        self.java = find_java(os.environ)

    def __enter__(self) -> "World":
        if self.java is None:
            raise Failed("Java 17 is not here: real Kafka cannot start")
        self.broker = kafka_component(self.home, self.ports, self.java, new_cluster_id())
        if self.broker.download and not self.broker.download.exists():
            self.broker.fetch()
        self.start_kafka()
        declared = declared_topics(checkout_root() / "infra/kafka/topics.yaml", [NAME])
        create_topics(self.kafka, [replace(each, settings=each.settings | self._settings) for each in declared])
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        for publisher in self.publishers:
            publisher.stop()
        for worker in self.workers:
            worker.close()
        self.stop_kafka()
        self.ledger.close()

    def start_kafka(self) -> None:
        """Start the broker and wait until it answers."""
        self._kafka_run = process.start(self.broker, self.home, os.environ)
        process.await_ready(self._kafka_run, self.broker.start_s)

    def stop_kafka(self) -> None:
        """Let the broker close its log."""
        process.stop(self._kafka_run, self.home)

    def topic(self, kind: Kind) -> str:
        """A topic's name."""
        return topic(NAME, kind)

    def publish(self, rate: float, producers: int = 2) -> None:
        """Events flow from now on, `rate` a second in all."""
        first = len(self.publishers) + 1
        self.publishers += [Publisher(self, first + number, rate / producers) for number in range(producers)]
        for publisher in self.publishers[first - 1 :]:
            publisher.start()

    def acknowledged(self) -> int:
        """Records that the log has taken."""
        return sum(publisher.acknowledged for publisher in self.publishers)

    def end_publishing(self, least: int) -> None:
        """Publish on, as fast as it goes, until `least` are acknowledged; then no more."""
        for publisher in self.publishers:
            publisher.rate = 1e9
        until(lambda: self.acknowledged() >= least or self.failure() is not None, "events are acknowledged", 1200)
        for publisher in self.publishers:
            publisher.stop()
        if (failure := self.failure()) is not None:
            raise Failed(f"a publisher failed: {failure}")

    def failure(self) -> BaseException | None:
        """What ended a publisher."""
        return next((each.failure for each in self.publishers if each.failure is not None), None)

    def ends(self, kind: Kind) -> dict[int, int]:
        """End offset by partition."""
        return end_offsets(self.kafka, self.topic(kind))

    def records(self, name: str, first: Mapping[int, int] | None = None) -> dict[int, list[Any]]:
        """The topic's records by partition, from `first` on, as kafka-python's stock path reads them."""
        ends = end_offsets(self.kafka, name)
        starts = dict.fromkeys(ends, 0) if first is None else dict(first)
        found: dict[int, list[Any]] = {partition: [] for partition in ends}
        consumer = make_consumer(self.kafka)
        try:
            assign(consumer, name, starts)
            due = time.monotonic() + DEADLINE_S
            while any(end > starts[p] and (not found[p] or found[p][-1].offset + 1 < end) for p, end in ends.items()):
                if time.monotonic() > due:
                    raise Failed(f"{name} could not be read to its end")
                for place, records in consumer.poll(timeout_ms=200).items():
                    found[place.partition] += records
        finally:
            consumer.close(autocommit=False)
        return found


class Publisher(threading.Thread):
    """Sends events, repeats of them, garbage and users, and keeps the ledger."""

    def __init__(self, world: World, number: int, rate: float) -> None:
        super().__init__(name=f"publisher-{number}", daemon=True)
        self._world, self._number = world, number
        self.rate = rate
        self.acknowledged = 0
        self.failure: BaseException | None = None
        self._sequence = 0
        self._halt = threading.Event()

    def run(self) -> None:
        """Batch by batch until `stop`."""
        try:
            producer = make_producer(self._world.kafka)
            while not self._halt.is_set():
                began = time.monotonic()
                self._send(producer)
                self._halt.wait(max(0.0, _BATCH / self.rate - (time.monotonic() - began)))
            producer.close(timeout=5)
        except BaseException as exc:
            self.failure = exc
            raise

    def stop(self) -> None:
        """No more; returns when the last batch is acknowledged."""
        self._halt.set()
        if self.is_alive():
            self.join(30)

    def _send(self, producer: Any) -> None:
        batch = [self._next(each) for each in range(_BATCH)]
        self._world.ledger.attempt(batch)
        sent = []
        for record, kind in batch:
            key, value = record_bytes(self._world.seed, record, kind)
            sent.append(producer.send(self._world.topic(kind), key=key, value=value))
        producer.flush(timeout=30)
        acks = []
        for (record, kind), future in zip(batch, sent, strict=True):
            if future.succeeded():  # else unknown: it is there at most once
                acks.append(Ack(record, kind, future.value.partition, future.value.offset))
        self._world.ledger.acknowledge(acks)
        self.acknowledged += len(acks)

    def _next(self, place: int) -> tuple[int, Kind]:
        if place % 10 == 9 and self._sequence > 60:  # a repeat: the same id and bytes again
            again = self._sequence - (self._sequence * 7 + place) % 50
            return record_id(self._number, again), "interactions"
        self._sequence += 1
        return record_id(self._number, self._sequence), "users" if self._sequence % 41 == 0 else "interactions"


def until(holds: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for it; Failed after the deadline."""
    due = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > due:
            raise Failed(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.01)
