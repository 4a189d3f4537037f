"""Locust users who ask, wait for the answer, and think. Importing this module makes gRPC cooperate with gevent."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.experimental.gevent
from locust import User, poisson, task
from locust.env import Environment

grpc.experimental.gevent.init_gevent()  # before any channel exists, or the first call blocks every other user

import gevent  # noqa: E402
from millrace.ranking.v1 import ranking_pb2  # noqa: E402

from loadtest.access import Access  # noqa: E402
from loadtest.load import Load, phases_of  # noqa: E402
from loadtest.open_loop import CONNECTIONS, RANK, RUNGS  # noqa: E402
from loadtest.recorder import Recorder  # noqa: E402
from loadtest.wire import PUSH_BACK  # noqa: E402

if TYPE_CHECKING:
    from loadtest.generator import MeasuredClock, Progress


class RankCaller:
    """Sends encoded requests in turn and records each end, timed from the moment that the caller names as due."""

    def __init__(self, load: Load, access: Access, requests: Sequence[bytes], recorder: Recorder) -> None:
        self._channels = [_channel(load.target, access) for _ in range(CONNECTIONS)]
        self._methods = [
            channel.unary_unary(RANK, response_deserializer=ranking_pb2.RankResponse.FromString)
            for channel in self._channels
        ]
        self._metadata = tuple(access.metadata())
        self._requests = requests
        self._deadline_s = load.deadline_ms / 1000
        self.recorder = recorder
        self.sent = 0
        self.in_flight = 0
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since this caller was made."""
        return time.perf_counter() - self._start_s

    def call(self) -> None:
        """Send the next request."""
        due_s = self.now_s()
        number, self.sent = self.sent, self.sent + 1
        self.in_flight += 1
        try:
            answer = self._methods[number % CONNECTIONS](
                self._requests[number % len(self._requests)], timeout=self._deadline_s, metadata=self._metadata
            )
        except grpc.RpcError as exc:
            latency_us = int((self.now_s() - due_s) * 1e6)
            pushed_back = any(name == PUSH_BACK for name, _ in exc.trailing_metadata() or ())
            self.recorder.failed(due_s, 0, latency_us, exc.code().name, exc.details() or "", pushed_back=pushed_back)
        else:
            latency_us = int((self.now_s() - due_s) * 1e6)
            model = f"{answer.model_name}:{answer.model_version}" if answer.model_name else "none"
            self.recorder.answered(due_s, 0, latency_us, RUNGS[answer.served_by], model)
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """End the connections."""
        for channel in self._channels:
            channel.close()


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
        self.caller.call()


def run_people(
    load: Load,
    access: Access,
    requests: Sequence[bytes],
    recorder: Recorder,
    clock: "MeasuredClock",
    on_progress: "Callable[[Progress], None]",
) -> int:
    """Users who wait for their answers; returns how many requests the rates promise."""
    from loadtest.generator import progress_of

    caller = RankCaller(load, access, requests, recorder)
    # asking once a second each, on average, so that the time they wait for answers hardly lowers the rate
    users = load.users or max(int(load.rate), 1)
    settings: dict[str, Any] = {"caller": caller, "wait_time": poisson(load.rate / users), "abstract": False}
    environment = Environment(user_classes=[type("Person", (PoissonGrpcUser,), settings)])
    environment.stop_timeout = load.deadline_ms / 1000 + 1
    runner = environment.create_local_runner()

    def tell() -> None:
        while True:
            gevent.sleep(1.0)
            on_progress(progress_of(load, caller))

    teller = gevent.spawn(tell)
    try:
        for number, (rate, seconds) in enumerate(((load.rate, load.warmup_s), *phases_of(load))):
            if number == 1:
                clock.lap()
            crowd = max(round(users * rate / load.rate), 1)
            runner.start(crowd, spawn_rate=crowd)
            gevent.sleep(seconds)
        clock.lap()
        runner.quit()
    finally:
        teller.kill()
        caller.close()
    return int(sum(rate * seconds for rate, seconds in phases_of(load)))


def _channel(target: str, access: Access) -> grpc.Channel:
    options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1)]
    if access.ca is None:
        return grpc.insecure_channel(target, options=options)
    if access.name is not None:
        options.append(("grpc.ssl_target_name_override", access.name))
    own = [None if path is None else path.read_bytes() for path in (access.ca, access.key, access.certificate)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*own), options=options)
