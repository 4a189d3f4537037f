"""SLO targets as data: what a suite asks of the gateway, and what it must get."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtest.errors import BadInput
from loadtest.load import MAX_RATE

DEFAULT_TARGETS = Path(__file__).with_name("targets.yaml")
RUNGS = ("MODEL", "LOCAL_MODEL", "PRECOMPUTED", "POPULAR")

Share = Annotated[float, Field(ge=0, le=1)]


class Limits(BaseModel):
    """What a run must reach; an absent limit is not checked. Latencies in ms, from the schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: float | None = Field(None, gt=0)
    p99_ms: float | None = Field(None, gt=0)
    p999_ms: float | None = Field(None, gt=0)
    ok_p99_ms: float | None = Field(None, gt=0)
    error_share: Share = 0.0
    unshed_share: Share | None = None
    recovery_s: float | None = Field(None, ge=0)
    p99_drift: float | None = Field(None, gt=0)
    rss_growth_mib: float | None = Field(None, gt=0)
    achieved_share: Share = 0.98
    generator_cpu_share: float = Field(0.8, gt=0)
    rungs: Mapping[str, Share] = Field(default_factory=dict)


class Phase(BaseModel):
    """A part of a suite's time with a rate of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seconds: float = Field(gt=0, le=3600)
    rate: float = Field(gt=0, le=MAX_RATE)


class Search(BaseModel):
    """How the saturation search goes, and what it must find. A suite with one steps its rate up from `rate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibrate: tuple[float, ...] = Field(min_length=2)
    factor: float = Field(1.25, gt=1, le=4)
    precision: float = Field(0.05, gt=0, lt=1)
    max_rate: float = Field(MAX_RATE, gt=0, le=MAX_RATE)
    knee_p99_ms: float = Field(gt=0)
    knee_model_share: Share
    confirm_s: float = Field(gt=0, le=600)
    overload: float = Field(gt=1, le=10)
    goodput_share: Share
    overload_p99_ms: float = Field(gt=0)
    unshed_share: Share = 0.0
    model_error: float = Field(gt=0)


class Suite(BaseModel):
    """One named load with its limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    rate: float = Field(gt=0, le=MAX_RATE)
    candidates: int = Field(ge=1, le=2000)
    seconds: float = Field(gt=0, le=3600)
    warmup_s: float = Field(5.0, ge=0, le=600)
    deadline_ms: int = Field(250, ge=5, le=60_000)
    runs: int = Field(1, ge=1, le=9)
    phases: tuple[Phase, ...] = ()
    search: Search | None = None
    limits: Limits

    @model_validator(mode="after")
    def _phases_fill_the_time(self) -> "Suite":
        if self.phases and abs(sum(phase.seconds for phase in self.phases) - self.seconds) > 1e-6:
            raise ValueError(f"phases last {sum(p.seconds for p in self.phases):g} s, seconds says {self.seconds:g}")
        return self

    def scaled(self, rate: float, seconds: float) -> "Suite":
        """This suite at another rate, for another time: its phases keep their proportions."""
        phases = [
            phase.model_copy(
                update={"rate": phase.rate * rate / self.rate, "seconds": phase.seconds * seconds / self.seconds}
            )
            for phase in self.phases
        ]
        return self.model_copy(update={"rate": rate, "seconds": seconds, "phases": tuple(phases)})


def load_suite(name: str, path: Path = DEFAULT_TARGETS) -> Suite:
    """The suite `name` of the YAML file `path`.

    Raises:
        BadInput: no such file or suite, or a field that is wrong; named with the remedy.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInput(f"targets file {path} cannot be read ({exc.strerror}); give the path of a targets.yaml") from exc
    except yaml.YAMLError as exc:
        raise BadInput(f"targets file {path} is no YAML: {exc}") from exc
    suites = document.get("suites") if isinstance(document, dict) else None
    if not isinstance(suites, dict):
        raise BadInput(f"targets file {path} has no mapping `suites`")
    if name not in suites:
        raise BadInput(f"suite {name!r} is not in {path}; it has: {', '.join(sorted(suites))}")
    try:
        suite = Suite.model_validate(suites[name])
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise BadInput(f"suite {name!r} in {path}: {problems}") from exc
    if unknown := set(suite.limits.rungs) - set(RUNGS):
        raise BadInput(f"suite {name!r} in {path}: limits.rungs: {sorted(unknown)} are none of {', '.join(RUNGS)}")
    return suite
