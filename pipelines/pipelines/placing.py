"""A bundle into Triton beside what is there, and out again: nothing that serves notices."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bundle import Bundle, BundleError, Trust, check_golden, load_bundle
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines.errors import DeployError, PipelineError
from pipelines.progress import SILENT, Progress
from pipelines.triton_client import Triton
from pipelines.triton_repository import Repository


@dataclass(frozen=True)
class Placed:
    """`worst`: largest error of a golden row through Triton; `served_as`: Triton's name of the model."""

    worst: float | None = None
    served_as: str = ""


def open_bundle(folder: Path, digest: str | None, trust: Trust | None) -> Bundle:
    """Verified. DeployError."""
    try:
        return load_bundle(folder, digest=digest, trust=trust)
    except BundleError as exc:
        raise DeployError(f"refused: {exc}") from exc


def place(bundle: Bundle, beside: Iterable[pb.ModelPin], target: str, repository: Repository, clock: "Clock") -> Placed:
    """Version on disk, loaded beside those of `beside` that are there, golden rows equal. Undone if anything fails.

    Raises:
        DeployError: Triton refused it, or its scores differ.
        UnavailableError: Triton does not answer.
    """
    manifest = bundle.manifest
    name, version = repository.name_of(manifest), manifest.version
    kept = {pin.version for pin in beside if pin.name == manifest.name} & set(repository.versions(name))
    live = sorted(kept | {version})
    with Triton(target) as triton:
        states = triton.states(name)  # an absent server is found before anything is written
        before = repository.read_config(name)
        clock.stage("write repository")
        added = repository.add(bundle)
        try:
            ready = {each for each, (state, _) in states.items() if state == "READY"}
            if added or before != repository.render(manifest, live).encode() or not ready >= set(live):
                repository.configure(manifest, live)
                clock.stage("load into Triton")
                triton.load(name)
                triton.wait_ready(name, live)
            clock.stage("score golden rows")
            scores = triton.score(manifest, version, bundle.golden.features, bundle.golden.ints, name=name)
            return Placed(check_golden(f"{name}/{version} through Triton", bundle.golden.scores, scores), name)
        except (PipelineError, BundleError) as exc:
            _undo(triton, repository, name, before, version if added else None)
            raise exc if isinstance(exc, PipelineError) else DeployError(str(exc)) from exc


def let_go(name: str, wanted: Iterable[pb.ModelPin], target: str, repository: Repository) -> None:
    """Unload what has other inputs than the versions in use: nobody asks for it any more."""
    versions = {pin.version for pin in wanted}
    with Triton(target) as triton:
        for each in repository.idle(name, versions):
            try:
                triton.unload(each)
            except PipelineError:
                continue  # what was decided holds; it stays loaded, and the next deploy tries again
            repository.drop(each)


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


@dataclass
class Clock:
    """Times the steps and tells them to `progress`."""

    progress: Progress = SILENT
    _stages: dict[str, float] = field(default_factory=dict)
    _open: tuple[str, float] | None = None

    def stage(self, name: str) -> None:
        """The former step is over, this one begins."""
        self.finish()
        self.progress.stage(name)
        self._open = (name, time.monotonic())

    def finish(self) -> dict[str, float]:
        """Seconds of each step."""
        if self._open is not None:
            name, since = self._open
            self._stages[name] = time.monotonic() - since
            self._open = None
        return self._stages
