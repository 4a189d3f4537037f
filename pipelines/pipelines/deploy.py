"""From a bundle to serving: into Triton, checked there, announced on `decisions`. And back."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from bundle import Bundle, BundleError, Trust, check_golden, load_bundle
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines import decisions
from pipelines.errors import DeployError, PipelineError
from pipelines.progress import SILENT, Progress
from pipelines.registry import crown
from pipelines.triton_client import Triton
from pipelines.triton_repository import Repository


@dataclass(frozen=True)
class DeployResult:
    """What serves now. `triton_max_abs`: worst golden row through Triton, None in the embedded profile."""

    usecase: str
    name: str
    version: int
    digest: str
    previous_version: int | None
    triton_max_abs: float | None
    seconds: float
    stages: dict[str, float] = field(default_factory=dict)


def deploy(
    folder: Path,
    *,
    kafka: str,
    triton: str | None,
    repository: Repository | None,
    digest: str | None = None,
    trust: Trust | None = None,
    promoted_only: bool = False,
    actor: str = "millrace deploy",
    reason: str = "",
    progress: Progress = SILENT,
) -> DeployResult:
    """Serve the bundle in `folder`.

    Args:
        folder: `<bundles>/<name>/<version>`.
        kafka: bootstrap servers.
        triton: host:port of its gRPC; None in the embedded profile, where the gateway runs the bundle's graph itself.
        repository: what that Triton serves from; None with `triton` None.
        digest: the bundle's, if the caller knows it.
        trust: whose signatures count; None looks at none.
        promoted_only: refuse what is not the champion (production).
        actor, reason: for the audit.
        progress: is told each step.

    Raises:
        DeployError: the bundle, Triton or Kafka refused. What served before still does; the repository is as before.
        UnavailableError: Triton or Kafka does not answer.
    """
    clock = _Clock(progress)
    clock.stage("verify bundle")
    bundle = _load(folder, digest, trust)
    manifest = bundle.manifest
    clock.stage("read serving state")
    state = decisions.serving_state(kafka, manifest.usecase)
    if promoted_only and state.champion.digest != bundle.digest:
        raise DeployError(
            f"refused: {manifest.name} version {manifest.version} was not promoted; ask the gate: millrace promote "
            f"{manifest.version}"
        )
    worst, served_as = None, ""
    if triton is not None and repository is not None:
        worst, served_as = _into_triton(bundle, state, triton, repository, clock)
    clock.stage("announce")
    after = pb.ServingState(pin=pin_of(bundle))
    after.pin.triton_name = served_as
    if state.HasField("pin") and state.pin.digest != bundle.digest:
        after.previous.CopyFrom(state.pin)
    elif state.HasField("previous"):  # the same version again: what a rollback returns to stays
        after.previous.CopyFrom(state.previous)
    if state.HasField("champion"):
        after.champion.CopyFrom(state.champion)
    why = reason or f"deploy {manifest.name} version {manifest.version}"
    decisions.publish(kafka, manifest.usecase, pb.DECISION_KIND_DEPLOY, after, reason=why, actor=actor)
    if triton is not None and repository is not None:
        _let_go(after, triton, repository)
    return _result(manifest.usecase, after, worst, clock)


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
    """Serve the version that served before. A second rollback returns to the first one.

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
    clock = _Clock(progress)
    clock.stage("read serving state")
    state = decisions.serving_state(kafka, usecase)
    if not state.HasField("previous"):
        raise DeployError(f"{usecase}: no former version to return to; deploy one first")
    former = state.previous
    clock.stage("verify bundle")
    bundle = _load(bundles / former.name / str(former.version), former.digest, trust)
    worst, served_as = None, ""
    if triton is not None and repository is not None:
        worst, served_as = _into_triton(bundle, state, triton, repository, clock)
    clock.stage("announce")
    after = pb.ServingState(pin=former, previous=state.pin)
    after.pin.triton_name = served_as
    dethroned = state.HasField("champion") and state.champion.digest == state.pin.digest
    if state.HasField("champion"):
        after.champion.CopyFrom(former if dethroned else state.champion)
    why = reason or f"rollback from version {state.pin.version} to {former.version}"
    decisions.publish(kafka, usecase, pb.DECISION_KIND_ROLLBACK, after, reason=why, actor=actor)
    if dethroned and mlflow is not None:
        clock.stage("tell the registry")
        crown(mlflow, bundle)
    return _result(usecase, after, worst, clock)


