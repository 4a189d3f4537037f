"""The one way to a data set: by name, or by the paths of files."""

from dataclasses import dataclass
from pathlib import Path

from definitions.usecase import UseCase

from pipelines.datasets import movielens, synthetic
from pipelines.datasets.cells import Source
from pipelines.datasets.dataset import Dataset, Tables, build_dataset
from pipelines.datasets.files import read_table
from pipelines.datasets.public import PUBLIC, read_public
from pipelines.errors import BadInputError, DownloadError
from pipelines.progress import SILENT, Progress

AUTO = "auto"
NAMES = (AUTO, movielens.SOURCE, synthetic.SOURCE)


@dataclass(frozen=True)
class DataPaths:
    """CSV or Parquet files; items and users are optional."""

    interactions: Path
    items: Path | None = None
    users: Path | None = None


def load_dataset(
    source: str | DataPaths, usecase: UseCase, *, cache: Path, seed: int = 0, progress: Progress = SILENT
) -> Dataset:
    """Read a data set.

    Args:
        source: `ml-100k`; `synthetic`; `auto` (the first, or the second where it cannot be downloaded); a public set
            and its folder, such as `ml-1m:/data/ml-1m` (`public.PUBLIC`); or files.
        usecase: its columns say what each file column is. The sets without a folder have the columns of `movies`.
        cache: folder of downloads, `MILLRACE_HOME/dist/datasets`.
        seed: of the order among equal times, and of the synthetic world.
        progress: is told the licence and every fallback.

    Raises:
        DataFileError: a file is broken; file, column, row and remedy are named.
        DownloadError: `ml-100k` was asked for and cannot be had.
        BadInputError: no such name.
    """
    progress.stage("load data")
    tables = _tables(source, usecase, cache, seed)
    for note in (tables.licence, *tables.notes):
        if note:
            progress.note(note)
    return build_dataset(usecase, tables, seed=seed)


def is_named(source: str) -> bool:
    """Whether it is a set's name, with or without a folder, and no file's path."""
    return "/" not in source.partition(":")[0]


def _tables(source: str | DataPaths, usecase: UseCase, cache: Path, seed: int) -> Tables:
    if isinstance(source, DataPaths):
        return Tables(
            _source(source.interactions),
            None if source.items is None else _source(source.items),
            None if source.users is None else _source(source.users),
            source=source.interactions.name,
        )
    if source == synthetic.SOURCE:
        return synthetic.synthetic_world(seed=seed)
    name, colon, folder = source.partition(":")
    if colon:
        return read_public(name, Path(folder).expanduser(), usecase)
    if source in PUBLIC:
        raise BadInputError(f"{source} is not fetched: unpack it and give its folder, {source}:/path/to/its/folder")
    if source not in NAMES:
        raise BadInputError(f"data set {source!r} is unknown; use one of {', '.join((*NAMES, *PUBLIC))}, or give files")
    try:
        return movielens.movielens_100k(cache)
    except DownloadError as exc:
        if source != AUTO:
            raise
        world = synthetic.synthetic_world(seed=seed)
        why = f"MovieLens-100K cannot be downloaded ({exc}), so a synthetic set takes its place."
        return Tables(world.interactions, world.items, world.users, world.source, world.licence, (why, *world.notes))


def _source(path: Path) -> Source:
    return Source(str(path), read_table(path))
