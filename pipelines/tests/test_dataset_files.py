"""Files become a data set, or an error that names file, column, row and remedy."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from definitions.attributes import category_code
from definitions.usecase import UseCase
from millrace.ids import stable_id
from pipelines.datasets import DataPaths, Dataset, load_dataset
from pipelines.errors import BadInputError, DataFileError

ROWS = "who,what,stars,when,action\n1,10,4,1000,rate\n2,11,2.5,900,rate\n1,11,0,1000,view\n"


def load(
    films: UseCase, folder: Path, interactions: str, items: str | None = None, users: str | None = None
) -> Dataset:
    paths = []
    for name, text in (("events.csv", interactions), ("items.csv", items), ("users.csv", users)):
        if text is not None:
            (folder / name).write_text(text)
        paths.append(None if text is None else folder / name)
    assert paths[0] is not None
    return load_dataset(DataPaths(paths[0], paths[1], paths[2]), films, cache=folder)


def test_rows_become_events_in_time_order(films: UseCase, tmp_path: Path) -> None:
    """Columns map by the use case; units and action names are resolved."""
    data = load(films, tmp_path, ROWS)

    assert [2, 1, 1] == data.interactions.user_id.tolist()
    assert [900_000_000, 1_000_000_000, 1_000_000_000] == data.interactions.event_time_us.tolist()
    assert 2.5 == data.interactions.value[0]
    assert {1, 0} == set(data.interactions.action[1:].tolist())
    assert [0, 1, 2] == data.interactions.offset.tolist()
    assert sorted(["10", "11"]) == sorted(item.external_id for item in data.items)


def test_equal_times_come_in_an_order_that_the_seed_decides(films: UseCase, tmp_path: Path) -> None:
    """File order is never the order of ties."""
    rows = "who,what,stars,when,action\n" + "".join(f"{u},1,4,1000,rate\n" for u in range(1, 60))
    (tmp_path / "e.csv").write_text(rows)
    orders = [
        load_dataset(DataPaths(tmp_path / "e.csv"), films, cache=tmp_path, seed=seed).interactions.user_id.tolist()
        for seed in (0, 0, 1)
    ]

    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_event_ids_come_from_what_a_row_says(films: UseCase, tmp_path: Path) -> None:
    """Two overlapping exports give their common rows the same ids; rows that say the same stay two events."""
    header, *lines = ROWS.splitlines()
    first = load(films, tmp_path, "\n".join([header, *lines]))
    second = load(films, tmp_path, "\n".join([header, *reversed(lines[1:]), lines[1]]))

    assert set(first.interactions.event_id.tolist()) > {0} - {0}
    assert set(first.interactions.event_id[first.interactions.user_id == 2]) <= set(second.interactions.event_id)
    assert len(second.interactions) == len(set(second.interactions.event_id.tolist()))


def test_integer_ids_shift_together_if_one_is_zero(films: UseCase, tmp_path: Path) -> None:
    """0 means absent, so a column with a 0 is one up, in every file that names the same things."""
    data = load(
        films,
        tmp_path,
        "who,what,stars,when,action\n1,10,4,1000,rate\n",
        items="id,year,genres\n0,1990,a\n10,1991,b\n",
        users="id,gender\n1,F\n",
    )

    assert [11] == data.interactions.item_id.tolist()
    assert [1, 11] == [item.id for item in data.items]
    assert ["0", "10"] == [item.external_id for item in data.items]
    assert frozenset({"item_id"}) == data.shifted


def test_text_ids_are_stable_ids_in_every_file(films: UseCase, tmp_path: Path) -> None:
    """One textual id makes the whole column text, also where another file has digits only."""
    data = load(
        films,
        tmp_path,
        "who,what,stars,when,action\n1,10,4,1000,rate\n",
        items="id,year,genres\n10,1990,a\nx7,1991,b\n",
    )

    assert [stable_id("10"), stable_id("x7")] == [item.id for item in data.items]
    assert [stable_id("10")] == data.interactions.item_id.tolist()
    assert [1] == data.interactions.user_id.tolist()
    assert frozenset({"item_id"}) == data.textual


def test_attributes_and_the_stamped_category(films: UseCase, tmp_path: Path) -> None:
    """Categories become stable codes, the first one is stamped, an empty cell is an absent attribute."""
    data = load(
        films,
        tmp_path,
        "who,what,stars,when,action\n1,10,4,1000,rate\n1,11,4,1001,rate\n",
        items="id,year,genres\n10,1990,Drama|War\n11,,\n",
        users="id,gender\n1,F\n",
    )

    assert [category_code("Drama"), category_code("War")] == list(data.items[0].attributes["genre"].categories.codes)
    assert 1990 == data.items[0].attributes["year"].number
    assert not data.items[1].attributes
    assert [category_code("Drama"), 0] == data.interactions.category.tolist()
    assert "F" == data.users[0].attributes["gender"].text


def test_parquet_with_its_own_types_gives_the_same(films: UseCase, tmp_path: Path) -> None:
    """Types of the file are used: integers, floats, timestamps."""
    expected = load(films, tmp_path, ROWS)
    table = pl.read_csv(ROWS.encode()).with_columns(pl.from_epoch("when", time_unit="s"))
    table.write_parquet(tmp_path / "e.parquet")

    data = load_dataset(DataPaths(tmp_path / "e.parquet"), films, cache=tmp_path)

    for name in ("event_id", "user_id", "item_id", "action", "value", "event_time_us"):
        np.testing.assert_array_equal(getattr(expected.interactions, name), getattr(data.interactions, name), name)


def test_times_in_iso_text(films: UseCase, tmp_path: Path) -> None:
    """Without an offset a time is UTC."""
    columns = {**films.columns, "event_time_us": films.columns["event_time_us"].model_copy(update={"unit": "iso"})}
    usecase = films.model_copy(update={"columns": columns})
    rows = "who,what,stars,when,action\n1,1,4,1970-01-02T00:00:00,rate\n1,2,4,1970-01-02T01:00:00.5+01:00,rate\n"
    (tmp_path / "e.csv").write_text(rows)

    data = load_dataset(DataPaths(tmp_path / "e.csv"), usecase, cache=tmp_path)

    assert [86_400_000_000, 86_400_500_000] == data.interactions.event_time_us.tolist()


BROKEN = {
    "missing column": (ROWS.replace("stars", "points"), "stars", None, "points"),
    "bad number": (ROWS.replace("2.5", "good"), "stars", 2, "'good' is not a number"),
    "infinite number": (ROWS.replace("2.5", "inf"), "stars", 2, "finite"),
    "empty number": (ROWS.replace("2.5", ""), "stars", 2, "not a number"),
    "bad time": (ROWS.replace(",900,", ",yesterday,"), "when", 2, "unit"),
    "time before 1970": (ROWS.replace(",900,", ",-900,"), "when", 2, "no time after 1970"),
    "time in another unit": (ROWS.replace(",900,", ",900000000000000,"), "when", 2, "unit"),
    "null id": (ROWS.replace("\n2,11", "\n,11"), "who", 2, "needs an id"),
    "huge id": (ROWS.replace("\n2,11", "\n99999999999999999999,11"), "who", 2, "too large"),
    "unknown action": (ROWS.replace("view", "poke"), "action", 3, "view, rate"),
    "null action": (ROWS.replace("view", ""), "action", 3, "unknown action"),
    "too many cells": (ROWS.replace("2,11,2.5", "2,11,2,5"), None, 2, "more cells"),
    "header only": (ROWS.splitlines()[0] + "\n", None, None, "no rows"),
    "empty": ("", None, None, "is empty"),
    "no table": ("Dear Sir or Madam\n", None, None, "neither CSV nor Parquet"),
}


@pytest.mark.parametrize(("text", "column", "row", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_named_with_its_place(
    films: UseCase, tmp_path: Path, text: str, column: str | None, row: int | None, said: str
) -> None:
    """File, row and column are in the error as data and in its message, with what to do."""
    with pytest.raises(DataFileError) as caught:
        load(films, tmp_path, text)

    assert (column, row) == (caught.value.column, caught.value.row)
    assert caught.value.file.endswith("events.csv")
    assert caught.value.file in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("raw", [b"PAR1 and no more", b"PK\x03\x04\x00\x00\x00", b"who,what\n\xff\xfe,1\n"])
def test_other_kinds_of_files_are_refused(films: UseCase, tmp_path: Path, raw: bytes) -> None:
    """Cut-off Parquet, archives, other encodings."""
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(DataFileError, match="x"):
        load_dataset(DataPaths(tmp_path / "x"), films, cache=tmp_path)


def test_a_missing_file_and_an_unknown_name(films: UseCase, tmp_path: Path) -> None:
    """Both are the user's to mend."""
    with pytest.raises(DataFileError, match="cannot be read"):
        load_dataset(DataPaths(tmp_path / "absent.csv"), films, cache=tmp_path)
    with pytest.raises(BadInputError, match="synthetic"):
        load_dataset("netflix", films, cache=tmp_path)


def test_an_item_that_is_there_twice(films: UseCase, tmp_path: Path) -> None:
    """Which of the two rows is right is not for us to guess."""
    with pytest.raises(DataFileError, match=r"items\.csv, row 2: id '10' is there twice"):
        load(films, tmp_path, ROWS, items="id,year,genres\n10,1990,a\n10,1991,b\n")
