"""What Feast's users can do wrong here, with the remedy."""

from pipelines.errors import BadInputError


class PushRefusedError(BadInputError):
    """A push of what is not pushed, or that the collector refused."""


class NotReadableError(BadInputError):
    """A read of a view that is for pushes or of another layout, or by keys or times that are none."""


class NotHereError(BadInputError):
    """Something of Feast's that this platform does in another way; the message names it."""
