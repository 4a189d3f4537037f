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
    """Version on disk, loaded beside the others, golden rows equal. Undone if anything fails.

    `beside` is what serves, or is to serve: none of it is loaded anew.

    Raises:
        DeployError: Triton refused it, or its scores differ.
        UnavailableError: Triton does not answer.
    """
    manifest = bundle.manifest
    version = manifest.version
    kept = {pin.version for pin in beside if pin.name == manifest.name} - {version}
    name = repository.name_of(manifest, kept)
    live = sorted(kept & set(repository.versions(name)) | {version})
    with Triton(target) as triton:
        states = triton.states(name)  # an absent server is found before anything is written
        before = repository.read_config(name)
        clock.stage("write repository")
        added = repository.add(bundle, name)
        try:
            ready = {each for each, (state, _) in states.items() if state == "READY"}
            if added or before != repository.render(manifest, live, name).encode() or not ready >= set(live):
                repository.configure(manifest, live, name)
                clock.stage("load into Triton")
                triton.load(name)
                triton.wait_ready(name, live)
            clock.stage("score golden rows")
            scores = triton.score(manifest, version, bundle.golden.features, bundle.golden.ints, name=name)
            worst = check_golden(f"{name}/{version} through Triton", bundle.golden.scores, scores)
        except (PipelineError, BundleError) as exc:
            _undo(triton, repository, name, before, version if added else None)
            raise exc if isinstance(exc, PipelineError) else DeployError(str(exc)) from exc
    for replaced in set(repository.versions(name)) - set(live):
        repository.remove(name, replaced)
    return Placed(worst, name)


def let_go(name: str, wanted: Iterable[pb.ModelPin], target: str, repository: Repository) -> None:
    """Unload what is not in use: nobody asks for it any more."""
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
