"""One run inside the generator's own process: the load, the clock around it, and the verdict."""

import gc
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from loadtest.access import Access
from loadtest.errors import BadInput, Unreachable
from loadtest.load import Load, arrivals, encoded_requests
from loadtest.open_loop import Mark, OpenLoop
from loadtest.recorder import Recorder
from loadtest.targets import Suite
from loadtest.verdict import Verdict, judge
from loadtest.watching import Reading, Resources, Watch
from loadtest.wire import Answer

PROBE_S: Final = 5.0  # the first request of a cold gateway pays for its caches
_REFUSED: Final = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"})


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


class Sender(Protocol):
    """What sends a load and can say how far it is."""

    recorder: Recorder
    sent: int
    in_flight: int

    def now_s(self) -> float:
        """Seconds since the run began."""
        ...


def generate(
    load: Load,
    suite_name: str,
    suite: Suite,
    item_ids: Sequence[int],
    user_ids: Sequence[int],
    on_progress: Callable[[Progress], None],
    *,
    access: Access | None = None,
    watch: Watch | None = None,
) -> Verdict:
    """Send the load and judge what came back.

    Raises:
        BadInput: the gateway refuses the first request as wrong.
        Unreachable: nothing that ranks answers.
    """
    access, recorder = access or Access(), Recorder(load.warmup_s)
    requests = encoded_requests(load, item_ids, user_ids)
    clock = MeasuredClock(watch or Watch())
    try:
        loop = OpenLoop(load.target, access, requests, recorder, deadline_ms=load.deadline_ms, pool=load.pool)
    except OSError as exc:
        raise unreachable(load.target, str(exc)) from exc
    try:
        check_probe(load.target, loop.probe(PROBE_S))
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        gc.collect()
        gc.disable()  # a collection in the middle would be measured as the gateway's latency
        if load.mode == "open":
            times = arrivals(load)
            loop.run(times.tolist(), _marks(load, clock, lambda: on_progress(progress_of(load, loop))))
            due = int((times >= load.warmup_s).sum())
        else:
            from loadtest.people import run_people  # patches sockets and locks of this process

            due = run_people(load, access, requests, recorder, clock, on_progress)
        spent_s = max(recorder.last_sent_s - load.warmup_s, load.seconds)
    finally:
        gc.enable()
        loop.close()
    return judge(
        suite_name, suite, load, recorder, due=due, spent_s=spent_s, resources=clock.resources(), started_at=started_at,
    )  # fmt: skip


class MeasuredClock:
    """What is taken from the end of the warm-up to the end of the schedule. Reads beside the load, in threads."""

    def __init__(self, watch: Watch) -> None:
        self._watcher = watch.opened()
        self._readings: list[Reading] = []
        self._threads: list[threading.Thread] = []

    def lap(self) -> None:
        """Read how things stand: called at both ends."""
        thread = threading.Thread(target=lambda: self._readings.append(self._watcher.read()))
        thread.start()
        self._threads.append(thread)

    def resources(self) -> Resources:
        """What was taken between the two."""
        for thread in self._threads:
            thread.join()
        return Resources.between(self._readings[0], self._readings[-1]) if len(self._readings) > 1 else Resources()


def _marks(load: Load, clock: MeasuredClock, tell: Callable[[], None]) -> list[Mark]:
    """Progress each second, and the clock at both ends of the measured time."""
    total_s = load.warmup_s + load.seconds
    told: list[Mark] = [(float(second), tell) for second in range(1, int(total_s) + 1)]
    return sorted([*told, (load.warmup_s, clock.lap), (total_s - 1e-6, clock.lap)], key=lambda mark: mark[0])


def check_probe(target: str, answer: Answer) -> None:
    """A wrong address is to be an answer and not a million errors. Raises BadInput, Unreachable."""
    if answer.code in _REFUSED:
        raise BadInput(f"the gateway at {target} refuses this load: {answer.code}: {answer.detail}")
    if answer.code not in ("OK", "RESOURCE_EXHAUSTED"):  # one that sheds is for the run to show
        raise unreachable(target, f"{answer.code}: {answer.detail}")


def unreachable(target: str, why: str) -> Unreachable:
    """Nobody answers, and what to do."""
    return Unreachable(f"no gateway answers at {target} ({why}); start one with `millrace up`")


def progress_of(load: Load, sender: Sender) -> Progress:
    """How far the run is."""
    total_s, recorder = load.warmup_s + load.seconds, sender.recorder
    p99_us = recorder.latency.quantile_us(0.99)
    return Progress(
        second=round(min(sender.now_s(), total_s), 1),
        seconds=total_s,
        sent=sender.sent,
        requests=recorder.latency.count,
        errors=recorder.latency.count - recorder.ok_latency.count,
        in_flight=sender.in_flight,
        p99_ms=None if p99_us is None else p99_us / 1000,
    )
