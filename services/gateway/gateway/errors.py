"""What can go wrong with a request, and why a dependency was passed over."""

from typing import Literal

Reason = Literal[
    "off",  # nothing configured or deployed for this rung
    "error",  # the dependency answered with an error, or was not there
    "time",  # no answer within the rung's budget, or no time left to try
    "rejected",  # the dependency was reached and refused: its queue is full or the request waited there too long
    "unknown_version",  # the pinned version is not loaded
    "breaker",  # too many failures lately: not even tried
    "in_flight",  # as many calls are under way as we allow, those that outlived their request included
    "bad_scores",  # wrong shape or type, NaN or infinity
    "no_row",  # nothing is stored for this user
    "no_overlap",  # the stored list holds none of the asked items
]


class GatewayError(Exception):
    """A request that gets no ranking. A dead dependency is never one: the ladder answers instead."""


class InvalidRequest(GatewayError):
    """The caller's mistake; the message names the field and the remedy."""


class DeadlineTooShort(GatewayError):
    """The caller left less time than any answer takes, and we are not overloaded."""


class Overloaded(GatewayError):
    """Too little of the deadline is left because we are busy; trying again later helps."""


class NotRemembered(GatewayError):
    """What is to be explained is not here: an answer too old, or one that no model scored."""


class Unavailable(Exception):
    """A dependency cannot serve this request: its rung is left, or its value taken as missing."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason


class BundleRefused(Exception):
    """A decision pins a bundle that we do not serve; the message names file or field, and the remedy."""


class BadModel(BundleRefused):
    """A version whose scores were bad when it was tried: no gateway should serve it."""

    def __init__(self, name: str, version: int, detail: str) -> None:
        super().__init__(f"version {version}: {detail}; train it again, or deploy another")
        self.name = name
        self.version = version


class ImpressionTooLarge(Exception):
    """A use case has so many columns that Kafka would refuse its largest impression."""
