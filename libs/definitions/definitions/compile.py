"""`python -m definitions.compile`: have every kernel of the streaming path compiled, so that no process start does it.

Set-up and image builds run it; where all is compiled it takes a second or two. A kernel is compiled for the types that
it is called with, so it is called, with a use case that has everything.
"""

import sys
import time

import numpy as np
from millrace.events.v1 import events_pb2 as pb

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


def main() -> int:
    """Fold a few events, and save and load what comes of it."""
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
    sys.stdout.write(f"kernels are compiled ({time.monotonic() - began:.0f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
