"""`python -m definitions.compile`: have every kernel compiled, so that no start does it.

Set-up and image builds run it; where all is compiled it takes a second or two. A kernel is compiled for the types that
it is called with, so it is called, with a use case that has everything.
"""

import sys
import time

import numpy as np
from millrace.events.v1 import events_pb2 as pb

from definitions import assembly, codes, rerank
from definitions.backfill import Queries, backfill
from definitions.column_decode import decode_interactions_columns
from definitions.dedupe import Deduper
from definitions.events import EventColumns
from definitions.item_table import ItemTable
from definitions.layout import layout_of
from definitions.record_columns import RecordColumns
from definitions.records import LogRecord
from definitions.usecase import UseCase
from definitions.user_state import UserTable

_USECASE = {
    "usecase": "compile",
    "actions": [{"name": "view", "label": 1}],
    "seen": {"actions": ["view"], "last": 2},
    "features": [{"name": "u_views", "of": "user", "kind": "count", "windows": ["1h", "all"]}],
}
_BACKFILLED = _USECASE | {
    "attributes": {"item": {"kind": "category"}},
    "category": "item.kind",
    "features": [
        {"name": "u_views", "of": "user", "kind": "sum", "windows": ["1h", "all"]},
        {"name": "u_now", "of": "user", "kind": "decayed_count", "half_life": "1h"},
        {"name": "u_last", "of": "user", "kind": "last_k", "k": 2},
        {"name": "u_kinds", "of": "user", "kind": "affinity", "k": 2, "half_life": "1h", "positive": "view"},
        {"name": "x_kind", "of": "cross", "kind": "affinity_share", "table": "u_kinds"},
        {"name": "i_now", "of": "item", "kind": "decayed_count", "half_life": "1h"},
        {"name": "i_mean", "of": "item", "kind": "mean", "windows": ["all"]},
        {"name": "x_gap", "of": "cross", "kind": "recent_residual", "history": "u_last", "last": [2]}
        | {"item_mean": "i_mean"},
    ],
}


def main() -> int:
    """Fold a few events, save and load what comes of it, and ask for features of the past."""
    began = time.monotonic()
    usecase = UseCase.model_validate(_USECASE)
    layout = layout_of(usecase)
    message = pb.Interaction(event_id=1, user_id=1, item_id=1, event_time_us=1).SerializeToString()
    log = RecordColumns.of([LogRecord(0, 1, (1).to_bytes(8, "big"), message)])
    decode_interactions_columns(usecase, 0, log)
    events = EventColumns.of(
        200,
        event_id=range(1, 201),
        user_id=range(1, 201),
        item_id=range(1, 201),
        event_time_us=np.ones(200),
        offset=range(200),
    )
    users, items, deduper = UserTable(layout), ItemTable(layout), Deduper(10)
    deduper.keep(events.event_id, events.offset)
    deduper.load(deduper.save())
    for table in (users, items):
        table.fold(events)
        table.take_dirty()
        table.load(table.save())
    users.fold_users([pb.User(id=1, deleted=True)], [0])
    ids = range(1, 201)
    backfilled = layout_of(UseCase.model_validate(_BACKFILLED))
    assembly.compiled(backfilled)
    backfill(backfilled, events, {}, {}, Queries.of(ids, ids, np.full(200, 2)))
    codes.compiled()
    rerank.compiled()
    sys.stdout.write(f"kernels are compiled ({time.monotonic() - began:.0f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
