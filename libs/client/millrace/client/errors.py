"""What the clients raise. gRPC's errors are translated into these, most specific first."""


class MillraceError(Exception):
    """Base of all errors of the clients."""


class InvalidRequest(MillraceError):
    """The server refuses the request as it is; the message names the field and the remedy. Never retry."""


class DeadlineExceeded(MillraceError):
    """No answer in time. Events may or may not be on the log: publish them again with the same `event_id`."""


class Unavailable(MillraceError):
    """No server, or its log is down, also after retries. Events: publish them again with the same `event_id`."""


class HandshakeFailed(Unavailable):
    """The server is there, but the two do not trust each other: a CA, a certificate or a name is wrong. Never retry."""


class NotFound(MillraceError):
    """What the request names is not known there (any more)."""


class Overloaded(MillraceError):
    """The server sheds load; come back after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotAllowed(MillraceError):
    """No or a wrong token, or a role that may not do this."""


class ServerFailed(MillraceError):
    """A bug in the server, or a server of another version."""
