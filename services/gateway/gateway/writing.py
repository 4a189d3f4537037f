"""From a ring to the logs of its sources: what the process that writes impressions does."""

import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from gateway.ring import Record, Ring

PAUSE_S: Final = 0.1  # by the clock: to be woken for each record would cost both processes more than the record
BATCH: Final = 256  # records of one hand-over
ORPHAN_S: Final = 10.0  # for what is left, where nobody says how long


class Log(Protocol):
    """Where encoded impressions go."""

    def send(self, records: Sequence[tuple[int, bytes]], on_lost: Callable[[BaseException], None]) -> None:
        """Hand records over, each a user and a value. May wait; raises where it takes none of them, and tells `on_lost`
        of each that is lost later.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Wait until all is sent, at most `timeout_s`, and close."""
        ...


class Writer:
    """Takes records from a ring to the log of their source, and counts those that are lost."""

    def __init__(self, ring: Ring, logs: Sequence[Log], on_error: Callable[[BaseException], None]) -> None:
        self._ring = ring
        self._logs = logs
        self._on_error = on_error

    def run(self, orphaned: Callable[[], bool]) -> None:
        """Until the ring closes, or the writer of it is gone: then what is left is written first."""
        while True:
            records, place = self._ring.peek(BATCH)
            if records:
                self._send(records)
                self._ring.release(place)  # not before: one who comes after us finds what we did not hand over
            elif self._ring.closing_s is not None or orphaned():
                break
            else:
                time.sleep(PAUSE_S)
        ends = time.monotonic() + (ORPHAN_S if self._ring.closing_s is None else self._ring.closing_s)
        for each in self._logs:
            try:
                each.close(max(0.0, ends - time.monotonic()))
            except Exception as exc:  # noqa: BLE001  we are leaving: told, and no more to be done
                self._on_error(exc)

    def _send(self, records: Sequence[Record]) -> None:
        for source, to in enumerate(self._logs):
            mine = [(key, value) for of, key, value in records if of == source]
            try:
                if mine:
                    to.send(mine, self._lost)
            except Exception as exc:  # noqa: BLE001  whatever is wrong with Kafka must not end the log
                for _ in mine:
                    self._lost(exc)

    def _lost(self, exc: BaseException) -> None:
        self._ring.lose(1)
        self._on_error(exc)


def orphaned() -> bool:
    """Whether the gateway, which holds the other end of our stdin, is gone."""
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)
