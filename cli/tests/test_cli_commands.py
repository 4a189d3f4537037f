"""What commands make of their arguments and of what lies in the home, before they ask any server."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from definitions.usecase import UseCase, find_usecase
from millrace.ids import stable_id
from millrace_cli import data, demo, models
from millrace_cli.ask import event_time_us, own_id
from millrace_cli.demo import Report, judge
from millrace_cli.errors import BadInput
from millrace_cli.settings import Settings
from pipelines.datasets import DataPaths, load_dataset
from pipelines.journal import Loaded
from pipelines.publishing import PublishResult
from servicekit.settings import checkout_root

LOADED = Loaded("movies", "ml-100k", None, None, 0, 100, 90, 89, (), ())
KEPT = Report(
    events={"published": 9, "archived": 9, "lost": 0, "duplicates": 0},
    auc={"online_gap": 0.004},
    online={"rungs": {"MODEL": 1.0}},
    parity={"max_abs": 1e-5},
    load={"passed": True, "missed": []},
)


@pytest.fixture
def movies() -> UseCase:
    """The use case of the demo."""
    return find_usecase("movies", checkout_root() / "usecases")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of an empty home."""
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    return Settings()


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("now", None),
        ("1", 1),
        ("893286638000001", 893_286_638_000_001),
        ("1998-01-01", 883_612_800_000_000),
        ("1998-01-01T00:00:00.000001", 883_612_800_000_001),
        ("1998-01-01T02:00:00+02:00", 883_612_800_000_000),
    ],
)
def test_a_time_is_a_date_a_number_or_now(at: str, expected: int | None) -> None:
    """Without an offset a time is UTC; to the microsecond, since features are."""
    assert expected == event_time_us(at, newest_us=5)


def test_without_a_time_it_is_just_after_the_newest_loaded_event() -> None:
    """Features are strict: at the event's own time it would not be seen. With nothing loaded, the gateway's clock."""
    assert (6, None) == (event_time_us(None, 5), event_time_us(None, None))


@pytest.mark.parametrize(
    "at", ["", "yesterday", "1998-13-01", "1998-01-01T25:00", "0", "-5", "1960-01-01", "9" * 19, "9" * 40]
)
def test_what_is_no_time_is_bad_input(at: str) -> None:
    """The gateway would say less, and protobuf's own error would be a traceback."""
    with pytest.raises(BadInput, match=r"--at .*microseconds since the epoch"):
        event_time_us(at, 5)


def test_ids_are_those_that_the_loader_gave() -> None:
    """Integers, shifted where the file has a 0; text by its stable id, and numbers too where the column holds text."""
    shifted, textual = replace(LOADED, shifted_ids=("user_id",)), replace(LOADED, text_ids=("user_id",))

    assert [196] * 3 == [
        own_id("196", "user", "user_id", each) for each in (None, LOADED, replace(shifted, shifted_ids=("item_id",)))
    ]
    assert [197, 1] == [own_id(text, "user", "user_id", shifted) for text in ("196", "0")]
    assert stable_id("anna") == own_id("anna", "user", "user_id", None)
    assert stable_id("196") == own_id("196", "user", "user_id", textual)
    assert 2**64 - 1 == own_id(str(2**64 - 1), "user", "user_id", LOADED)


@pytest.mark.parametrize("text", ["0", str(2**64), "9" * 30])
def test_a_number_that_is_no_id_is_bad_input(text: str) -> None:
    """The argument is named."""
    with pytest.raises(BadInput, match=f"--items: {text} is no id"):
        own_id(text, "--items", "item_id", LOADED)


def test_the_tail_begins_at_a_time_and_never_inside_it() -> None:
    """Equal times stay together, on the tail's side; the whole set has no tail."""
    times = np.array([5, 1, 3, 3, 3, 2, 4, 6, 7, 8], np.int64)

    assert [8, 3, 9] == [data._tail_from(times, share) for share in (0.9, 0.3, 1.0)]
    assert 3 == data._tail_from(times, 0.4)
    assert 4 == data._tail_from(times, 0.5)
    assert 1 == data._tail_from(np.empty(0, np.int64), 0.9)


