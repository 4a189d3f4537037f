"""The point-in-time join over Delta, and its bench."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pipelines.bench import feast_env, pit
from pipelines.training.point_in_time import Source, sums_as_of

HOUR_US = 3_600_000_000


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Key 7: at 1 h, 3 h, and, written last, 2 h; key 8 at 3 h."""
    hours = np.array([1, 3, 3, 2])
    frame = pl.DataFrame({"who": [7, 7, 8, 7], "at": hours * HOUR_US, "worth": [10, 30, 5, 20]})
    frame.write_delta(tmp_path / "events")
    return str(tmp_path / "events")


def test_each_row_gets_what_came_strictly_before_it(table: str) -> None:
    """Late events count by their own time, an event at the row's time does not, unknown keys have nothing."""
    source = Source(table, "who", "at", {"n": None, "worth": "worth"})
    keys, times = np.array([7, 7, 7, 8, 9, 7], np.uint64), np.array([1, 2, 3, 3, 9, 4]) * HOUR_US

    (found,) = sums_as_of(keys, times, [source])

    assert found["n"].tolist() == [0, 1, 2, 0, 0, 3]
    assert found["worth"].tolist() == [0, 10, 30, 0, 0, 60]


def test_a_window_begins_at_its_tail(table: str) -> None:
    """Both ends are strict reads of one cumulative column, so the tail's own event is inside."""
    source = Source(table, "who", "at", {"n": None, "worth": "worth"}, window_us=2 * HOUR_US)

    (found,) = sums_as_of(np.array([7, 7], np.uint64), np.array([4 * HOUR_US, 4 * HOUR_US + 1]), [source])

    assert (found["n"].tolist(), found["worth"].tolist()) == ([2, 1], [50, 30])


def as_feast(folder: str, sources: int, lost: int) -> None:
    """Counts by brute force, in another order, without the first `lost` rows."""
    entities = pl.read_parquet(f"{folder}/entities.parquet")
    columns: dict[str, Any] = {"row": entities["row"]}
    for place in range(sources):
        events = pl.read_delta(f"{folder}/events_{place}").to_numpy()
        users, times = entities["user_id"].to_numpy(), entities["event_timestamp"].dt.epoch("us").to_numpy()
        seen = (events[:, 0] == users[:, None]) & (events[:, 1] < times[:, None])
        columns[f"n_{place}"] = [n or None for n in seen.sum(axis=1).tolist()]
        columns[f"total_{place}"] = (seen * events[:, 2]).sum(axis=1)
    pl.DataFrame(columns)[lost:].reverse().write_parquet(f"{folder}/feast.parquet")


@pytest.mark.parametrize(("lost", "apart"), [(0, 0.0), (1, float("inf"))])
def test_the_bench_compares_equal_values_of_the_same_rows(
    monkeypatch: pytest.MonkeyPatch, lost: int, apart: float
) -> None:
    """A peer that loses a row is no equal, whatever its other values are."""

    def call(module: str, arguments: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        as_feast(**arguments, lost=lost)
        return {"seconds": 1.0}

    monkeypatch.setattr(feast_env, "call", call)
    result = pit.run(300, keys=40)

    assert (result["rows_lost"], result["feast_rows_lost"], result["max_abs"]) == (0, lost, apart)
    assert result["ratio_feast_duckdb"] == pytest.approx(result["rows_per_s"] / 300)
    assert ["rows_per_s", "ratio_feast_duckdb", "rows_lost", "max_abs"] == [bar.key for bar in result["bars"]]
