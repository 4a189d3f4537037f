"""Collects what happened to each request, by the second in which it was due."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from loadtest.histogram import Histogram, milliseconds

OK = "OK"
DROPPED = "DROPPED"
LATE_US = 10_000  # a start this far behind its schedule is the generator's fault or a full pool, not a timer's


@dataclass
class Second:
    """Everything due in one second."""

    latency: Histogram = field(default_factory=Histogram)
    ok_latency: Histogram = field(default_factory=Histogram)
    codes: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)


class Recorder:
    """One run's figures. Requests due before `warmup_s` are sent, counted, and left out of everything else."""

    def __init__(self, warmup_s: float) -> None:
        self._warmup_s = warmup_s
        self.warmup_requests = 0
        self.latency = Histogram()  # every request that was due, dropped ones at the moment of giving up
        self.ok_latency = Histogram()
        self.start_delay = Histogram()
        self.codes: Counter[str] = Counter()
        self.rungs: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.late = 0
        self.dropped = 0
        self.shed = 0
        self.last_sent_s = 0.0  # on the run's clock, warm-up included
        self.first_details: dict[str, str] = {}
        self.seconds: dict[int, Second] = {}

    def answered(self, due_s: float, delay_us: int, latency_us: int, rung: str, model: str) -> None:
        """An OK answer, `latency_us` after it was due; the call began `delay_us` after that moment."""
        if (second := self._second(due_s)) is None:
            return
        self._ended(second, due_s, delay_us, latency_us, OK)
        self.ok_latency.record(latency_us)
        second.ok_latency.record(latency_us)
        self.rungs[rung] += 1
        second.rungs[rung] += 1
        self.models[model] += 1

    def failed(
        self, due_s: float, delay_us: int, latency_us: int, code: str, detail: str, *, pushed_back: bool = False
    ) -> None:
        """Any other status; the first detail of each code is kept for the report.

        `pushed_back`: the server said when to come again, which is what shedding means.
        """
        if (second := self._second(due_s)) is None:
            return
        self._ended(second, due_s, delay_us, latency_us, code)
        self.shed += pushed_back
        self.first_details.setdefault(code, detail)

    def gave_up(self, due_s: float, latency_us: int) -> None:
        """Never sent: the pool was full until the caller's deadline had passed."""
        if (second := self._second(due_s)) is None:
            return
        self.dropped += 1
        self._ended(second, due_s, latency_us, latency_us, DROPPED)
        self.first_details.setdefault(DROPPED, "every slot of the pool was waiting for an answer")

    def between(self, from_s: float, to_s: float) -> Second:
        """Everything due in the whole seconds of that span, counted from the end of the warm-up."""
        total = Second()
        for number, second in self.seconds.items():
            if from_s <= number < to_s:
                total.latency.add(second.latency)
                total.ok_latency.add(second.ok_latency)
                total.codes.update(second.codes)
                total.rungs.update(second.rungs)
        return total

    def timeline(self) -> list[dict[str, Any]]:
        """One entry a measured second, in order, gaps included."""
        entries: list[dict[str, Any]] = []
        for number in range(max(self.seconds, default=-1) + 1):
            second = self.seconds.get(number, Second())
            entries.append(
                {
                    "second": number,
                    "requests": second.latency.count,
                    "p50_ms": milliseconds(second.latency.quantile_us(0.5)),
                    "p99_ms": milliseconds(second.latency.quantile_us(0.99)),
                    "max_ms": milliseconds(second.latency.max_us) if second.latency.count else None,
                    "rungs": dict(second.rungs),
                    "errors": {code: n for code, n in second.codes.items() if code != OK},
                }
            )
        return entries

    def _second(self, due_s: float) -> Second | None:
        if due_s < self._warmup_s:
            self.warmup_requests += 1
            return None
        return self.seconds.setdefault(int(due_s - self._warmup_s), Second())

    def _ended(self, second: Second, due_s: float, delay_us: int, latency_us: int, code: str) -> None:
        self.latency.record(latency_us)
        second.latency.record(latency_us)
        self.start_delay.record(delay_us)
        self.last_sent_s = max(self.last_sent_s, due_s + delay_us / 1e6)
        self.codes[code] += 1
        second.codes[code] += 1
        self.late += delay_us > LATE_US