def test_a_source_is_a_name_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are kept absolute: replay reads them again from wherever it runs."""
    monkeypatch.chdir(tmp_path)

    assert ["auto", "synthetic"] == [data._source(name, None, None, None) for name in (None, "synthetic")]
    assert DataPaths(tmp_path / "e.csv", None, tmp_path / "u.csv") == data._source(
        None, Path("e.csv"), None, Path("u.csv")
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, None, Path("i.csv"), None), "--interactions: give the events"),
        ((None, None, None, Path("u.csv")), "--interactions: give the events"),
        (("ml-100k", Path("e.csv"), None, None), "--dataset and --interactions: give one"),
    ],
)
def test_a_source_that_contradicts_itself_is_bad_input(given: tuple[Any, ...], said: str) -> None:
    """The options that clash are named."""
    with pytest.raises(BadInput, match=said):
        data._source(*given)


def test_a_bundle_is_the_newest_or_the_one_that_is_asked_for(settings: Settings, movies: UseCase) -> None:
    """By number, not by name: 10 is newer than 9. What is not there is answered with what is."""
    with pytest.raises(BadInput, match="no bundle yet; train one first: millrace train"):
        models.bundle_folder(settings, movies, None)
    for name in (*range(3, 11), "11.tmp"):
        (settings.bundles / "movies" / str(name)).mkdir(parents=True)

    assert ["10", "9"] == [models.bundle_folder(settings, movies, version).name for version in (None, 9)]
    with pytest.raises(BadInput, match=r"--version 11: there is no such bundle; there are 3, 4, .*, 9, 10"):
        models.bundle_folder(settings, movies, 11)


def test_a_demo_that_kept_its_promises_passes() -> None:
    """At the bars themselves, not only far from them."""
    assert [] == judge(KEPT)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"events": {"published": 9, "archived": 8, "lost": 1, "duplicates": 0}}, "events"),
        ({"events": {"published": 9, "archived": 9, "lost": 0, "duplicates": 1}}, "events"),
        ({"events": {"published": 9, "archived": 10, "lost": 0, "duplicates": 0}}, "events"),
        ({"auc": {"online_gap": 0.0041}}, "online AUC"),
        ({"auc": {"online_gap": None}}, "online AUC"),
        ({"auc": {}}, "online AUC"),
        ({"online": {"rungs": {"MODEL": 0.9999, "LOCAL_MODEL": 0.0001}}}, "MODEL"),
        ({"online": {}}, "MODEL"),
        ({"parity": {"max_abs": 1.1e-5}}, "Triton differ"),
        ({"parity": {}}, "Triton differ"),
        ({"load": {"passed": False, "missed": ["p99_ms"]}}, "load test: p99_ms"),
        ({"load": {}}, "load test: did not run"),
    ],
)
def test_each_broken_promise_fails_the_demo_by_name(broken: dict[str, Any], said: str) -> None:
    """One promise, one line; a figure that is missing is broken too."""
    failed = judge(replace(KEPT, **broken))

    assert 1 == len(failed)
    assert said in failed[0]


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("data/loaded/shop.json", "(data/loaded)"),
        ("lake/shop/interactions/x.parquet", "(lake)"),
        ("bundles/shop/1/manifest.json", "(bundles)"),
    ],
)
def test_the_demo_never_takes_away_what_is_not_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, own: str, named: str
) -> None:
    """It names what is there and the way out; nothing is touched."""
    monkeypatch.setattr("millrace_cli.stack.down", lambda: None)  # there is no stack
    path = settings.home / own
    path.parent.mkdir(parents=True)
    path.write_text("{}")

    with pytest.raises(BadInput, match="another MILLRACE_HOME") as refused:
        demo._begin_anew(settings)

    assert named in str(refused.value)
    assert path.read_text() == "{}"


def test_the_demo_begins_without_what_its_last_run_made(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mark says whose it is; downloads and reports stay."""
    monkeypatch.setattr("millrace_cli.stack.down", lambda: None)  # there is no stack
    demo._begin_anew(settings)
    for name in ("data/loaded", "lake/movies", "bundles/movies", "dist/datasets", "reports"):
        (settings.home / name).mkdir(parents=True)

    demo._begin_anew(settings)

    assert ["demo.json", "dist", "reports"] == sorted(path.name for path in settings.home.iterdir())


