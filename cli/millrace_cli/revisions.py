"""Which revisions of each use case's layout the stack keeps rows of: a file in its home says it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from local_stack.service import ServiceSpec
from servicekit import ports
from servicekit.textfile import replace_text
from servicekit.topics import item_features_topic, topic

if TYPE_CHECKING:
    from pathlib import Path

    from definitions.layout import Layout
    from definitions.usecase import UseCase

    from millrace_cli.settings import Settings

_FILE: Final = "revisions.json"
_FEATURES: Final = "features"


@dataclass(frozen=True)
class Revisions:
    """Use case -> its revisions, ascending; a use case that is not named has the first alone."""

    path: Path
    first: int
    numbers: Mapping[str, tuple[int, ...]]

    @classmethod
    def read(cls, settings: Settings) -> Revisions:
        """Of the stack in `settings.home`."""
        path = settings.home / "data" / _FILE
        found = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, settings.revision, {name: tuple(numbers) for name, numbers in found.items()})

    def of(self, usecase: str) -> tuple[int, ...]:
        """A use case's."""
        return self.numbers.get(usecase, (self.first,))

    def newest(self, usecase: str) -> int:
        """A use case's last."""
        return self.of(usecase)[-1]

    def plus(self, usecase: str, revision: int) -> Revisions:
        """With one more."""
        return self._with(usecase, {*self.of(usecase), revision})

    def minus(self, usecase: str, revision: int) -> Revisions:
        """With one less."""
        return self._with(usecase, set(self.of(usecase)) - {revision})

    def write(self) -> None:
        """Keep it, whole or not at all."""
        replace_text(self.path, json.dumps(self.numbers) + "\n")

    def topics(self, usecases: Sequence[str]) -> dict[str, str]:
        """The topics that further revisions have for themselves -> the declared one that each is like."""
        return {
            item_features_topic(usecase, revision): topic(usecase, "item-features")
            for usecase in usecases
            for revision in self.of(usecase)
            if revision > 1
        }

    def _with(self, usecase: str, revisions: set[int]) -> Revisions:
        return Revisions(self.path, self.first, {**self.numbers, usecase: tuple(sorted(revisions))})


def process_name(revision: int) -> str:
    """The features process of a revision, as `millrace status` lists it."""
    return _FEATURES if revision == 1 else f"{_FEATURES}-{revision}"


def metrics_port(settings: Settings, revision: int) -> int:
    """Where that process answers /ready, /metrics and /flush."""
    return settings.port(ports.features_metrics(revision))


def running(settings: Settings, usecases: Sequence[str]) -> list[int]:
    """Every revision of any of the use cases, ascending: each is one features process."""
    revisions = Revisions.read(settings)
    return sorted({revision for usecase in usecases for revision in revisions.of(usecase)})


def feature_specs(base: ServiceSpec, settings: Settings, given: Mapping[str, str]) -> list[ServiceSpec]:
    """`base`, the features service, once for each revision. `given`: use case -> how MILLRACE_USECASES says it."""
    revisions = Revisions.read(settings)
    specs = []
    for revision in running(settings, list(given)):
        own = {"MILLRACE_REVISION": str(revision)}
        names = [name for name in given if revision in revisions.of(name)]
        if len(names) < len(given):
            own["MILLRACE_USECASES"] = ",".join(given[name] for name in names)
        port = metrics_port(settings, revision)
        if revision > 1:
            own["MILLRACE_METRICS_PORT"] = str(port)
        specs.append(
            ServiceSpec(
                name=process_name(revision),
                module=base.module,
                declared=base.declared,
                wave=base.wave,
                ports={"metrics": port},
                nice=base.nice,
                settings=own,
            )
        )
    return specs


def state_folder(settings: Settings, log_id: str, usecase: str, revision: int) -> Path:
    """Where a revision's checkpoints lie, and the use case that they were made under."""
    return settings.checkpoints / log_id / f"{usecase}.{revision}"


def layout_now(settings: Settings, usecase: UseCase, log_id: str, revision: int) -> Layout:
    """The layout under which a revision's rows are kept: its own, if the file was edited since they were made.

    Raises:
        UseCaseError: what is kept of it cannot be read.
    """
    from features.kept import revision_layout

    return revision_layout(state_folder(settings, log_id, usecase.name, revision), usecase, revision)


def revision_of(settings: Settings, usecase: UseCase) -> int:
    """The revision whose rows have the use case's layout, or, if it was edited, the next one."""
    from definitions.layout import layout_of
    from features.kept import kept_layout
    from local_stack.home import Home
    from local_stack.identity import state_log_id

    known = Revisions.read(settings).of(usecase.name)
    log_id = state_log_id(Home(settings.home))
    wanted = layout_of(usecase).layout_hash
    for revision in reversed(known):
        kept = None if log_id is None else kept_layout(state_folder(settings, log_id, usecase.name, revision), revision)
        if kept is None or kept.layout_hash == wanted:
            return revision
    return known[-1] + 1
