"""What ends the archiver, or makes it wait."""


class ArchiverError(Exception):
    """Base of all errors of this service."""


class RecordsGone(ArchiverError):
    """Retention removed records that were never archived. A retry never helps."""


class DeadLettersUnavailable(ArchiverError):
    """Dead letters were not acknowledged. They are sent again: a repeat is harmless, a loss is not."""


class FlushTimeout(ArchiverError):
    """The log's end was not archived in time; the process goes on."""
