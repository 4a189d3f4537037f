"""The newest requests as queries, read back from the log of impressions: what a process warms up with."""

import time
from typing import Final

import numpy as np
import structlog
from definitions.assembly import RequestContext
from google.protobuf.message import DecodeError
from millrace.events.v1 import events_pb2 as pb
from servicekit.errors import LogError
from servicekit.kafka import assign, end_offsets, first_offsets, opened_consumer
from servicekit.topics import topic

from gateway.query import Query

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.replayed")

READ_S: Final = 2.0
_CONNECT_S: Final = 2.0


def recent_queries(bootstrap: str, usecase: str, count: int) -> list[Query]:
    """About `count` of the newest requests that were answered, of all partitions; none where there is no log to read.

    Their time is left out: they are asked again as of now.
    """
    name = topic(usecase, "impressions")
    found: list[Query] = []
    try:
        first, ends = (offsets(bootstrap, name, connect_s=_CONNECT_S) for offsets in (first_offsets, end_offsets))
        of_each = -(-count // max(1, len(ends)))
        starts = {at: max(first[at], end - of_each) for at, end in ends.items() if end > first[at]}
        missing = sum(ends[at] - start for at, start in starts.items())
        if not starts:
            return []
        with opened_consumer(bootstrap, connect_s=_CONNECT_S) as consumer:
            assign(consumer, name, starts)
            gives_up = time.monotonic() + READ_S
            while missing > 0 and time.monotonic() < gives_up:
                for records in consumer.poll(timeout_ms=200).values():
                    missing -= len(records)
                    found += [query for record in records if (query := _query(record.value)) is not None]
    except LogError as exc:
        log.warning("no requests to warm up with", usecase=usecase, error=str(exc))
    return found


def _query(value: bytes) -> Query | None:
    try:
        impression = pb.Impression.FromString(value)
    except DecodeError:
        return None
    shown = sum(1 for position in impression.positions if position)
    if not shown:  # a shadow's
        return None
    context = impression.context
    asked = "requested" in impression.reasons
    return Query(
        user_id=impression.user_id,
        item_ids=np.sort(np.array(impression.item_ids, np.uint64)) if asked else None,
        limit=shown,
        context=RequestContext(context.device, context.surface, context.country),
        session_id=context.session_id,
    )
