"""What a rate will do, foretold from low rates: the utilisation law for each resource, and a queue's tail.

What a resource is used grows by a fixed amount a request, U = a + b * rate (utilisation law, Denning and Buzen 1978).
The gateway's event loop is a resource of one core; the machine is one of all its cores, used by everybody on it. What
an answer waits beyond the median grows as 1 / (1 - U) of the busiest resource (the Pollaczek-Khinchine formula's pole).
Two straight lines, and no figure from near the limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

MACHINE: Final = "machine"
LOOP: Final = "gateway"  # the process whose main thread, its event loop, is a limit of its own
_LEAST_SPARE: Final = 0.01


class Observed(Protocol):
    """One rate and what it took (a `saturation.Step`)."""

    @property
    def goodput_rps(self) -> float: ...  # noqa: D102
    @property
    def p50_ms(self) -> float | None: ...  # noqa: D102
    @property
    def p99_ms(self) -> float | None: ...  # noqa: D102
    @property
    def resources(self) -> Mapping[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Line:
    """Use of one resource as a share of what it has: `at_rest`, and `per_request` more for each request a second."""

    at_rest: float
    per_request: float

    def at(self, rate: float) -> float:
        """Share used at a rate."""
        return self.at_rest + self.per_request * rate

    def rate_at(self, share: float) -> float:
        """The rate that uses that share; infinite where requests cost nothing."""
        return (share - self.at_rest) / self.per_request if self.per_request > 0 else float("inf")


@dataclass(frozen=True)
class Prediction:
    """Foretold: the rate at which p99 reaches the limit, what limits it, and the rate at which nothing is left of it.

    `spare_ms` is what 1 / (1 - use) is multiplied by, `median_ms` what an answer takes without waiting.
    """

    knee_rps: float
    limited_by: str
    exhausted_rps: float
    use_at_knee: float
    median_ms: float
    spare_ms: float
    lines: Mapping[str, Line]

    def p99_ms(self, rate: float) -> float:
        """p99 foretold for a rate; infinite where a resource is used up."""
        spare = 1 - max(line.at(rate) for line in self.lines.values())
        return self.median_ms + self.spare_ms / spare if spare > 0 else float("inf")


def predict(steps: Sequence[Observed], p99_limit_ms: float) -> Prediction | None:
    """A prediction from runs at two or more low rates; None where they gave no answers or took nothing measurable."""
    seen = [step for step in steps if step.p50_ms is not None and step.p99_ms is not None and step.resources]
    rates = np.array([step.goodput_rps for step in seen])
    if len(seen) < 2 or np.ptp(rates) <= 0:
        return None
    uses = [_uses(step.resources) for step in seen]
    lines = {name: _line(rates, [use[name] for use in uses]) for name in uses[0] if all(name in use for use in uses)}
    lines = {name: line for name, line in lines.items() if line.per_request > 0}
    if not lines:
        return None
    spare = [1 - max(line.at(rate) for line in lines.values()) for rate in rates]
    waits = [
        ((step.p99_ms or 0) - (step.p50_ms or 0)) * max(left, _LEAST_SPARE)
        for step, left in zip(seen, spare, strict=True)
    ]
    median_ms, spare_ms = float(np.median([step.p50_ms for step in seen if step.p50_ms])), float(np.median(waits))
    use = max(1 - spare_ms / max(p99_limit_ms - median_ms, 1e-6), 0.0)
    limited_by = min(lines, key=lambda name: lines[name].rate_at(use))
    return Prediction(
        knee_rps=round(max(lines[limited_by].rate_at(use), 0.0), 1),
        limited_by=limited_by,
        exhausted_rps=round(min(line.rate_at(1.0) for line in lines.values()), 1),
        use_at_knee=round(use, 4),
        median_ms=round(median_ms, 3),
        spare_ms=round(spare_ms, 3),
        lines=lines,
    )


def _uses(resources: Mapping[str, Any]) -> dict[str, float]:
    """Shares of the resources that may run out; the loop's is known where the gateway was watched."""
    loops: Mapping[str, float] = resources["main_cores"]
    uses = {MACHINE: resources["machine_cores"] / resources["machine_has"]}
    return uses | {name: used for name, used in loops.items() if name == LOOP}


def _line(rates: "np.ndarray[Any, np.dtype[np.float64]]", uses: Sequence[float]) -> Line:
    slope, rest = np.polyfit(rates, uses, 1)
    return Line(at_rest=float(rest), per_request=float(slope))
