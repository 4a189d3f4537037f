"""From a bundle to serving: into Triton, checked there, announced on `decisions`. To all or to some; and back."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bundle import Bundle, Trust
from definitions.serving_state import StateError, deployed, loaded_pins, rolled_back, with_canary
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines import decisions
from pipelines.errors import DeployError
from pipelines.placing import Clock, Placed, let_go, open_bundle, place
from pipelines.progress import SILENT, Progress
from pipelines.registry import follow, mirror
from pipelines.triton_repository import Repository

Edit = Callable[[pb.ServingState, pb.ModelPin], pb.ServingState]


@dataclass(frozen=True)
class DeployResult:
    """What serves now. `triton_max_abs`: worst golden row through Triton, None in the embedded profile.

    `canary_version` at `canary_percent` of users, and `shadow_version`: None where there is none.
    """

    usecase: str
    name: str
    version: int
    digest: str
    previous_version: int | None
    triton_max_abs: float | None
    seconds: float
    canary_version: int | None = None
    canary_percent: float | None = None
    shadow_version: int | None = None
    stages: dict[str, float] = field(default_factory=dict)


def deploy(
    folder: Path,
    *,
    kafka: str,
    triton: str | None,
    repository: Repository | None,
    canary: float | None = None,
    guardrails: pb.Guardrails | None = None,
    digest: str | None = None,
    trust: Trust | None = None,
    promoted_only: bool = False,
    mlflow: Path | None = None,
    actor: str = "millrace deploy",
    reason: str = "",
    progress: Progress = SILENT,
) -> DeployResult:
    """Serve the bundle in `folder`: to everybody, or as a canary.

    Args:
        folder: `<bundles>/<name>/<version>`.
        kafka: bootstrap servers.
        triton: host:port of its gRPC; None in the embedded profile, where the gateway runs the bundle's graph itself.
        repository: what that Triton serves from; None with `triton` None.
        canary: percent of users, more than 0 and less than 100; None: everybody.
        guardrails: of the canary, where they are not the defaults.
        digest: the bundle's, if the caller knows it.
        trust: whose signatures count; None looks at none.
        promoted_only: refuse what is not the champion (production).
        mlflow: folder of the registry, whose alias `champion` follows the decisions; None leaves it alone.
        actor, reason: for the audit.
        progress: is told each step.

    Raises:
        DeployError: the bundle, Triton, Kafka or the serving state refused. What served before still does; the
            repository is as before.
        UnavailableError: Triton or Kafka does not answer.
    """

    def to_all(state: pb.ServingState, pin: pb.ModelPin) -> pb.ServingState:
        return deployed(state, pin)

    def to_some(state: pb.ServingState, pin: pb.ModelPin) -> pb.ServingState:
        return with_canary(state, pin, canary or 0.0, time.time_ns() // 1_000, guardrails)

    version = folder.name
    return bring(
        folder,
        to_all if canary is None else to_some,
        pb.DECISION_KIND_DEPLOY if canary is None else pb.DECISION_KIND_CANARY,
        kafka=kafka,
        triton=triton,
        repository=repository,
        digest=digest,
        trust=trust,
        promoted_only=promoted_only,
        mlflow=mlflow,
        actor=actor,
        reason=reason
        or (
            f"deploy version {version}" if canary is None else f"canary of version {version} for {canary:g} % of users"
        ),
        progress=progress,
    )


def bring(
    folder: Path,
    edit: Edit,
    kind: pb.DecisionKind,
    *,
    kafka: str,
    triton: str | None,
    repository: Repository | None,
    actor: str,
    reason: str,
    digest: str | None = None,
    trust: Trust | None = None,
    promoted_only: bool = False,
    mlflow: Path | None = None,
    progress: Progress = SILENT,
) -> DeployResult:
    """Have a bundle in Triton beside all that serves, and announce the state that `edit` makes with its pin.

    Args:
        edit: the former state and the bundle's pin to the state after; asked again with the state of the moment in
            which it is announced.
        the others: as in `deploy`.

    Raises:
        DeployError, UnavailableError: as in `deploy`.
    """
    clock = Clock(progress)
    clock.stage("verify bundle")
    bundle = open_bundle(folder, digest, trust)
    manifest, pin = bundle.manifest, pin_of(bundle)
    clock.stage("read serving state")
    state = decisions.serving_state(kafka, manifest.usecase)
    if promoted_only and state.champion.digest != bundle.digest:
        raise DeployError(
            f"refused: {manifest.name} version {manifest.version} was not promoted; ask the gate: millrace promote "
            f"{manifest.version}"
        )
    wanted = loaded_pins(_edited(edit, state, pin))
    placed = Placed()
    if triton is not None and repository is not None:
        serving = [each for each in loaded_pins(state) if each != state.previous]  # whose place is free, if unwanted
        placed = place(bundle, [*wanted, *serving], triton, repository, clock)
        pin.triton_name = placed.served_as
    clock.stage("announce")
    after = decisions.change(
        kafka, manifest.usecase, kind, lambda now: _edited(edit, now, pin), reason=reason, actor=actor
    )
    if triton is not None and repository is not None:
        let_go(manifest.name, loaded_pins(after), triton, repository)
    if mlflow is not None:
        mirror(mlflow, folder.parent.parent, after, progress)
    return result_of(manifest.usecase, after, placed, clock)


def rollback(
    usecase: str,
    *,
    bundles: Path,
    kafka: str,
    triton: str | None,
    repository: Repository | None,
    trust: Trust | None = None,
    mlflow: Path | None = None,
    actor: str = "millrace rollback",
    reason: str = "",
    progress: Progress = SILENT,
) -> DeployResult:
    """Serve the version that served before. A second rollback returns to the first one. A canary ends.

    Where the gate had promoted what serves, the former version is champion again, in the decision and in the registry:
    a later challenger is compared with what people get.

    Args:
        usecase: its name.
        bundles: folder of all bundles.
        mlflow: folder of the registry; None leaves its aliases alone.
        kafka, triton, repository, trust, actor, reason, progress: as in `deploy`.

    Raises:
        DeployError: there is no former version, or it can no longer be served; the present one stays.
        RegistryError: the former version serves, and the registry could not be told.
        UnavailableError: Triton or Kafka does not answer.
    """
    clock = Clock(progress)
    clock.stage("read serving state")
    state = decisions.serving_state(kafka, usecase)
    after = _rolled_back(usecase, state)
    former = after.pin
    clock.stage("verify bundle")
    bundle = open_bundle(bundles / former.name / str(former.version), former.digest, trust)
    placed = Placed()
    if triton is not None and repository is not None:
        placed = place(bundle, loaded_pins(after), triton, repository, clock)
    clock.stage("announce")
    why = reason or f"rollback from version {state.pin.version} to {former.version}"

    def edit(now: pb.ServingState) -> pb.ServingState:
        if now.pin != state.pin:
            raise DeployError(f"{usecase}: another decision came first: version {now.pin.version} serves; look again")
        back = _rolled_back(usecase, now)
        back.pin.triton_name = placed.served_as
        return back

    after = decisions.change(kafka, usecase, pb.DECISION_KIND_ROLLBACK, edit, reason=why, actor=actor)
    if after.HasField("champion") and mlflow is not None:
        clock.stage("tell the registry")
        follow(mlflow, bundles, after.champion)
    return result_of(usecase, after, placed, clock)


def pin_of(bundle: Bundle) -> pb.ModelPin:
    """How a decision names this bundle."""
    manifest = bundle.manifest
    return pb.ModelPin(
        name=manifest.name,
        version=manifest.version,
        digest=bundle.digest,
        layout_hash=manifest.layout_hash,
        revision=manifest.revision,
    )


def result_of(usecase: str, after: pb.ServingState, placed: Placed, clock: Clock) -> DeployResult:
    """What `after` says, and how long it took to get there."""
    stages = clock.finish()
    canary = after.canary if after.HasField("canary") else None
    return DeployResult(
        usecase=usecase,
        name=after.pin.name,
        version=after.pin.version,
        digest=after.pin.digest,
        previous_version=after.previous.version if after.HasField("previous") else None,
        triton_max_abs=placed.worst,
        seconds=sum(stages.values()),
        canary_version=None if canary is None else canary.pin.version,
        canary_percent=None if canary is None else canary.percent,
        shadow_version=after.shadow.pin.version if after.HasField("shadow") else None,
        stages=stages,
    )


def _edited(edit: Edit, state: pb.ServingState, pin: pb.ModelPin) -> pb.ServingState:
    try:
        return edit(state, pin)
    except StateError as exc:
        raise DeployError(f"refused: {exc}") from exc


def _rolled_back(usecase: str, state: pb.ServingState) -> pb.ServingState:
    try:
        return rolled_back(state)
    except StateError as exc:
        raise DeployError(f"{usecase}: {exc}") from exc
