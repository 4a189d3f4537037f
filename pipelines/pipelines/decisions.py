"""The `decisions` topic: what serves now, and how that changes. One record an event, with the whole state after it."""

import time

from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit import kafka, topics
from servicekit.errors import LogError

from pipelines.errors import DeployError, UnavailableError

WAIT_S = 15.0


def serving_state(bootstrap: str, usecase: str) -> pb.ServingState:
    """What is pinned for `usecase`; an empty state before its first deploy.

    Raises:
        UnavailableError: Kafka does not answer, or the topic is not there.
    """
    state = pb.ServingState()

    def newest(_partition: int, _offset: int, key: bytes | None, value: bytes | None) -> None:
        if key == usecase.encode():
            state.CopyFrom(pb.Decision.FromString(value).state if value else pb.ServingState())

    reader = kafka.TopicReader(bootstrap, topics.DECISIONS, newest)
    try:
        # Asked first: the reader waits for a broker for ever, this says at once that none is there.
        kafka.partitions_of(bootstrap, topics.DECISIONS, connect_s=WAIT_S)
        reader.start()
        reader.wait_caught_up(WAIT_S)
    except LogError as exc:
        raise UnavailableError(f"decisions: {exc}") from exc
    finally:
        reader.stop()
    return state


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
        producer = kafka.make_producer(bootstrap, linger_ms=0)
        try:
            with kafka.translated("publishing the decision"):
                sent = producer.send(topics.DECISIONS, key=usecase.encode(), value=decision.SerializeToString())
                sent.get(timeout=WAIT_S)
        finally:
            producer.close()
    except LogError as exc:
        raise DeployError(
            f"the decision is not on the log ({exc}); what served before still does, deploy again"
        ) from exc
    return decision
