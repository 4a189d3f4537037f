"""Public sets in the format of their files: a few rows each, written as they are published."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from definitions.attributes import category_code
from definitions.events import EventColumns
from definitions.usecase import UseCase, find_usecase, load_usecase
from millrace.ids import stable_id
from pipelines.datasets import Dataset, load_dataset
from pipelines.datasets.criteo import criteo_rows
from pipelines.errors import BadInputError, DataFileError
from servicekit.settings import checkout_root

ROOT = checkout_root()
ML_1M = {
    "ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n",
    "movies.dat": "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n661::Misérables, Les (1995)::Drama|Musical\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
}
ML_25M = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,306,3.5,1147868817\n",
    "movies.csv": 'movieId,title,genres\n296,"Pulp, Fiction (1994)",Comedy|Crime\n306,Untitled,(no genres listed)\n',
}
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
STANDARD, RANDOM = "data/log_standard_4_08_to_4_21_1k.csv", "data/log_random_4_22_to_5_08_1k.csv"
VIDEOS = "data/video_features_basic_1k.csv"
KUAIRAND = {
    STANDARD: LOG + "0,7,20220408,1500,1649400000000,1,1,0,0,0,0,1,25500,30000,0,0,0,0,1\n",
    RANDOM: LOG + "5,8,20220422,1500,1650600000000,0,0,0,0,0,1,0,0,9000,0,0,0,1,1\n",
    VIDEOS: (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
        "music_id,music_type,tag\n"
        '7,441,NORMAL,2022-04-01,ShortImport,1,30000.0,720,1280,9,4,"12,65"\n'
        "8,0,NORMAL,2022-04-02,ShortImport,1,,720,1280,9,4,\n"
    ),
    "data/user_features_1k.csv": "user_id,user_active_degree,is_lowactive_period\n0,full_active,0\n5,UNKNOWN,0\n",
}
NEWS = "N1\tsports\tgolf\tA title\tAn abstract\thttps://x\t[]\t[]\n"
MIND = {
    "train/behaviors.tsv": "1\tU1\t11/11/2019 9:05:58 AM\tN9 N8\tN1-1 N2-0\n2\tU2\t11/11/2019 12:30:00 PM\t\tN2-0\n",
    "train/news.tsv": NEWS + "N2\tnews\tworld\tAnother\t\thttps://y\t[]\t[]\n",
    "dev/behaviors.tsv": "1\tU1\t11/15/2019 12:00:00 AM\tN9\tN2-1\n",
    "dev/news.tsv": NEWS,
}


def write(folder: Path, files: dict[str, str], encoding: str = "utf-8") -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding=encoding)
    return folder


def load(name: str, folder: Path, usecase: UseCase) -> Dataset:
    return load_dataset(f"{name}:{folder}", usecase, cache=folder / "cache")


@pytest.fixture(scope="module")
def movies() -> UseCase:
    return find_usecase("movies", ROOT / "usecases")


@pytest.fixture(scope="module")
def video() -> UseCase:
    return find_usecase("video", ROOT / "usecases")


@pytest.fixture
def news(tmp_path: Path) -> UseCase:
    """The use case that the page on data gives for MIND."""
    page = (ROOT / "docs/bring-your-own-data.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(usecase: news\n.*?)```", page, flags=re.DOTALL)
    assert found is not None
    (tmp_path / "news.yaml").write_text(found[1])
    return load_usecase(tmp_path / "news.yaml")


def rows(events: EventColumns, *columns: str) -> list[tuple[float, ...]]:
    return sorted(zip(*(getattr(events, name).tolist() for name in columns), strict=True))


def test_movielens_1m_is_the_movies_use_case(movies: UseCase, tmp_path: Path) -> None:
    """Cells between two colons, no header, Latin-1 titles with the year in them."""
    write(tmp_path, {name: text for name, text in ML_1M.items() if name != "movies.dat"})
    data = load("ml-1m", write(tmp_path, {"movies.dat": ML_1M["movies.dat"]}, "latin-1"), movies)

    assert [(1, 1193, 5, 978_300_760_000_000), (2, 661, 3, 978_302_109_000_000)] == rows(
        data.interactions, "user_id", "item_id", "value", "event_time_us"
    )
    film = next(item for item in data.items if item.id == 661)
    assert "Misérables, Les" == film.attributes["title"].text
    assert 1995 == film.attributes["year"].number
    assert [category_code("Drama"), category_code("Musical")] == list(film.attributes["genre"].categories.codes)
    assert ["F", "M"] == [user.attributes["gender"].text for user in data.users]
    assert "GroupLens" in data.licence


def test_movielens_25m_is_the_movies_use_case(movies: UseCase, tmp_path: Path) -> None:
    """Plain CSV with a header; no users' attributes, films without genres or year."""
    data = load("ml-25m", write(tmp_path, ML_25M), movies)

    assert [(1, 296, 5), (1, 306, 3.5)] == rows(data.interactions, "user_id", "item_id", "value")
    films = {item.id: item.attributes for item in data.items}
    assert (1994, "Pulp, Fiction") == (films[296]["year"].number, films[296]["title"].text)
    assert {"title"} == set(films[306])
    assert [] == data.users


