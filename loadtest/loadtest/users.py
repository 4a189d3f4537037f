"""Locust users that call `Rank` over gRPC. Importing this module makes gRPC cooperate with gevent."""

import time
from collections.abc import Callable, Sequence

import grpc
import grpc.experimental.gevent
from locust import User, constant, task

grpc.experimental.gevent.init_gevent()  # before any channel exists, or the first call blocks every other user

import gevent  # noqa: E402
from gevent.pool import Pool  # noqa: E402
from millrace.events.v1 import events_pb2  # noqa: E402
from millrace.ranking.v1 import ranking_pb2  # noqa: E402

from loadtest.recorder import Recorder  # noqa: E402

RANK = "/millrace.ranking.v1.RankingService/Rank"
_CHANNELS = 2  # a server of several processes balances connections, not calls
_RUNGS = {number: name.removeprefix("RUNG_") for name, number in events_pb2.Rung.items()}


class RankCaller:
    """Sends encoded requests in turn and records each end, timed from the moment that the caller names as due."""

    def __init__(self, target: str, requests: Sequence[bytes], deadline_ms: int, recorder: Recorder) -> None:
        self._channels = [
            grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(_CHANNELS)
        ]
        self._methods = [
            channel.unary_unary(RANK, response_deserializer=ranking_pb2.RankResponse.FromString)
            for channel in self._channels
        ]
        self._requests = requests
        self._deadline_s = deadline_ms / 1000
        self.recorder = recorder
        self.sent = 0
        self.in_flight = 0
        self.start_s = 0.0

    def begin(self) -> None:
        """Start the clock of this run."""
        self.start_s = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since `begin`."""
        return time.perf_counter() - self.start_s

    def probe(self, timeout_s: float) -> None:
        """One call, recorded nowhere.

        Raises:
            grpc.RpcError: what the target answered.
        """
        self._methods[0](self._requests[0], timeout=timeout_s, wait_for_ready=True)

    def call(self, due_s: float) -> None:
        """Send the next request, which was due at `due_s` on this run's clock, within what its deadline leaves."""
        delay_s = self.now_s() - due_s
        left_s = self._deadline_s - delay_s
        if left_s <= 0:
            self.recorder.gave_up(due_s, _us(delay_s))
            return
        number, self.sent = self.sent, self.sent + 1
        self.in_flight += 1
        try:
            answer = self._methods[number % _CHANNELS](self._requests[number % len(self._requests)], timeout=left_s)
        except grpc.RpcError as exc:
            latency_us = _us(self.now_s() - due_s)
            self.recorder.failed(due_s, _us(delay_s), latency_us, exc.code().name, exc.details() or "")
        else:
            latency_us = _us(self.now_s() - due_s)
            model = f"{answer.model_name}:{answer.model_version}" if answer.model_name else "none"
            self.recorder.answered(due_s, _us(delay_s), latency_us, _RUNGS[answer.served_by], model)
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """End both connections."""
        for channel in self._channels:
            channel.close()


class OpenLoopGrpcUser(User):
    """Sends at the times of a schedule, whatever the answers do, and times each request from when it was due.

    A user who waits for an answer before asking again sends least while the server is stuck, and so hardly sees the
    stall (coordinated omission). Here what was due during the stall counts with all of its waiting.
    """

    abstract = True
    wait_time = constant(0)
    caller: RankCaller
    schedule_s: Sequence[float]
    pool_size: int
    sent: Callable[[], None]
    finished: Callable[[], None]

    @task
    def run_schedule(self) -> None:
        """The whole schedule; this user's only task."""
        pool = Pool(self.pool_size)
        caller = self.caller
        for due_s in self.schedule_s:
            if (wait_s := due_s - caller.now_s()) > 0:
                gevent.sleep(wait_s)
            pool.spawn(caller.call, due_s)  # waits while the pool is full: that time counts for what is due meanwhile
        self.sent()
        pool.join()
        self.finished()
        gevent.sleep(3600)  # the runner ends this user


class PoissonGrpcUser(User):
    """A person: asks, waits for the answer, thinks for an exponential time. Many of them make a Poisson process."""

    abstract = True
    caller: RankCaller

    def on_start(self) -> None:
        """Think first: users who all ask the moment they arrive would begin the run with one burst."""
        gevent.sleep(self.wait_time())

    @task
    def rank(self) -> None:
        """One request, due when the user thought of it."""
        self.caller.call(self.caller.now_s())


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
