"""Sends at the times of a schedule, whatever the answers do, and times each request from when it was due.

A user who waits for an answer before asking again sends least while the server is stuck, and so hardly sees the stall
(coordinated omission). Here what was due during the stall counts with all of its waiting.
"""

import contextlib
import math
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2

from loadtest.access import Access
from loadtest.recorder import Recorder
from loadtest.wire import Answer, Connection

RANK: Final = "/millrace.ranking.v1.RankingService/Rank"
CONNECTIONS: Final = 2  # a server of several processes balances connections, not calls
RECONNECT_S: Final = 0.2
Mark = tuple[float, Callable[[], object]]
_NO_MARK: Final[Mark] = (math.inf, lambda: None)
RUNGS: Final = {number: name.removeprefix("RUNG_") for name, number in events_pb2.Rung.items()}


class _Call:
    """One request under way."""

    __slots__ = ("connection", "delay_us", "due_s", "message", "number", "over")

    def __init__(self, due_s: float, delay_us: int, message: bytes) -> None:
        self.due_s = due_s
        self.delay_us = delay_us
        self.message = message
        self.connection: Connection | None = None
        self.number = 0
        self.over = False


class OpenLoop:
    """One run over its own connections. `deadline_ms` counts from the moment a request was due.

    Raises OSError where `target` (host:port) does not answer.
    """

    def __init__(
        self,
        target: str,
        access: Access,
        requests: Sequence[bytes],
        recorder: Recorder,
        *,
        deadline_ms: int,
        pool: int,
    ) -> None:
        self._target = target
        self._access = access
        self._requests = requests
        self.recorder = recorder
        self._deadline_s = deadline_ms / 1000
        self._pool = pool
        self._waiting: deque[_Call] = deque()  # by deadline, ended ones included
        self._connections: list[Connection | None] = [self._connect() for _ in range(CONNECTIONS)]
        self._retired: list[Connection] = []
        self._again_s = [0.0] * CONNECTIONS  # when to try a broken one again
        self._start_s = time.perf_counter()
        self._marks: Iterator[Mark] = iter(())
        self._mark = _NO_MARK
        self.sent = 0
        self.in_flight = 0

    def now_s(self) -> float:
        """Seconds since `run` began."""
        return time.perf_counter() - self._start_s

    def probe(self, timeout_s: float) -> Answer:
        """The end of one call that is recorded nowhere."""
        ended: list[Answer] = []
        connection = Connection(self._target, RANK, self._access, lambda _, answer: ended.append(answer))
        ends = time.monotonic() + timeout_s
        connection.call(None, self._requests[0], int(timeout_s * 1e6))
        while not ended and (left_s := ends - time.monotonic()) > 0:
            select.select([connection], [connection] if connection.wants_to_write else [], [], left_s)
            connection.flush()
            connection.read()
        connection.close()
        return ended[0] if ended else Answer("DEADLINE_EXCEEDED", detail=f"no answer in {timeout_s:g} s")

    def run(self, schedule_s: Sequence[float], marks: Iterable[Mark]) -> None:
        """The whole schedule (rising, s from now), then until the last request has ended.

        `marks` are (s from now, what to call then), rising; what they call must return at once.
        """
        self._start_s = time.perf_counter()
        self._marks = iter(marks)
        self._mark = next(self._marks, _NO_MARK)
        now_s = self.now_s
        for due_s in schedule_s:
            if due_s <= now_s():
                self._turn(0.0)  # behind: answers are taken all the same
            while (wait_s := due_s - now_s()) > 0:
                self._turn(wait_s)
            while self.in_flight >= self._pool and now_s() - due_s < self._deadline_s:
                self._turn(due_s + self._deadline_s - now_s())
            self._begin(due_s)
        while self.in_flight or self._mark is not _NO_MARK:
            self._turn(self._deadline_s)

    def close(self) -> None:
        """End the connections."""
        for connection in (*self._connections, *self._retired):
            if connection is not None:
                connection.close()

    def _begin(self, due_s: float) -> None:
        delay_s = self.now_s() - due_s
        left_s = self._deadline_s - delay_s
        if left_s <= 0 or self.in_flight >= self._pool:
            self.recorder.gave_up(due_s, _us(delay_s))
            return
        call = _Call(due_s, _us(delay_s), self._requests[self.sent % len(self._requests)])
        self.sent += 1
        self.in_flight += 1
        self._waiting.append(call)
        self._send(call)

    def _send(self, call: _Call) -> None:
        connection = self._free(self.sent)
        if connection is None:
            self._ended(call, Answer("UNAVAILABLE", detail=f"no connection to {self._target}"))
            return
        left_s = call.due_s + self._deadline_s - self.now_s()
        call.connection = connection
        call.number = connection.call(call, call.message, max(1, _us(left_s)))

    def _free(self, turn: int) -> Connection | None:
        """A connection that takes another call, from `turn` on; broken and retiring ones are made anew."""
        for step in range(CONNECTIONS):
            place = (turn + step) % CONNECTIONS
            connection = self._connections[place]
            if connection is not None and connection.retiring and not connection.broken:
                self._retired.append(connection)
            if connection is None or connection.retiring or connection.broken:
                connection = self._connections[place] = self._again(place)
            if connection is not None and connection.open:
                return connection
        return None

    def _again(self, place: int) -> Connection | None:
        if self.now_s() < self._again_s[place]:
            return None
        try:
            return self._connect()
        except OSError:
            self._again_s[place] = self.now_s() + RECONNECT_S
            return None

    def _connect(self) -> Connection:
        return Connection(self._target, RANK, self._access, self._answered)

    def _turn(self, wait_s: float) -> None:
        """Take answers for at most `wait_s`, end what is past its deadline, and keep to the marks."""
        now_s = self.now_s()
        while self._waiting and self._waiting[0].over:
            self._waiting.popleft()
        if self._waiting:
            wait_s = min(wait_s, self._waiting[0].due_s + self._deadline_s - now_s)
        wait_s = max(0.0, min(wait_s, self._mark[0] - now_s))
        live = [each for each in (*self._connections, *self._retired) if each is not None and not each.broken]
        if live:
            readable, writable, _ = select.select(live, [each for each in live if each.wants_to_write], [], wait_s)
            for connection in writable:
                connection.flush()
            for connection in readable:
                connection.read()
        else:
            time.sleep(min(wait_s, RECONNECT_S))
        self._expire()
        if self._retired:
            self._retired = [each for each in self._retired if each.calls and not each.broken]
        while self.now_s() >= self._mark[0]:
            self._mark[1]()
            self._mark = next(self._marks, _NO_MARK)

    def _expire(self) -> None:
        now_s = self.now_s()
        while self._waiting and (self._waiting[0].over or self._waiting[0].due_s + self._deadline_s <= now_s):
            call = self._waiting.popleft()
            if not call.over:
                if call.connection is not None:
                    call.connection.cancel(call.number)
                self._ended(call, Answer("DEADLINE_EXCEEDED", detail="no answer within the deadline"))

    def _answered(self, call: _Call, answer: Answer) -> None:
        if answer.untouched and self.now_s() - call.due_s < self._deadline_s:
            self._send(call)  # the server has not looked at it: gRPC's transparent retry
            return
        self._ended(call, answer)

    def _ended(self, call: _Call, answer: Answer) -> None:
        call.over = True
        self.in_flight -= 1
        latency_us = _us(self.now_s() - call.due_s)
        if answer.code == "OK":
            with contextlib.suppress(DecodeError):
                response = ranking_pb2.RankResponse.FromString(answer.message)
                model = f"{response.model_name}:{response.model_version}" if response.model_name else "none"
                self.recorder.answered(call.due_s, call.delay_us, latency_us, RUNGS[response.served_by], model)
                return
            answer = Answer("INTERNAL", detail="the answer cannot be parsed")
        self.recorder.failed(
            call.due_s, call.delay_us, latency_us, answer.code, answer.detail, pushed_back=answer.pushed_back
        )


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
