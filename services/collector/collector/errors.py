"""What the collector refuses as a whole. A single bad record is no error: it is answered by its index."""


class CollectorError(Exception):
    """Base of all errors of the collector."""


class InvalidRequest(CollectorError):
    """The request names something that is not here or is too large; the message names the field and the remedy."""


class DeadlineTooShort(CollectorError):
    """No time is left to reach the log."""


class Overloaded(CollectorError):
    """As many records wait for the log as may. Come back a little later."""


class LogDown(CollectorError):
    """The log did not acknowledge in time. Whether records landed is unknown: send them again with their event_ids."""
