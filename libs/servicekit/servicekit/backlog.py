"""How long a call has waited here before anybody looked at it: gRPC says how many have come, and never when.

A busy event loop takes a call from gRPC's own queue every few turns; until then no code of ours has seen it. What
gRPC's channelz counts is enough: of the calls that have begun and not ended, those that nobody has taken wait, and
they are the newest. When the oldest of them came is read from how the number of calls grew.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from grpc._cython import cygrpc  # where gRPC's own channelz service asks; there is no other way in

EVERY_S: Final = 0.02  # between two looks
BUSY_EVERY_S: Final = 0.01  # between two counts while calls wait: 350 us each, in a gateway under load
LATE_S: Final = 0.004  # so late a look is still on time
IDLE: Final = 0.4  # of the time since the last look: a loop that slept for so much of it has taken all that came
FEW: Final = 2  # so many are on their way to us, or ended and not yet counted as such
_waited_s: ContextVar[float] = ContextVar("waited_s", default=0.0)
_KEPT: Final = 256  # counts: at least 1.3 s


@dataclass(frozen=True, slots=True)
class Calls:
    """Of one server, since its start: calls that have come, and those of them that have ended."""

    begun: int
    ended: int


class Backlog:
    """The calls of one gRPC server that wait to be taken. Belongs to its event loop.

    `count` says how many have come and ended, `clock` the time in seconds, `worked` the processor seconds of the loop's
    thread. Whoever makes one calls `look` each `EVERY_S`, also while nothing comes: a call's time is known no better
    than that.
    """

    def __init__(
        self,
        count: Callable[[], Calls] = lambda: Calls(0, 0),
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._count = count
        self._clock = clock
        self._worked = worked
        self._looked = (clock(), 0.0)  # when, and what the thread had worked by then
        self._held = 0  # taken, and not ended
        self._begun = 0  # as counted, and those that were taken since
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=_KEPT)  # when, how many had come
        self.waiting = 0

    @property
    def waited_s(self) -> float:
        """What the call waited in whose task this is asked; 0 outside of one."""
        return _waited_s.get()

    def bind(self, count: Callable[[], Calls]) -> None:
        """Count these calls from now on."""
        self._count = count
        self.sample()

    def look(self) -> None:
        """See how many have come. gRPC is not asked by a loop that has time: whoever came has been taken."""
        (before, had_worked), now, worked = self._looked, self._clock(), self._worked()
        self._looked, passed = (now, worked), now - before
        if passed <= EVERY_S + LATE_S and worked - had_worked <= (1 - IDLE) * passed:
            self._seen.append((now, self._begun))
            self.waiting = 0
        else:
            self.sample()

    def sample(self) -> None:
        """Ask gRPC how many have come."""
        calls = self._count()
        self._begun = calls.begun
        self._seen.append((self._clock(), calls.begun))
        self.waiting = max(0, calls.begun - calls.ended - self._held)

    def taken_by(self, task: "asyncio.Task[Any] | None") -> None:
        """gRPC hands a call to this task, which is running: before its message is there, which may never come."""
        _waited_s.set(self.taken())
        if task is not None:
            task.add_done_callback(lambda _: self.ended())

    def taken(self) -> float:
        """A call is looked at for the first time; tell `ended` when it is over. Returns the seconds that it waited."""
        now = self._clock()
        if now - self._seen[-1][0] >= (BUSY_EVERY_S if self.waiting > FEW else EVERY_S + LATE_S):
            self.sample()
        elif not self.waiting:
            self._begun += 1
        ahead_of = max(0, self.waiting - 1)  # those that came later, and wait too
        self.waiting = ahead_of
        self._held += 1
        return now - self._came(self._seen[-1][1] - ahead_of) if ahead_of >= FEW else 0.0

    def ended(self) -> None:
        """A call that was taken is over."""
        self._held -= 1

    def _came(self, number: int) -> float:
        """When the call of that number came, supposing that between two counts they came evenly."""
        later_at, later = self._seen[-1]
        for at, begun in reversed(self._seen):
            if begun < number:
                return at + (later_at - at) * (number - begun) / (later - begun)
            later_at, later = at, begun
        return later_at


def newest_server() -> Callable[[], Calls]:
    """Counts the calls of the gRPC server of this process that was made last; of none, where gRPC counts nothing."""
    servers: list[Any] = []
    while True:
        page = json.loads(cygrpc.channelz_get_servers(servers[-1] + 1 if servers else 0))
        servers += [int(each["ref"]["serverId"]) for each in page.get("server", ())]
        if page.get("end", True):
            break
    if not servers:
        return lambda: Calls(0, 0)
    number = max(servers)

    def count() -> Calls:
        data = json.loads(cygrpc.channelz_get_server(number))["server"]["data"]
        return Calls(int(data["callsStarted"]), int(data["callsSucceeded"]) + int(data["callsFailed"]))

    return count
