"""What the edge refuses, and what is wrong with its own files."""

from servicekit.errors import ServiceKitError


class SecurityFilesError(ServiceKitError):
    """A policy, a key or a certificate cannot be used; the message names the file and the remedy."""


class Refused(ServiceKitError):
    """A call that may not be made. `reason` is the metric's label, the message goes to the caller."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unauthenticated(Refused):
    """Nobody proved who calls: no token, or one that is wrong or over."""


class PermissionDenied(Refused):
    """Who calls is known, and may not do this."""


class OverQuota(Refused):
    """The caller has used up its share; `retry_after_s` says when there is some again."""

    def __init__(self, reason: str, message: str, retry_after_s: float) -> None:
        super().__init__(reason, message)
        self.retry_after_s = retry_after_s


class Shed(OverQuota):
    """The process is too busy for this call; `retry_after_s` says when to try again."""