def test_kuairand_rows_are_several_events(video: UseCase, tmp_path: Path) -> None:
    """A shown video with a watch and a like is three events; all logs are one, and a user 0 moves all users up."""
    data = load("kuairand", write(tmp_path, KUAIRAND), video)

    view, watch, like, _, hide = range(5)
    assert [(1, 7, view, 0), (1, 7, watch, 25.5), (1, 7, like, 0), (6, 8, view, 0), (6, 8, hide, 0)] == rows(
        data.interactions, "user_id", "item_id", "action", "value"
    )
    assert {1_649_400_000_000_000, 1_650_600_000_000_000} == set(data.interactions.event_time_us.tolist())
    first, second = (item.attributes for item in data.items)
    assert (30, 19083) == (first["seconds"].number, first["uploaded_day"].number)
    assert [category_code("12"), category_code("65")] == list(first["topic"].categories.codes)
    assert {"uploaded_day", "creator"} == set(second)
    assert "CC BY-SA 4.0" in data.licence


def test_mind_requests_are_views_and_clicks(news: UseCase, tmp_path: Path) -> None:
    """Both parts are one log; a request of each part has an id of its own, which its clicks name."""
    data = load("mind", write(tmp_path, MIND), news)

    view, click = 0, 1
    n1, n2 = stable_id("N1"), stable_id("N2")
    u1, u2 = stable_id("U1"), stable_id("U2")
    day = 1_573_430_400  # 11 November 2019
    expected = [
        (day + 32_758, u1, n1, view), (day + 32_758, u1, n1, click), (day + 32_758, u1, n2, view),
        (day + 45_000, u2, n2, view), (day + 4 * 86_400, u1, n2, view), (day + 4 * 86_400, u1, n2, click),
    ]  # fmt: skip
    assert sorted((s * 1_000_000, *rest) for s, *rest in expected) == rows(
        data.interactions, "event_time_us", "user_id", "item_id", "action"
    )
    requests = data.interactions.request_id
    assert 3 == len(np.unique(requests))
    assert 0 not in requests
    assert ["N1", "N2"] == sorted(item.external_id for item in data.items)


