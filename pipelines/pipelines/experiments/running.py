"""`millrace experiment start`, `grow` and `stop`: read what serves, change it, publish all of it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle import Trust
from definitions.serving_state import loaded_pins
from definitions.usecase import UseCase
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines import decisions
from pipelines.deploy import pin_of
from pipelines.errors import BadInputError, DeployError
from pipelines.experiments import changes
from pipelines.experiments.changes import ArmSpec
from pipelines.experiments.design import Design, primary_of
from pipelines.placing import Clock, let_go, open_bundle, place
from pipelines.progress import SILENT, Progress
from pipelines.triton_repository import Repository

ACTOR = "millrace experiment"
_EXAMPLE = '{"diversity": {"lambda": 0.7, "by": "genre"}}'


@dataclass(frozen=True, slots=True)
class ArmAsked:
    """An arm as a person asks for it. `bundle`: folder of a version; None = what serves everybody.

    `rules`: JSON of what is other than in everybody's rules as they are when the experiment begins; empty = nothing.
    """

    name: str
    share: float
    bundle: Path | None = None
    rules: str = ""


@dataclass(frozen=True, slots=True)
class Placing:
    """Where versions of arms are put, as in `deploy`. `promoted_only`: no version that the gate has not let pass."""

    triton: str | None = None
    repository: Repository | None = None
    trust: Trust | None = None
    promoted_only: bool = False


def start(
    bootstrap: str, usecase: UseCase, name: str, arms: Sequence[ArmAsked], *, layer: str, control: str, primary: str,
    planned_users: int, placing: Placing, interleaved: bool = False, actor: str = ACTOR, reason: str = "",
    progress: Progress = SILENT,
) -> Design:  # fmt: skip
    """Begin an experiment; it is on the log when this returns.

    Raises:
        BadInputError: it is no experiment, or does not go with what runs.
        DeployError: a version was refused, or Kafka did not take the decision; what served before still does.
        UnavailableError: Kafka or Triton does not answer.
    """
    primary, now_us = primary_of(usecase, primary), _now_us()
    pins: dict[str, pb.ModelPin] = {}

    def begin(state: pb.ServingState) -> pb.ServingState:
        specs = [
            ArmSpec(arm.name, arm.share, pins.get(arm.name), arm.rules and _rules(usecase, state, arm)) for arm in arms
        ]
        return changes.started(
            state, name, specs, layer=layer, control=control, primary=primary, planned_users=planned_users,
            now_us=now_us, interleaved=interleaved,
        )  # fmt: skip

    clock = Clock(progress)
    clock.stage("read serving state")
    state = decisions.serving_state(bootstrap, usecase.name)
    bundles = {arm.name: open_bundle(arm.bundle, None, placing.trust) for arm in arms if arm.bundle is not None}
    pins |= {arm: pin_of(bundle) for arm, bundle in bundles.items()}
    beside = loaded_pins(begin(state))  # what cannot be is refused before anything is loaded
    for arm, bundle in bundles.items():
        known = {each.digest for each in (state.champion, state.pin, state.previous)}
        if placing.promoted_only and bundle.digest not in known:
            raise DeployError(f"refused: version {bundle.manifest.version} was not promoted; ask the gate: "
                              f"millrace promote {bundle.manifest.version}")  # fmt: skip
        if placing.triton is not None and placing.repository is not None:
            placed = place(bundle, beside, placing.triton, placing.repository, clock)
            pins[arm].triton_name = placed.served_as
    clock.stage("announce")
    why = reason or f"experiment {name} begins"
    after = decisions.change(bootstrap, usecase.name, pb.DECISION_KIND_EXPERIMENT, begin, reason=why, actor=actor)
    clock.finish()
    return _design(after, name)


def grow(
    bootstrap: str, usecase: UseCase, name: str, shares: Mapping[str, float], *, actor: str = ACTOR, reason: str = ""
) -> Design:
    """Give arms other shares. Raises as `start`."""
    said, now_us = ", ".join(f"{arm} {share:g}" for arm, share in shares.items()), _now_us()
    after = decisions.change(
        bootstrap, usecase.name, pb.DECISION_KIND_EXPERIMENT, lambda state: changes.grown(state, name, shares, now_us),
        reason=reason or f"experiment {name}: {said}", actor=actor,
    )  # fmt: skip
    return _design(after, name)


def stop(
    bootstrap: str, usecase: UseCase, name: str, *, placing: Placing, actor: str = ACTOR, reason: str = ""
) -> None:
    """End an experiment: its users are served as all others are. Raises as `start`."""
    after = decisions.change(
        bootstrap, usecase.name, pb.DECISION_KIND_EXPERIMENT, lambda state: changes.stopped(state, name),
        reason=reason or f"experiment {name} ends", actor=actor,
    )  # fmt: skip
    if placing.triton is not None and placing.repository is not None:
        let_go(after.pin.name, loaded_pins(after), placing.triton, placing.repository)


def running(bootstrap: str, usecase: UseCase) -> list[Design]:
    """Those of the newest decision. UnavailableError."""
    return [Design.of(each) for each in decisions.serving_state(bootstrap, usecase.name).experiments]


def _design(state: pb.ServingState, name: str) -> Design:
    return Design.of(next(each for each in state.experiments if each.name == name))


def _rules(usecase: UseCase, state: pb.ServingState, arm: ArmAsked) -> str:
    """All of the arm's rules, in one canonical line."""
    base = json.loads(usecase.rules_of(state.rules).to_json())
    try:
        changed = json.loads(arm.rules)
    except ValueError as exc:
        raise BadInputError(f"arm {arm.name}: its rules are no JSON: {exc}") from exc
    if not isinstance(changed, dict):
        raise BadInputError(f"arm {arm.name}: its rules must be an object, such as {_EXAMPLE}")
    return usecase.rules_of(json.dumps({**base, **changed})).to_json()


def _now_us() -> int:
    return time.time_ns() // 1_000
