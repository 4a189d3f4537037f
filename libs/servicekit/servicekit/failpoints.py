"""Named places where a test kills, pauses or fails a process: `fp("archiver.before_commit")`.

Armed by `MILLRACE_FAILPOINT=name:N:kill|pause|raise`, which production refuses: the Nth time that the process comes to
the place, it is killed (SIGKILL), stopped until somebody continues it (SIGSTOP), or the call raises. `tests/chaos`
kills at every one of `POINTS`.
"""

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from servicekit.errors import FailpointReached

Action = Literal["kill", "pause", "raise"]

POINTS: Final[Mapping[str, str]] = {
    "features.leased": "the lease on a partition is taken, nothing is restored",
    "features.restored": "a partition's checkpoint is loaded, the log not yet assigned",
    "features.polled": "records were read, nothing of them is folded",
    "features.folded": "records are folded, nothing of them is emitted",
    "features.rows_checked": "the lease is checked, the rows of a partition not yet written",
    "features.items_checked": "the lease is checked, the partials of a partition not yet sent",
    "features.items_sent": "a partition's partials and marker are sent, not yet acknowledged",
    "features.emitted": "rows and partials are acknowledged, no checkpoint has them",
    "features.checkpoint_written": "a checkpoint's temporary file is durable, not yet renamed",
    "features.checkpoint_renamed": "a checkpoint is renamed, its folder not yet synced",
    "features.users_evicted": "the rows of evicted users are durable, they are still in memory",
    "archiver.polled": "records were read, none of them is in a buffer",
    "archiver.before_dead_letters": "bad records are found, none is sent",
    "archiver.dead_letters_sent": "dead letters are acknowledged, their offsets not yet committed",
    "archiver.before_commit": "a table's rows are made, nothing is written",
    "archiver.committed": "a table's log entry is written, the process does not know it yet",
    "archiver.compacted": "a table's small files are merged, those that they replace not yet removed",
}
"""What has happened by then, by name."""


@dataclass(frozen=True)
class Failpoint:
    """Do `action` the `count`-th time that the process comes to `name`."""

    name: str
    count: int
    action: Action

    @classmethod
    def parse(cls, text: str) -> "Failpoint":
        """What `name:N:kill|pause|raise` says. ValueError, naming what is wrong."""
        name, _, rest = text.partition(":")
        count, _, action = rest.partition(":")
        if name not in POINTS:
            raise ValueError(f"failpoint {name!r} is none of {', '.join(POINTS)}")
        if not count.isdecimal() or int(count) < 1 or action not in get_args(Action):
            raise ValueError("must be name:N:kill, name:N:pause or name:N:raise, with N from 1")
        return cls(name, int(count), cast("Action", action))

    def __str__(self) -> str:
        return f"{self.name}:{self.count}:{self.action}"


class _Armed:
    def __init__(self, failpoint: Failpoint) -> None:
        self._failpoint = failpoint
        self._left = failpoint.count
        self._lock = threading.Lock()

    def reach(self, name: str) -> None:
        if name != self._failpoint.name:
            return
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
        if self._failpoint.action == "raise":
            raise FailpointReached(f"{self._failpoint}, as MILLRACE_FAILPOINT asked for")
        os.kill(os.getpid(), signal.SIGKILL if self._failpoint.action == "kill" else signal.SIGSTOP)


_armed: _Armed | None = None


def arm(failpoint: Failpoint | None) -> None:
    """Arm one place, and no other; None: none at all. `kit.start` does it from the settings."""
    global _armed
    _armed = None if failpoint is None else _Armed(failpoint)


def fp(name: str) -> None:
    """The process is at the place `name` of `POINTS`. Unarmed, one comparison."""
    if _armed is not None:
        _armed.reach(name)
