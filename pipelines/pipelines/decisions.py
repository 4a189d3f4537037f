"""The `decisions` topic: what serves now, and how that changes. One record an event, with the whole state after it."""

import time
from collections.abc import Callable

from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit import kafka, topics
from servicekit.decisions import publish as append
from servicekit.errors import LogError

from pipelines.errors import DeployError, UnavailableError

WAIT_S = 15.0
Edit = Callable[[pb.ServingState], pb.ServingState]


def serving_state(bootstrap: str, usecase: str) -> pb.ServingState:
    """What is pinned for `usecase`; an empty state before its first deploy.

    Raises:
        UnavailableError: Kafka does not answer, or the topic is not there.
    """
    return newest(bootstrap, usecase).state


def newest(bootstrap: str, usecase: str) -> pb.Decision:
    """The last decision about `usecase`; an empty one before the first. UnavailableError as `serving_state`."""
    decision = pb.Decision()

    def take(_partition: int, _offset: int, key: bytes | None, value: bytes | None) -> None:
        if key == usecase.encode():
            decision.CopyFrom(pb.Decision.FromString(value) if value else pb.Decision())

    reader = kafka.TopicReader(bootstrap, topics.DECISIONS, take)
    try:
        # Asked first: the reader waits for a broker for ever, this says at once that none is there.
        kafka.partitions_of(bootstrap, topics.DECISIONS, connect_s=WAIT_S)
        reader.start()
        reader.wait_caught_up(WAIT_S)
    except LogError as exc:
        raise UnavailableError(f"decisions: {exc}") from exc
    finally:
        reader.stop()
    return decision


def publish(
    bootstrap: str, usecase: str, kind: pb.DecisionKind, state: pb.ServingState, *, reason: str, actor: str
) -> pb.Decision:
    """Announce `state`; it is on the log when this returns.

    Raises:
        DeployError: Kafka did not take it; the present state stays.
    """
    decision = pb.Decision(
        usecase=usecase, kind=kind, reason=reason, actor=actor, time_us=time.time_ns() // 1000, state=state
    )
    try:
        append(bootstrap, decision, wait_s=WAIT_S)
    except LogError as exc:
        raise DeployError(
            f"the decision is not on the log ({exc}); what served before still does, deploy again"
        ) from exc
    return decision


def change(
    bootstrap: str, usecase: str, kind: pb.DecisionKind, edit: Edit, *, reason: str, actor: str
) -> pb.ServingState:
    """Announce what `edit` makes of the state of this moment; that state.

    Only what `edit` touches changes, so that of two who decide at once neither undoes the other's, but for what the
    other decides within the milliseconds between reading and writing.

    Raises:
        DeployError: Kafka did not take it; the present state stays.
        UnavailableError: Kafka does not answer.
        Whatever `edit` raises: nothing was announced.
    """
    after = edit(serving_state(bootstrap, usecase))
    publish(bootstrap, usecase, kind, after, reason=reason, actor=actor)
    return after
