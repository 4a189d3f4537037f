"""One run inside the generator's own process: a Locust runner, its users, and the clock around them."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from locust import poisson
from locust.env import Environment

from loadtest.errors import BadInput, Unreachable
from loadtest.load import Load, arrivals, encoded_requests
from loadtest.recorder import Recorder
from loadtest.targets import Suite
from loadtest.users import OpenLoopGrpcUser, PoissonGrpcUser, RankCaller
from loadtest.verdict import Verdict, judge

import gevent  # isort: skip  # after locust, which patches the standard library for it
from gevent.event import Event  # isort: skip

_PROBE_S = 5.0  # the first request of a cold gateway pays for its caches


@dataclass(frozen=True)
class Progress:
    """How far a run is. `seconds` and `sent` count the warm-up too."""

    second: float
    seconds: float
    sent: int
    requests: int
    errors: int
    in_flight: int
    p99_ms: float | None


def generate(
    load: Load,
    suite_name: str,
    suite: Suite,
    item_ids: Sequence[int],
    user_ids: Sequence[int],
    on_progress: Callable[[Progress], None],
) -> Verdict:
    """Send the load and judge what came back.

    Raises:
        BadInput: the gateway refuses the first request as wrong.
        Unreachable: nothing that ranks answers.
    """
    recorder = Recorder(load.warmup_s)
    caller = RankCaller(load.target, encoded_requests(load, item_ids, user_ids), load.deadline_ms, recorder)
    try:
        _probe(load.target, caller)
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        gc.collect()
        gc.disable()  # a collection in the middle would be measured as the gateway's latency
        clock = _MeasuredClock(caller, load.warmup_s)
        watcher = gevent.spawn(_report, load, caller, on_progress)
        due = _run_open(load, caller, clock) if load.mode == "open" else _run_poisson(load, caller, clock)
        watcher.kill()
    finally:
        gc.enable()
        caller.close()
    spent_s = max(clock.spent_s, load.seconds)
    return judge(suite_name, suite, load, recorder, due=due, spent_s=spent_s, cpu_s=clock.cpu_s, started_at=started_at)


class _MeasuredClock:
    """Wall and processor time from the end of the warm-up to `stop`."""

    def __init__(self, caller: RankCaller, warmup_s: float) -> None:
        self._caller = caller
        self._warmup_s = warmup_s
        self._cpu_from_s = time.process_time()
        self.spent_s = 0.0
        self.cpu_s = 0.0

    def start(self) -> None:
        """Begin the run; the processor time is read again when the warm-up ends."""
        self._caller.begin()
        gevent.spawn_later(self._warmup_s, self._warm)

    def stop(self) -> None:
        """The last request of the schedule is sent."""
        self.spent_s = self._caller.now_s() - self._warmup_s
        self.cpu_s = time.process_time() - self._cpu_from_s

    def _warm(self) -> None:
        self._cpu_from_s = time.process_time()


def _run_open(load: Load, caller: RankCaller, clock: _MeasuredClock) -> int:
    """One open-loop user with the whole schedule; returns how many of its requests were measured."""
    times = arrivals(load)
    done = Event()
    settings = {
        "caller": caller,
        "schedule_s": times.tolist(),
        "pool_size": load.pool,
        "sent": staticmethod(clock.stop),
        "finished": staticmethod(done.set),
        "abstract": False,
    }
    environment = Environment(user_classes=[type("OpenLoop", (OpenLoopGrpcUser,), settings)])
    runner = environment.create_local_runner()
    clock.start()
    runner.start(1, spawn_rate=1)
    done.wait()
    runner.quit()
    return int((times >= load.warmup_s).sum())


def _run_poisson(load: Load, caller: RankCaller, clock: _MeasuredClock) -> int:
    """Users who wait for their answers; returns how many requests the rate promises."""
    # asking once a second each, on average, so that the time they wait for answers hardly lowers the rate
    users = load.users or max(int(load.rate), 1)
    settings = {"caller": caller, "wait_time": poisson(load.rate / users), "abstract": False}
    environment = Environment(user_classes=[type("Person", (PoissonGrpcUser,), settings)])
    environment.stop_timeout = load.deadline_ms / 1000 + 1
    runner = environment.create_local_runner()
    clock.start()
    runner.start(users, spawn_rate=users)
    gevent.sleep(load.warmup_s + load.seconds)
    clock.stop()
    runner.quit()
    return int(load.rate * load.seconds)


def _probe(target: str, caller: RankCaller) -> None:
    """Ask once before anything is counted, so that a wrong address is an answer and not a million errors."""
    try:
        caller.probe(_PROBE_S)
    except grpc.RpcError as exc:
        code, details = exc.code(), exc.details()
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
            raise BadInput(f"the gateway at {target} refuses this load: {details}") from exc
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return  # it sheds: that is for the run to show
        raise Unreachable(
            f"no gateway answers at {target} ({code.name}: {details}); start one with `millrace up`"
        ) from exc


def _report(load: Load, caller: RankCaller, on_progress: Callable[[Progress], None]) -> None:
    """Once a second until killed."""
    total_s = load.warmup_s + load.seconds
    while True:
        gevent.sleep(1.0)
        recorder = caller.recorder
        p99_us = recorder.latency.quantile_us(0.99)
        on_progress(
            Progress(
                second=round(min(caller.now_s(), total_s), 1),
                seconds=total_s,
                sent=caller.sent,
                requests=recorder.latency.count,
                errors=recorder.latency.count - recorder.ok_latency.count,
                in_flight=caller.in_flight,
                p99_ms=None if p99_us is None else p99_us / 1000,
            )
        )
