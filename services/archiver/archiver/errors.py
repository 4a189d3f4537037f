"""What ends the archiver, or makes it wait."""


class ArchiverError(Exception):
    """Base of all errors of this service."""


class RecordsGone(ArchiverError):
    """The log no longer has, or never had, the records after what is archived. A retry never helps."""


class DeadLettersUnavailable(ArchiverError):
    """Dead letters were not acknowledged. They are sent again: a repeat is harmless, a loss is not."""


class FlushTimeout(ArchiverError):
    """The log's end was not archived in time; the process goes on."""