@pytest.mark.parametrize("run_id", ["tonight", "20260131", "20260131T020000Z-Night", "20269931T020000Z", ""])
def test_a_run_id_that_is_none_is_bad_input(run: Callable[..., Any], tmp_path: Path, run_id: str) -> None:
    """Said before a server is asked."""
    done = run("precompute", "--run-id", run_id, MILLRACE_HOME=str(tmp_path))

    assert 2 == done.code
    assert "--run-id: " in done.stderr


GOOD = "user_id,item_id,rating,timestamp\n1,10,4,880000000\n2,11,3,880000001\n3,10,5,880000002\n"
BROKEN_FILES = {
    "no such column": (GOOD.replace("rating", "stars"), "column 'rating': is missing", "name the one that holds value"),
    "a cell that is no number": (GOOD.replace(",3,", ",good,"), "row 2, column 'rating': 'good'", "correct"),
    "a time in another unit": (GOOD.replace("880000001", "880000001000000"), "row 2, column 'timestamp'", "unit"),
    "a missing id": (GOOD.replace("\n2,", "\n,"), "row 2, column 'user_id'", "remove the row"),
    "a row with too many cells": (GOOD.replace("2,11", "2,11,7"), "row 2: has more cells", "Quote cells"),
    "no rows": (GOOD.partition("\n")[0] + "\n", "has a header and no rows", "at least one row"),
    "another kind of file": ("PK\x03\x04\x00\x00", "is neither CSV nor Parquet", "Export it"),
}


@pytest.mark.parametrize(("text", "place", "remedy"), BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
def test_load_names_file_row_column_and_remedy(
    run: Callable[..., Any], tmp_path: Path, text: str, place: str, remedy: str
) -> None:
    """Exit 2, before anything is published: no stack is needed to be told."""
    path = tmp_path / "events.csv"
    path.write_text(text)

    done = run("load", "--interactions", str(path), MILLRACE_HOME=str(tmp_path))

    assert 2 == done.code
    assert f"{path}" in done.stderr
    assert place in done.stderr
    assert remedy in done.stderr


@pytest.mark.parametrize(("rejected", "code"), [((), 0), (("event 2: event_time_us is ahead",), 2)])
def test_a_load_that_is_not_whole_exits_2_and_says_what_is_missing(
    run: Callable[..., Any],
    tmp_path: Path,
    movies: UseCase,
    monkeypatch: pytest.MonkeyPatch,
    rejected: tuple[str, ...],
    code: int,
) -> None:
    """A script must notice that the collector refused records; the others are loaded."""
    path = tmp_path / "events.csv"
    path.write_text(GOOD)
    whole = load_dataset(DataPaths(path), movies, cache=tmp_path)
    outcome = data.LoadOutcome(
        whole, whole, PublishResult(items=0, users=0, events=2, rejected=rejected, next_offsets={}), 0.0, 0.0
    )
    monkeypatch.setattr(data, "load_into_stack", lambda *_, **__: outcome)

    done = run("load", "--interactions", str(path), MILLRACE_HOME=str(tmp_path))

    assert code == done.code
    assert all(each in done.stderr for each in rejected)
    assert "2 events" in done.stdout


def test_replay_before_any_load_is_bad_input(run: Callable[..., Any], tmp_path: Path) -> None:
    """It says what comes first."""
    done = run("replay", MILLRACE_HOME=str(tmp_path))

    assert (2, True) == (done.code, "nothing is loaded yet; try: millrace load" in done.stderr)
