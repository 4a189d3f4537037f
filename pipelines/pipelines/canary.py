"""A canary on its way: wider, to everybody, or back; and a shadow beside what serves."""

import time
from pathlib import Path
from typing import Any

from bundle import Trust
from definitions.serving_state import StateError, deployed, next_step, same, with_canary
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines import decisions
from pipelines.deploy import DeployResult, bring, result_of
from pipelines.errors import DeployError
from pipelines.placing import Clock, Placed
from pipelines.progress import SILENT, Progress
from pipelines.triton_repository import Repository

ACTOR = "millrace canary"


def widen(kafka: str, usecase: str, percent: float | None = None, *, actor: str = ACTOR) -> DeployResult:
    """Show the canary to `percent` of users, or to the next of 1, 5, 25 and 100; at 100 it is the pin.

    Who is in stays in.

    Raises:
        DeployError: there is no canary, or no such percentage.
        UnavailableError: Kafka does not answer.
    """

    def edit(state: pb.ServingState) -> pb.ServingState:
        canary = _canary(usecase, state)
        wanted = next_step(canary.percent) if percent is None else percent
        if wanted >= 100:
            return deployed(state, canary.pin)
        return with_canary(state, canary.pin, wanted, time.time_ns() // 1_000)

    reason = "canary to the next step" if percent is None else f"canary to {percent:g} % of users"
    return _changed(kafka, usecase, edit, reason, actor)


def finish(kafka: str, usecase: str, *, actor: str = ACTOR) -> DeployResult:
    """The canary serves everybody. DeployError, UnavailableError."""
    return widen(kafka, usecase, 100.0, actor=actor)


def stop(kafka: str, usecase: str, *, reason: str = "", actor: str = ACTOR) -> DeployResult:
    """Nobody gets the canary any more. DeployError, UnavailableError."""

    def edit(state: pb.ServingState) -> pb.ServingState:
        _canary(usecase, state)
        state.ClearField("canary")
        return state

    return _changed(kafka, usecase, edit, reason or "canary taken back", actor)


def _canary(usecase: str, state: pb.ServingState) -> pb.Canary:
    if not state.HasField("canary"):
        raise DeployError(f"{usecase}: no canary is under way; begin one: millrace deploy --canary 1")
    return state.canary


def begin_shadow(
    folder: Path,
    share: float,
    *,
    kafka: str,
    triton: str | None,
    repository: Repository | None,
    trust: Trust | None = None,
    actor: str = "millrace shadow",
    progress: Progress = SILENT,
) -> DeployResult:
    """Have the bundle in `folder` score copies of `share` (0 to 1) of the requests; nobody is shown any of it.

    Raises:
        DeployError: nothing serves that it could be compared with, it is the pin, or as `deploy`.
        UnavailableError: Triton or Kafka does not answer.
    """
    if not 0 < share <= 1:
        raise DeployError(f"share {share:g}: more than 0, at most 1")

    def edit(state: pb.ServingState, pin: pb.ModelPin) -> pb.ServingState:
        if not state.HasField("pin"):
            raise StateError("a shadow needs a version to be compared with: deploy one")
        if same(state.pin, pin):
            raise StateError(f"version {pin.version} serves; a shadow of itself shows nothing")
        after = pb.ServingState()
        after.CopyFrom(state)
        after.shadow.pin.CopyFrom(pin)
        after.shadow.share = share
        return after

    servers: dict[str, Any] = {"kafka": kafka, "triton": triton, "repository": repository, "trust": trust}
    reason = f"shadow of version {folder.name} for {share:.0%} of requests"
    return bring(folder, edit, pb.DECISION_KIND_SHADOW, **servers, reason=reason, actor=actor, progress=progress)


def end_shadow(kafka: str, usecase: str, *, actor: str = "millrace shadow") -> DeployResult:
    """No shadow any more. DeployError: there is none. UnavailableError."""

    def edit(state: pb.ServingState) -> pb.ServingState:
        if not state.HasField("shadow"):
            raise DeployError(f"{usecase}: no version is a shadow; begin one: millrace shadow start")
        state.ClearField("shadow")
        return state

    return _changed(kafka, usecase, edit, "shadow ended", actor, kind=pb.DECISION_KIND_SHADOW)


def _changed(
    kafka: str,
    usecase: str,
    edit: decisions.Edit,
    reason: str,
    actor: str,
    kind: pb.DecisionKind = pb.DECISION_KIND_CANARY,
) -> DeployResult:
    clock = Clock()
    clock.stage("announce")
    try:
        after = decisions.change(kafka, usecase, kind, edit, reason=reason, actor=actor)
    except StateError as exc:
        raise DeployError(f"{usecase}: {exc}") from exc
    return result_of(usecase, after, Placed(), clock)
