"""kafka-python's errors as ours."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import kafka.errors as foreign

from servicekit import errors

# Most specific first.
_TRANSLATION: Final[Sequence[tuple[tuple[type[BaseException], ...], type[errors.LogError]]]] = (
    ((foreign.UnknownTopicOrPartitionError, foreign.InvalidTopicError), errors.UnknownTopic),
    ((foreign.MessageSizeTooLargeError, foreign.RecordListTooLargeError), errors.RecordTooLarge),
    ((foreign.OffsetOutOfRangeError, foreign.NoOffsetForPartitionError, foreign.LogTruncationError), errors.OffsetGone),
    ((foreign.CorruptRecordError,), errors.CorruptLog),
    (
        (
            foreign.OutOfOrderSequenceNumberError,
            foreign.UnknownProducerIdError,
            foreign.InvalidProducerEpochError,
            foreign.ProducerFencedError,
            foreign.IllegalStateError,
        ),
        errors.ProducerBroken,
    ),
    ((foreign.RetriableError, foreign.BrokerNotAvailableError, OSError), errors.LogUnavailable),
    ((foreign.KafkaError,), errors.LogRefused),
)


def translate(exc: BaseException, what: str) -> errors.LogError:
    """Our error for kafka-python's, to be raised `from exc`; `what` says what was being done."""
    for theirs, ours in _TRANSLATION:
        if isinstance(exc, theirs):
            return ours(f"{what}: {type(exc).__name__}: {exc}")
    return errors.LogRefused(f"{what}: {type(exc).__name__}: {exc}")


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises our errors for kafka-python's: `with translated("reading movies.items"): consumer.poll()`."""
    try:
        yield
    except (foreign.KafkaError, OSError) as exc:
        raise translate(exc, what) from exc
