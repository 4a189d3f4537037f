"""The use case that a revision's state was made under, kept beside its checkpoints."""

import os
from pathlib import Path

import structlog
from definitions.kept_usecase import FILE, from_json, to_json
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase

log: structlog.stdlib.BoundLogger = structlog.get_logger("features")


def revision_layout(root: Path, given: UseCase, revision: int) -> Layout:
    """The layout of the state below `root`: of the use case as given, unless that was edited since to another layout.

    So a revision that serves outlives an edit of its file, and a restart, until the next one takes its place.

    Raises:
        UseCaseError: what is kept cannot be read.
    """
    layout = layout_of(given, revision)
    former = kept_layout(root, revision)
    if former is None or former.layout_hash == layout.layout_hash:
        return layout
    log.warning(
        "the use case was edited: its revision goes on as it was",
        usecase=given.name,
        revision=revision,
        remedy=f"millrace rebuild features --revision {revision + 1}",
    )
    return former


def kept_layout(root: Path, revision: int) -> Layout | None:
    """What is kept below `root`; None where nothing was made there yet. UseCaseError: it cannot be read."""
    path = root / FILE
    return layout_of(from_json(path.read_bytes(), str(path)), revision) if path.exists() else None


def keep(root: Path, layout: Layout) -> None:
    """Note what the state below `root` is made under, whole or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    aside = root / f".{FILE}.tmp"
    aside.write_bytes(to_json(layout.usecase))
    os.replace(aside, root / FILE)
