"""Follows topic `decisions`: has what it pins served, or keeps the former where that is refused."""

import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog
from google.protobuf.message import DecodeError
from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit.kafka import TopicReader
from servicekit.topics import DECISIONS

from gateway.errors import BundleRefused

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.decisions")

_WAKE_S: Final = 0.05


class Served(Protocol):
    """A use case, as decisions change it. Called from one thread; each call returns when it is in force."""

    def serve(self, pin: pb.ModelPin) -> None:
        """Load the pinned model and serve it. Raises BundleRefused: the former stays."""

    def remove(self) -> None:
        """Serve no model."""

    def keep(self, previous: pb.ModelPin | None) -> None:
        """What a rollback would return to: nothing else need be kept for it."""


class Decisions:
    """The pin of each use case that is in force.

    Records are only noted as they come and judged by another thread (`judge`), newest of each use case alone: a long
    history costs one load. `count(usecase, outcome)` is told of each: loaded, refused, removed, unreadable.
    """

    def __init__(self, served: Mapping[str, Served], count: Callable[[str, str], None]) -> None:
        self._served = served
        self._count = count
        self._pins: dict[str, pb.ModelPin] = {}
        self._newest: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def take(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:  # noqa: ARG002
        """A record of `decisions`. Those of use cases that we do not serve are not ours to judge."""
        usecase = (key or b"").decode(errors="replace")
        if usecase in self._served and value is not None:
            with self._lock:
                self._newest[usecase] = value

    def judge(self) -> None:
        """Act on what `take` noted since the last call."""
        with self._lock:
            newest, self._newest = self._newest, {}
        for usecase, value in newest.items():
            self._judge(usecase, value)

    def _judge(self, usecase: str, value: bytes) -> None:
        try:
            state = pb.Decision.FromString(value).state
        except DecodeError as exc:
            log.error("decision unreadable, former model stays", usecase=usecase, error=str(exc))
            self._count(usecase, "unreadable")
            return
        if state.HasField("pin"):
            self._serve(usecase, state.pin)
        elif self._pins.pop(usecase, None) is not None:
            self._served[usecase].remove()
            log.info("no model is pinned any more", usecase=usecase)
            self._count(usecase, "removed")
        self._served[usecase].keep(state.previous if state.HasField("previous") else None)

    def _serve(self, usecase: str, pin: pb.ModelPin) -> None:
        former = self._pins.get(usecase)
        if former is not None and (former.name, former.version, former.digest) == (pin.name, pin.version, pin.digest):
            return
        try:
            self._served[usecase].serve(pin)
        except BundleRefused as exc:
            stays = f"{former.name}/{former.version}" if former else "none"
            log.error("bundle refused, former model stays", usecase=usecase, former=stays, error=str(exc))
            self._count(usecase, "refused")
            return
        self._pins[usecase] = pin
        log.info("model swapped", usecase=usecase, model=pin.name, version=pin.version, digest=pin.digest)
        self._count(usecase, "loaded")


class DecisionsReader:
    """The threads behind `Decisions`."""

    def __init__(self, decisions: Decisions, bootstrap: str, on_failure: Callable[[Exception], None]) -> None:
        self._decisions = decisions
        self._reader = TopicReader(bootstrap, DECISIONS, decisions.take, on_failure=on_failure)
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._judged = threading.Event()
        self._judge = threading.Thread(target=self._run, name="decisions", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()
        self._judge.start()

    @property
    def caught_up(self) -> bool:
        """Whether the newest decision that was on the log at the start is in force, or refused."""
        return self._judged.is_set()

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        self._reader.stop()

    def _run(self) -> None:
        try:
            while not self._stop.wait(_WAKE_S):
                complete = self._reader.caught_up.is_set()
                if complete or self._judged.is_set():
                    self._decisions.judge()
                    self._judged.set()
        except Exception as exc:  # the thread's owner must learn of it, whatever it is
            log.exception("judging decisions failed")
            self._on_failure(exc)
