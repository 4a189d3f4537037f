"""Follows topic `decisions`: loads what it pins and swaps one reference, or refuses it and keeps the former."""

import threading
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from google.protobuf.message import DecodeError
from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit.kafka import TopicReader
from servicekit.topics import DECISIONS

from gateway.errors import BundleRefused
from gateway.model import ActiveModel

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.decisions")

LoadModel = Callable[[pb.ModelPin], ActiveModel]
_WAKE_S: Final = 0.05


class Decisions:
    """The pinned model of each use case; `load` makes it from a pin and raises BundleRefused.

    Records are only noted as they come and judged by another thread (`judge`), newest of each use case alone: a long
    history costs one load. `count(usecase, outcome)` is told of each: loaded, refused, removed, unreadable.
    """

    def __init__(self, load: Mapping[str, LoadModel], count: Callable[[str, str], None]) -> None:
        self._load = load
        self._count = count
        self._active: dict[str, ActiveModel] = {}
        self._newest: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def active(self, usecase: str) -> ActiveModel | None:
        """What serves now; None before the first good decision."""
        return self._active.get(usecase)

    def take(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:  # noqa: ARG002
        """A record of `decisions`. Those of use cases that we do not serve are not ours to judge."""
        usecase = (key or b"").decode(errors="replace")
        if usecase in self._load and value is not None:
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
        if not state.HasField("pin"):
            if self._active.pop(usecase, None) is not None:
                log.info("no model is pinned any more", usecase=usecase)
                self._count(usecase, "removed")
            return
        pin, former = state.pin, self._active.get(usecase)
        if former is not None and (former.name, former.version, former.digest) == (pin.name, pin.version, pin.digest):
            return
        try:
            self._active[usecase] = self._load[usecase](pin)
        except BundleRefused as exc:
            stays = f"{former.name}/{former.version}" if former else "none"
            log.error("bundle refused, former model stays", usecase=usecase, former=stays, error=str(exc))
            self._count(usecase, "refused")
            return
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