BROKEN = {
    "rating": ("ml-1m", "movies", "ratings.dat", "::3::", "::good::", "rating", 2, "not a number"),
    "cells": ("ml-1m", "movies", "users.dat", "::16::", "::16::x::", None, 2, "6 cells instead of 5"),
    "renamed": ("ml-25m", "movies", "ratings.csv", "\n1,306", "\n,306", "userId", 2, "needs an id"),
    "flag": ("kuairand", "video", RANDOM, "0,0,0,0,0,1,0", "0,-1,0,0,0,1,0", "is_like", 1, "is negative"),
    "time": ("kuairand", "video", STANDARD, "1649400000000", "", "time_ms", 1, "no time"),
    "upload": ("kuairand", "video", VIDEOS, "2022-04-02", "2 April", "upload_dt", 2, "no date"),
    "shown": ("mind", "news", "dev/behaviors.tsv", "N2-1", "N2", "impressions", 1, "the test part"),
    "clock": ("mind", "news", "train/behaviors.tsv", "12:30:00 PM", "12:30", "time", 2, "no time"),
    "missing": ("ml-25m", "movies", "movies.csv", "genres", "tags", "genres", None, "documented format"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "usecase", "file", "old", "new", "column", "row", "said"), BROKEN.values(), ids=BROKEN.keys()
)
def test_a_broken_file_is_named_with_its_place(
    name: str, usecase: str, file: str, old: str, new: str, column: str | None, row: int | None, said: str,
    tmp_path: Path, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """File, column and row are those of the published file, however rows were shaped and joined."""
    files = dict({"ml-1m": ML_1M, "ml-25m": ML_25M, "kuairand": KUAIRAND, "mind": MIND}[name])
    assert old in files[file]
    files[file] = files[file].replace(old, new, 1)

    with pytest.raises(DataFileError, match=said) as caught:
        load(name, write(tmp_path, files, "latin-1"), request.getfixturevalue(usecase))

    assert (column, row) == (caught.value.column, caught.value.row)
    assert caught.value.file.endswith(file)


def test_a_set_that_is_not_there_says_what_to_give(movies: UseCase, tmp_path: Path) -> None:
    """No folder, an empty one, or a name that nobody knows."""
    with pytest.raises(BadInputError, match=r"ml-1m:/path"):
        load_dataset("ml-1m", movies, cache=tmp_path)
    with pytest.raises(DataFileError, match=r"holds no ratings\.dat"):
        load("ml-1m", tmp_path, movies)
    with pytest.raises(BadInputError, match="kuairand"):
        load("netflix", tmp_path, movies)


def criteo_line(label: str = "0", first: str = "", code: str = "68fd1e64") -> str:
    return "\t".join([label, first, "-2", *["7"] * 11, code, "", *["80e26c9b"] * 24]) + "\n"


def test_criteo_rows_come_in_batches(tmp_path: Path) -> None:
    """Missing numbers are NaN, missing categories 0; the cut of batches changes nothing, nor does gzip."""
    text = "".join([criteo_line("0", "1"), criteo_line("1"), criteo_line("0", "3", "00000000")])
    (tmp_path / "train.txt").write_text(text)
    with gzip.open(tmp_path / "day_0.gz", "wt") as file:
        file.write(text)

    whole = next(criteo_rows(tmp_path / "train.txt"))
    cut = list(criteo_rows(tmp_path / "day_0.gz", batch_bytes=10))

    assert [0, 1, 0] == whole.label.tolist()
    np.testing.assert_array_equal([1, np.nan, 3], whole.numbers[:, 0])
    assert {-2.0} == set(whole.numbers[:, 1].tolist())
    assert [0x68FD1E64 + 1, 0x68FD1E64 + 1, 1] == whole.codes[:, 0].tolist()
    assert {0} == set(whole.codes[:, 1].tolist())
    assert 3 == len(cut)
    np.testing.assert_array_equal(whole.codes, np.concatenate([each.codes for each in cut]))


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        (criteo_line("7"), "label", "no label"),
        (criteo_line("0", "many"), "I1", "not a number"),
        (criteo_line("0", "1", "xyz"), "C1", "no hash"),
        ("0\t1\n", None, "2 cells instead of 40"),
    ],
)
def test_a_broken_criteo_row_is_named_across_batches(tmp_path: Path, line: str, column: str | None, said: str) -> None:
    """The row counts from the beginning of the file."""
    (tmp_path / "train.txt").write_text(criteo_line() * 4 + line)

    with pytest.raises(DataFileError, match=said) as caught:
        list(criteo_rows(tmp_path / "train.txt", batch_bytes=10))

    assert (5, column) == (caught.value.row, caught.value.column)
