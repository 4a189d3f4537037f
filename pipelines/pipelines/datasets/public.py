"""Public data sets whose files somebody has: how each is laid out, and which use case's columns it becomes.

None is fetched: their licences are between their owners and whoever downloads them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl
from definitions.usecase import UseCase

from pipelines.datasets import cells
from pipelines.datasets.cells import Origin, Source
from pipelines.datasets.dataset import Tables
from pipelines.datasets.files import read_rows, read_table
from pipelines.errors import BadInputError, DataFileError

_FILE, _ROW = "\0file", "\0row"  # columns that follow each row of a file through all shaping
Shape = Callable[[Source, UseCase], pl.DataFrame]


@dataclass(frozen=True)
class Part:
    """One table: the files that match, one below the other.

    `columns`: the header, where the files have none. `rename`: name in the file -> name in the table. `shape`: makes
    the use case's rows and columns of the file's, from a Source whose errors name file and row.
    """

    files: tuple[str, ...]
    columns: tuple[str, ...] = ()
    separator: str = "\t"
    encoding: str = "utf-8"
    rename: Mapping[str, str] = field(default_factory=dict)
    shape: Shape | None = None


@dataclass(frozen=True)
class PublicSet:
    """`usecase`: one of `usecases/` with these columns, or where a fitting one is documented."""

    licence: str
    usecase: str
    interactions: Part
    items: Part | None = None
    users: Part | None = None
    notes: tuple[str, ...] = ()


def read_public(name: str, folder: Path, usecase: UseCase) -> Tables:
    """The tables of a public set from the folder into which it was unpacked.

    Raises:
        BadInputError: no such set.
        DataFileError: a file is missing or broken; file, column and row are named.
    """
    if name not in PUBLIC:
        raise BadInputError(f"data set {name!r} cannot be read from a folder; use one of {', '.join(PUBLIC)}")
    known = PUBLIC[name]
    tables = [
        None if part is None else _read(part, folder, usecase)
        for part in (known.interactions, known.items, known.users)
    ]
    assert tables[0] is not None  # noqa: S101  every set has interactions
    return Tables(tables[0], tables[1], tables[2], source=name, licence=known.licence, notes=known.notes)


def _read(part: Part, folder: Path, usecase: UseCase) -> Source:
    paths = sorted({path for pattern in part.files for path in folder.glob(pattern)})
    if not paths:
        raise DataFileError(
            str(folder), f"holds no {' or '.join(part.files)}", "Give the folder into which the data set was unpacked"
        )
    tables = []
    for number, path in enumerate(paths):
        table = read_table(path) if not part.columns else _rows_of(path, part)
        at = pl.int_range(1, table.height + 1, dtype=pl.Int64, eager=True).alias(_ROW)
        tables.append(table.with_columns(pl.lit(number, pl.Int64).alias(_FILE), at))
    whole = pl.concat(tables, how="diagonal")
    files = tuple(str(path) for path in paths)
    if part.shape is not None:
        whole = part.shape(_source(whole, files, {}), usecase)
    return _source(whole.rename(dict(part.rename)), files, {name: old for old, name in part.rename.items()})


def _rows_of(path: Path, part: Part) -> pl.DataFrame:
    return read_rows(path, part.columns, separator=part.separator, encoding=part.encoding)


def _source(table: pl.DataFrame, files: tuple[str, ...], columns: Mapping[str, str]) -> Source:
    origin = Origin(files, table[_FILE].to_numpy(), table[_ROW].to_numpy(), columns)
    return Source(" + ".join(files), table, origin)


def _movies(source: Source, usecase: UseCase) -> pl.DataFrame:
    """Year out of the title, genres between spaces as in MovieLens-100K."""
    del usecase
    title, genres = source.column("title"), source.column("genres")
    return source.table.with_columns(
        title=title.str.replace(r"\s*\(\d{4}\)\s*$", ""),
        release_year=title.str.extract(r"\((\d{4})\)\s*$"),
        genres=genres.replace("(no genres listed)", None).str.replace_all("|", " ", literal=True),
    )


_KUAIRAND: Final = {"watch": "play_time_ms", "like": "is_like", "share": "is_forward", "hide": "is_hate"} | {
    "click": "is_click", "follow": "is_follow", "comment": "is_comment"
}  # fmt: skip


def _feedback(source: Source, usecase: UseCase) -> pl.DataFrame:
    """A row of KuaiRand is a shown video with all that was done: an event for each that the use case names."""
    shown = source.table.with_columns(action=pl.lit("view"), watch_seconds=pl.lit(0.0))
    parts = [shown] if "view" in usecase.action_names else []
    for action, column in _KUAIRAND.items():
        if action not in usecase.action_names:
            continue
        found = source.column(column)
        amount = pl.Series(cells.numbers(source, found))
        source.refuse(found, amount < 0, "{cell} is negative", "Feedback is 0 or more; correct the cell")
        seconds = amount / 1000 if action == "watch" else amount * 0
        done = shown.with_columns(action=pl.lit(action), watch_seconds=seconds)
        parts.append(done.filter(amount > 0))
    if not parts:
        raise BadInputError(
            f"{usecase.name}: KuaiRand has view, {', '.join(_KUAIRAND)}; name one of these among the use case's actions"
        )
    return pl.concat(parts)


def _videos(source: Source, usecase: UseCase) -> pl.DataFrame:
    del usecase
    length, day = source.column("video_duration"), source.column("upload_dt")
    uploaded = day.str.to_date("%Y-%m-%d", strict=False)
    source.refuse(
        day, uploaded.is_null() & day.is_not_null(), "{cell} is no date", "Dates read 2022-04-08; correct the cell"
    )
    nothing = pl.lit(None, pl.String)
    return source.table.with_columns(
        duration_s=pl.Series(cells.numbers(source, length, optional=True)).fill_nan(None) / 1000,
        uploaded_day=uploaded.to_physical(), title=nothing, language=nothing,
    )  # fmt: skip


def _viewers(source: Source, usecase: UseCase) -> pl.DataFrame:
    """Nobody's age or country is published."""
    nothing = pl.lit(None, pl.String)
    absent = [name for name in ("age", "country", "interests") if name not in source.table.columns]
    del usecase
    return source.table.with_columns(**dict.fromkeys(absent, nothing))


