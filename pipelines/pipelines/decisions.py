"""The `decisions` topic: what serves now, and how that changes. One record an event, with the whole state after it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import polars as pl
from definitions.decision_log import DecisionLog, Outcome
from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit import kafka, topics
from servicekit.decisions import publish
from servicekit.errors import LogError
from stores.offline import Lake

from pipelines.errors import DeployError, UnavailableError

WAIT_S: Final = 15.0
TRIES: Final = 5  # each is lost only to somebody who decided within the same milliseconds
Edit = Callable[[pb.ServingState], pb.ServingState]


def serving_state(bootstrap: str, usecase: str) -> pb.ServingState:
    """What is pinned for `usecase`; an empty state before its first deploy.

    Raises:
        UnavailableError: Kafka does not answer, or the topic is not there.
    """
    return newest(bootstrap, usecase).state


def newest(bootstrap: str, usecase: str) -> pb.Decision:
    """The last decision about `usecase` that holds; an empty one before the first. UnavailableError."""
    with _read(bootstrap, usecase) as log:
        return log.newest


def change(
    bootstrap: str, usecase: str, kind: pb.DecisionKind, edit: Edit, *, reason: str, actor: str
) -> pb.ServingState:
    """Announce what `edit` makes of the state of this moment; the state after it, which holds when this returns.

    Of two who decide at once one comes first; the other's decision has no effect, and is made again from that state: so
    `edit` may be asked more than once, and neither undoes what the other decided.

    Raises:
        DeployError: Kafka did not take it, or others came first each time; what they decided stays.
        UnavailableError: Kafka does not answer.
        Whatever `edit` raises: nothing was changed.
    """
    with _read(bootstrap, usecase) as log:
        for _ in range(TRIES):
            before = log.newest
            state = pb.ServingState()
            state.CopyFrom(before.state)
            decision = pb.Decision(
                usecase=usecase, kind=kind, reason=reason, actor=actor, time_us=time.time_ns() // 1000,
                state=edit(state), revision=before.revision + 1,
            )  # fmt: skip
            try:
                offset = publish(bootstrap, decision, wait_s=WAIT_S)
            except LogError as exc:
                raise DeployError(
                    f"the decision is not on the log ({exc}); what served before still does, try again"
                ) from exc
            if log.outcome(offset) is Outcome.HOLDS:
                return decision.state
    raise DeployError(
        f"{usecase}: others decided first {TRIES} times running; see what serves (millrace canary status), then try "
        "again"
    )


def archived(lake: Lake, usecase: str) -> list[pb.Decision]:
    """All decisions in the lake that held, oldest first. A wiped broker began another log, which comes after."""
    rows = lake.scan("decisions").filter(pl.col("usecase") == usecase)
    begun = pl.col("timestamp_us").min().over("log_id")
    ordered = rows.sort(begun, "offset").select("log_id", "record").collect()
    logs: dict[str, DecisionLog] = {}
    found = []
    for log_id, record in ordered.iter_rows():
        log = logs.setdefault(log_id, DecisionLog())
        if log.take(record) is Outcome.HOLDS:
            found.append(log.newest)
    return found


class _Followed:
    """The decisions about one use case, read to the log's end, and on."""

    def __init__(self, usecase: str) -> None:
        self._key = usecase.encode()
        self._log = DecisionLog()
        self._outcomes: dict[int, Outcome] = {}
        self._read = threading.Condition()

    def take(self, _partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        """A record of the topic."""
        if key == self._key and value is not None:
            with self._read:
                self._outcomes[offset] = self._log.take(value)
                self._read.notify_all()

    @property
    def newest(self) -> pb.Decision:
        """The last one that holds, of those read so far."""
        with self._read:
            return self._log.newest

    def outcome(self, offset: int) -> Outcome:
        """What became of the record there; waits until it is read. UnavailableError after `WAIT_S`."""
        with self._read:
            if not self._read.wait_for(lambda: offset in self._outcomes, WAIT_S):
                raise UnavailableError(
                    f"decisions: offset {offset} was written and is not read after {WAIT_S:g} s; see what serves "
                    "(millrace canary status)"
                )
            return self._outcomes[offset]


@contextmanager
def _read(bootstrap: str, usecase: str) -> Iterator[_Followed]:
    """UnavailableError: Kafka does not answer, or the topic is not there."""
    followed = _Followed(usecase)
    reader = kafka.TopicReader(bootstrap, topics.DECISIONS, followed.take)
    try:
        # Asked first: the reader waits for a broker for ever, this says at once that none is there.
        kafka.partitions_of(bootstrap, topics.DECISIONS, connect_s=WAIT_S)
        reader.start()
        reader.wait_caught_up(WAIT_S)
    except LogError as exc:
        reader.stop()
        raise UnavailableError(f"decisions: {exc}") from exc
    try:
        yield followed
    finally:
        reader.stop()
