"""SLO targets as data: what a suite asks of the gateway, and what it must get."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadtest.errors import BadInput

DEFAULT_TARGETS = Path(__file__).with_name("targets.yaml")
RUNGS = ("MODEL", "LOCAL_MODEL", "PRECOMPUTED", "POPULAR")

Share = Annotated[float, Field(ge=0, le=1)]


class Limits(BaseModel):
    """What a run must reach; an absent limit is not checked. Latencies in ms, from the schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: float | None = Field(None, gt=0)
    p99_ms: float | None = Field(None, gt=0)
    p999_ms: float | None = Field(None, gt=0)
    error_share: Share = 0.0
    achieved_share: Share = 0.98
    generator_cpu_share: float = Field(0.8, gt=0)
    rungs: Mapping[str, Share] = Field(default_factory=dict)


class Suite(BaseModel):
    """One named load with its limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    rate: float = Field(gt=0, le=2000)
    candidates: int = Field(ge=1, le=2000)
    seconds: float = Field(gt=0, le=3600)
    warmup_s: float = Field(5.0, ge=0, le=600)
    deadline_ms: int = Field(250, ge=5, le=60_000)
    limits: Limits


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
