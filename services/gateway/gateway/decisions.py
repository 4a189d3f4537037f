"""Follows topic `decisions`: has what it pins served, or keeps the former where that is refused."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog
from definitions.decision_log import DecisionLog, Outcome
from definitions.serving_state import same
from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit.kafka import TopicReader
from servicekit.topics import DECISIONS

from gateway.errors import BadModel, BundleRefused

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.decisions")

_WAKE_S: Final = 0.05


class Served(Protocol):
    """A use case, as decisions change it. Called from one thread; returns when it is in force."""

    def serve(self, state: pb.ServingState) -> Sequence[str]:
        """Put all of `state` in force at once.

        Returns what of it was refused beside the pin, each with its reason: the rest is in force without that.

        Raises:
            BundleRefused: the pin cannot serve; all stays as it was.
        """
        ...


class Decisions:
    """The serving state of each use case that is in force.

    Records are only noted as they come and judged by another thread (`judge`), newest of each use case alone: a long
    history costs one load. `count(usecase, outcome)` is told of each: loaded, refused, removed, unreadable, overtaken;
    `on_bad` of a pin that was refused because its scores are bad: (usecase, why).
    """

    def __init__(
        self,
        served: Mapping[str, Served],
        count: Callable[[str, str], None],
        on_bad: Callable[[str, BadModel], None] = lambda *_: None,
    ) -> None:
        self._served = served
        self._count = count
        self._on_bad = on_bad
        self._in_force: dict[str, pb.ServingState] = {}
        self._logs = {usecase: DecisionLog() for usecase in served}
        self._unjudged: set[str] = set()
        self._lock = threading.Lock()

    def take(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:  # noqa: ARG002
        """A record of `decisions`. Those of use cases that we do not serve are not ours to judge."""
        usecase = (key or b"").decode(errors="replace")
        if usecase not in self._served or value is None:
            return
        with self._lock:
            outcome = self._logs[usecase].take(value)
            if outcome is Outcome.HOLDS:
                self._unjudged.add(usecase)
                return
        log.warning("decision without effect, the former stays", usecase=usecase, why=outcome.value, offset=offset)
        self._count(usecase, outcome.value)

    def newest(self, usecase: str) -> pb.Decision:
        """The last one that holds, whether the gateway has it in force yet or not."""
        with self._lock:
            return self._logs[usecase].newest

    def judge(self) -> None:
        """Act on what `take` noted since the last call."""
        with self._lock:
            newest = {usecase: self._logs[usecase].newest.state for usecase in self._unjudged}
            self._unjudged.clear()
        for usecase, state in newest.items():
            self._judge(usecase, state)

    def _judge(self, usecase: str, state: pb.ServingState) -> None:
        former = self._in_force.get(usecase, pb.ServingState())
        if former == state and usecase in self._in_force:  # an event that changed nothing about serving
            return
        try:
            refused = self._served[usecase].serve(state)
        except BundleRefused as exc:
            stays = f"{former.pin.name}/{former.pin.version}" if former.HasField("pin") else "none"
            log.error("bundle refused, former model stays", usecase=usecase, former=stays, error=str(exc))
            self._count(usecase, "refused")
            if isinstance(exc, BadModel):
                self._on_bad(usecase, exc)
            return
        for reason in refused:
            log.error("part of a decision refused, the rest is in force", usecase=usecase, error=reason)
            self._count(usecase, "refused")
        self._in_force[usecase] = state
        self._tell(usecase, former, state)

    def _tell(self, usecase: str, former: pb.ServingState, state: pb.ServingState) -> None:
        pin = state.pin
        log.info(
            "decision in force", usecase=usecase, model=pin.name, version=pin.version, digest=pin.digest,
            canary=state.canary.pin.version, percent=state.canary.percent, shadow=state.shadow.pin.version,
            rules=state.rules_version, experiments=[experiment.name for experiment in state.experiments],
        )  # fmt: skip
        if not same(former.pin, pin):
            self._count(usecase, "loaded" if state.HasField("pin") else "removed")


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
