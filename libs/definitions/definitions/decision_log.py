"""Which records of `decisions` take effect: one rule for the gateway, for the commands that decide, and for the audit.

Kafka appends whatever it is given, so two who decide at once would undo each other's decision. Each decision therefore
says which one it was made from, by a revision, and of two that were made from the same the later one does not count.
"""

import enum

from google.protobuf.message import DecodeError
from millrace.decisions.v1 import decisions_pb2 as pb


class Outcome(enum.Enum):
    """What became of a record."""

    HOLDS = "holds"
    OVERTAKEN = "overtaken"
    UNREADABLE = "unreadable"


class DecisionLog:
    """The decision that holds, after the records of one use case that were taken in the log's order."""

    def __init__(self) -> None:
        self._newest: pb.Decision | None = None

    @property
    def newest(self) -> pb.Decision:
        """The last decision that took effect; an empty one before the first. Not to be changed."""
        return self._newest or pb.Decision()

    def take(self, value: bytes) -> Outcome:
        """The log's next record. It takes effect if it is the first, or was made from the one that holds.

        Revision 0 is a decision of a release that knew no revisions: it takes effect, as it did then.
        """
        try:
            decision = pb.Decision.FromString(value)
        except DecodeError:
            return Outcome.UNREADABLE
        if self._newest is not None and decision.revision not in (0, self._newest.revision + 1):
            return Outcome.OVERTAKEN
        self._newest = decision
        return Outcome.HOLDS
