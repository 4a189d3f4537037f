"""The one place that knows kafka-python: clients with our settings, and its errors translated into ours.

Partitions are assigned by hand and offsets live with the output (never in consumer groups), so auto-commit is off.
"""

from servicekit.kafka.boundary import translate, translated
from servicekit.kafka.clients import (
    CONNECT_S,
    MAX_POLL_RECORDS,
    MAX_REQUEST_BYTES,
    assign,
    bounds_of,
    end_offsets,
    first_offsets,
    log_id,
    make_consumer,
    make_producer,
    opened_consumer,
    partitions_of,
)
from servicekit.kafka.reader import BatchHandler, BatchReader, Handler, Record, TopicReader

__all__ = [
    "CONNECT_S",
    "MAX_POLL_RECORDS",
    "MAX_REQUEST_BYTES",
    "BatchHandler",
    "BatchReader",
    "Handler",
    "Record",
    "TopicReader",
    "assign",
    "bounds_of",
    "end_offsets",
    "first_offsets",
    "log_id",
    "make_consumer",
    "make_producer",
    "opened_consumer",
    "partitions_of",
    "translate",
    "translated",
]
