"""The one way in which a decision gets onto the log."""

from typing import Final

from millrace.decisions.v1 import decisions_pb2 as pb

from servicekit import topics
from servicekit.kafka import make_producer, translated

WAIT_S: Final = 15.0


def publish(bootstrap: str, decision: pb.Decision, *, wait_s: float = WAIT_S) -> int:
    """Append it; its offset. Waits `wait_s` for a broker, and as long for its answer.

    Whether it holds is for the readers to say: another decision may have come first (`definitions.decision_log`).

    Raises:
        LogError: Kafka did not take it.
    """
    producer = make_producer(bootstrap, linger_ms=0, connect_s=wait_s)
    try:
        with translated("publishing the decision"):
            key, value = decision.usecase.encode(), decision.SerializeToString()
            return int(producer.send(topics.DECISIONS, key=key, value=value).get(timeout=wait_s).offset)
    finally:
        producer.close()