def _impressions(source: Source, usecase: UseCase) -> pl.DataFrame:
    """A row of MIND is a request with all that it showed, `N1-1 N2-0`, 1 = clicked: a view each, and the clicks."""
    del usecase
    at = source.column("time")
    time = at.str.to_datetime("%m/%d/%Y %I:%M:%S %p", strict=False, time_unit="us")
    source.refuse(at, time.is_null(), "{cell} is no time", "Times read 11/15/2019 9:05:58 AM; correct the cell")
    shown = source.column("impressions")
    form = r"^\S+-[01]( \S+-[01])*$"
    source.refuse(
        shown, ~shown.str.strip_chars().str.contains(form), "{cell} is no list of shown news",
        "Shown news read N1-1 N2-0, 1 for a click; the test part has no clicks and cannot be used",
    )  # fmt: skip
    each = (
        source.table.with_columns(time=time, shown=shown.str.strip_chars().str.split(" "))
        .with_columns(request_id=pl.format("{}:{}", _FILE, "impression_id"))
        .explode("shown")
        .with_columns(news_id=pl.col("shown").str.extract(r"^(.*)-[01]$"), action=pl.lit("view"))
    )
    clicked = each.filter(pl.col("shown").str.ends_with("-1")).with_columns(action=pl.lit("click"))
    return pl.concat([each, clicked])


def _news(source: Source, usecase: UseCase) -> pl.DataFrame:
    """Training and validation parts share most of their news."""
    del usecase
    return source.table.unique("news_id", keep="first", maintain_order=True)


_GROUPLENS: Final = (
    "is GroupLens's (University of Minnesota): for research, no commercial use without permission, no redistribution "
    "without it; publications cite Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015, "
    "doi.org/10.1145/2827872."
)
_FILM: Final = {"title": "movie_title", "genres": "class"}

PUBLIC: Final[Mapping[str, PublicSet]] = {
    "ml-1m": PublicSet(
        licence=f"MovieLens 1M {_GROUPLENS}",
        usecase="movies",
        interactions=Part(("ratings.dat",), ("user_id", "item_id", "rating", "timestamp"), "::"),
        items=Part(("movies.dat",), ("item_id", "title", "genres"), "::", "latin-1", _FILM, _movies),
        users=Part(("users.dat",), ("user_id", "gender", "age", "occupation", "zip_code"), "::"),
    ),
    "ml-25m": PublicSet(
        licence=f"MovieLens 25M {_GROUPLENS}",
        usecase="movies",
        interactions=Part(("ratings.csv",), rename={"userId": "user_id", "movieId": "item_id"}),
        items=Part(("movies.csv",), rename={"movieId": "item_id", **_FILM}, shape=_movies),
    ),
    "kuairand": PublicSet(
        licence=(
            "KuaiRand is CC BY-SA 4.0; publications cite Gao et al., KuaiRand: An Unbiased Sequential Recommendation "
            "Dataset with Randomly Exposed Videos, CIKM 2022, doi.org/10.1145/3511808.3557624."
        ),
        usecase="video",
        interactions=Part(("log_*.csv", "data/log_*.csv"), shape=_feedback),
        items=Part(
            ("video_features_basic_*.csv", "data/video_features_basic_*.csv"),
            rename={"tag": "topics", "author_id": "creator"}, shape=_videos,
        ),
        users=Part(("user_features_*.csv", "data/user_features_*.csv"), shape=_viewers),
        notes=("Only the feedback that the use case's actions name is loaded; the times are those of the showing.",),
    ),
    "mind": PublicSet(
        licence=(
            "MIND is Microsoft's, under the Microsoft Research License Terms: for research only; publications cite Wu "
            "et al., MIND: A Large-scale Dataset for News Recommendation, ACL 2020."
        ),
        usecase="docs/bring-your-own-data.md",
        interactions=Part(
            ("behaviors.tsv", "*/behaviors.tsv"), ("impression_id", "user_id", "time", "history", "impressions"),
            shape=_impressions,
        ),
        items=Part(
            ("news.tsv", "*/news.tsv"),
            (
                "news_id", "category", "subcategory", "title", "abstract", "url", "title_entities",
                "abstract_entities",
            ),
            shape=_news,
        ),
        notes=("Clicks before a user's first impression have no times in MIND and are left out.",),
    ),
}  # fmt: skip
"""Name -> where it lies in its folder."""