def _into_triton(
    bundle: Bundle, state: pb.ServingState, target: str, repository: Repository, clock: "_Clock"
) -> tuple[float, str]:
    """Version on disk, loaded beside the pinned one, golden rows equal. Undone if anything fails.

    Returns the worst golden row, and Triton's name of the model.
    """
    manifest = bundle.manifest
    name, version = repository.name_of(manifest), manifest.version
    # What serves stays live beside the new one; if they are the same, what a rollback returns to does.
    beside = state.previous if state.pin.version == version else state.pin
    kept = {beside.version} & set(repository.versions(name)) if beside.name == manifest.name else set()
    live = sorted(kept | {version})
    with Triton(target) as triton:
        triton.states(name)  # an absent server is found before anything is written
        before = repository.read_config(name)
        clock.stage("write repository")
        added = repository.add(bundle)
        try:
            repository.configure(manifest, live)
            clock.stage("load into Triton")
            triton.load(name)
            triton.wait_ready(name, live)
            clock.stage("score golden rows")
            scores = triton.score(manifest, version, bundle.golden.features, bundle.golden.ints, name=name)
            return check_golden(f"{name}/{version} through Triton", bundle.golden.scores, scores), name
        except (PipelineError, BundleError) as exc:
            _undo(triton, repository, name, before, version if added else None)
            raise exc if isinstance(exc, PipelineError) else DeployError(str(exc)) from exc


def _let_go(after: pb.ServingState, target: str, repository: Repository) -> None:
    """Unload what has other inputs than the versions that serve or are returned to: nobody asks for it any more."""
    wanted = {after.pin.version, after.previous.version}
    with Triton(target) as triton:
        for name in repository.idle(after.pin.name, wanted):
            try:
                triton.unload(name)
            except PipelineError:
                continue  # what was decided holds; it stays loaded, and the next deploy tries again
            repository.drop(name)


def _undo(triton: Triton, repository: Repository, name: str, config: bytes | None, added: int | None) -> None:
    """Former configuration first, so that the bad version is no longer asked for; then its files go.

    A refused version that stayed would stop a restart of Triton.
    """
    repository.restore_config(name, config)
    try:
        if config is None:
            triton.unload(name)
        else:
            triton.load(name)
    except PipelineError:
        pass  # the first failure is the one to tell; on disk all is as before
    if added is not None:
        repository.remove(name, added)


def _load(folder: Path, digest: str | None, trust: Trust | None) -> Bundle:
    try:
        return load_bundle(folder, digest=digest, trust=trust)
    except BundleError as exc:
        raise DeployError(f"refused: {exc}") from exc


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


def _result(usecase: str, after: pb.ServingState, worst: float | None, clock: "_Clock") -> DeployResult:
    stages = clock.finish()
    return DeployResult(
        usecase=usecase,
        name=after.pin.name,
        version=after.pin.version,
        digest=after.pin.digest,
        previous_version=after.previous.version if after.HasField("previous") else None,
        triton_max_abs=worst,
        seconds=sum(stages.values()),
        stages=stages,
    )


class _Clock:
    """Times the steps and tells them to `progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stages: dict[str, float] = {}
        self._open: tuple[str, float] | None = None

    def stage(self, name: str) -> None:
        self.finish()
        self._progress.stage(name)
        self._open = (name, time.monotonic())

    def finish(self) -> dict[str, float]:
        if self._open is not None:
            name, since = self._open
            self._stages[name] = time.monotonic() - since
            self._open = None
        return self._stages
