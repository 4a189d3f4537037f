"""The point-in-time join: our cumulative counts against Feast with its DuckDB store, on the same rows in one run."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from pipelines.bench import at_least, at_most, feast_env
from pipelines.progress import SILENT, Progress
from pipelines.training.point_in_time import Source, Sums, sums_as_of

ROWS_PER_S: Final = 1_000_000.0
RATIO: Final = 10.0

_SPAN_US: Final = 30 * 86_400_000_000
_START_US: Final = 1_700_000_000_000_000
_LATE: Final = 0.05  # of the events reach the log after younger ones
_TIED: Final = 0.01  # of the rows ask at the very time of an event of their key
_RUNS: Final = 3
_FEAST_S: Final = 900.0


def run(
    rows: int = 1_000_000, *, sources: int = 3, keys: int = 100_000, seed: int = 0, progress: Progress = SILENT
) -> dict[str, Any]:
    """Count and sum of every source before each row's time; the rows are the same for all.

    Feast cannot add up: its sources hold, made beforehand and not timed, the totals at each event, stamped 1 us later
    because its join takes `<=`. Ours reads plain events.

    Args:
        rows: entity rows, and events of each source.
        sources: Delta tables for us and polars, Parquet files for Feast.
        keys: distinct keys, each as likely.
        seed: of the data.
        progress: is told each stage.

    Raises:
        UnavailableError: Feast's environment cannot be installed, or Feast failed.
    """
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="millrace-pit-") as folder:
        root = Path(folder)
        progress.stage("make the data")
        events = [_events(random, rows, keys) for _ in range(sources)]
        entities = _entities(random, rows, keys, events)
        for place, frame in enumerate(events):
            frame.write_delta(root / f"events_{place}")
            _totals(frame).write_parquet(root / f"totals_{place}.parquet")
        entities.with_columns(_stamp("time_us").alias("event_timestamp")).drop("time_us").write_parquet(
            root / "entities.parquet"
        )
        progress.stage("ours")
        ours, ours_s = _best(lambda: _ours(root, sources, entities))
        progress.stage("polars")
        plain, plain_s = _best(lambda: _polars(root, sources, entities))
        progress.stage("Feast with DuckDB")
        arguments = {"folder": str(root), "sources": sources}
        feast_s = float(feast_env.call("pipelines.bench.pit_feast", arguments, timeout_s=_FEAST_S)["seconds"])
        theirs = pl.read_parquet(root / "feast.parquet").sort("row")
    wanted = [theirs[f"{name}_{place}"].fill_null(0).to_numpy() for place in range(sources) for name in ("n", "total")]
    found = [sums[name] for sums in ours for name in ("n", "total")]
    others = [sums[name] for sums in plain for name in ("n", "total")]
    result: dict[str, Any] = {
        "rows_per_s": rows / ours_s,
        "ratio_feast_duckdb": feast_s / ours_s,
        "ratio_polars": plain_s / ours_s,
        "rows_lost": rows - min(len(column) for column in found),
        "feast_rows_lost": rows - theirs.height,
        "max_abs": max(_apart(found, wanted), _apart(found, others)),
        "rows": rows,
    }
    figures = (("Millrace", ours_s), ("polars join_asof", plain_s), ("Feast, DuckDB store", feast_s))
    return result | {
        "what": f"{rows:,} entity rows x {sources} sources of {rows:,} events, {keys:,} keys: count and sum before "
        f"each row's time, files included; best of {_RUNS} runs, Feast's one run of its join alone without import",
        "table": [{"who": who, "rows_per_s": rows / seconds, "seconds": seconds} for who, seconds in figures],
        "bars": [
            at_least(result, "rows_per_s", ROWS_PER_S),
            at_least(result, "ratio_feast_duckdb", RATIO),
            at_most(result, "rows_lost", 0),
            at_most(result, "max_abs", 0),
        ],
    }


def _events(random: np.random.Generator, rows: int, keys: int) -> pl.DataFrame:
    """In log order: ascending in time but for the late ones; no key twice at one time, or Feast would choose one."""
    times = _START_US + np.sort(random.integers(0, _SPAN_US, rows))
    late = random.choice(rows, int(_LATE * rows), replace=False)
    times[late] -= random.integers(1, 3_600_000_000, len(late))
    frame = pl.DataFrame(
        {
            "user_id": random.integers(1, keys + 1, rows),
            "time_us": times,
            "value": random.integers(-5_000_000, 5_000_001, rows),  # millionths
        }
    )
    twice = frame.select(pl.struct("user_id", "time_us").is_duplicated()).to_series().to_numpy()
    times[twice] += np.arange(1, int(twice.sum()) + 1)
    return frame.with_columns(time_us=times)


def _entities(random: np.random.Generator, rows: int, keys: int, events: Sequence[pl.DataFrame]) -> pl.DataFrame:
    users = random.integers(1, keys + 1, rows)
    times = _START_US + random.integers(0, _SPAN_US, rows)
    tied = random.choice(rows, int(_TIED * rows), replace=False)
    theirs = events[0][random.integers(0, rows, len(tied))]
    users[tied], times[tied] = theirs["user_id"].to_numpy(), theirs["time_us"].to_numpy()
    return pl.DataFrame({"row": np.arange(rows), "user_id": users, "time_us": times})


def _stamp(column: str) -> pl.Expr:
    return pl.from_epoch(column, time_unit="us").dt.replace_time_zone("UTC")


def _cumulated(events: pl.DataFrame) -> pl.DataFrame:
    ordered = events.sort("time_us", maintain_order=True)
    return ordered.with_columns(
        n=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("user_id"), total=pl.col("value").cum_sum().over("user_id")
    )


def _totals(events: pl.DataFrame) -> pl.DataFrame:
    """What Feast joins: each key's count and sum, from just after each event on."""
    at = _stamp("time_us") + pl.duration(microseconds=1)
    return _cumulated(events).select("user_id", "n", "total", event_timestamp=at)


def _ours(root: Path, sources: int, entities: pl.DataFrame) -> list[Sums]:
    sums = {"n": None, "total": "value"}
    tables = [Source(root / f"events_{place}", "user_id", "time_us", sums) for place in range(sources)]
    return sums_as_of(entities["user_id"].to_numpy().view(np.uint64), entities["time_us"].to_numpy(), tables)


def _polars(root: Path, sources: int, entities: pl.DataFrame) -> list[Sums]:
    """What one would write by hand: the same two reads of a cumulative column, by a join."""
    asked = entities.sort("time_us")
    found: list[Sums] = []
    for place in range(sources):
        totals = _cumulated(pl.scan_delta(str(root / f"events_{place}")).collect())
        joined = asked.join_asof(
            totals.drop("value"), on="time_us", by="user_id", allow_exact_matches=False, check_sortedness=False
        ).sort("row")
        found.append({name: joined[name].fill_null(0).to_numpy() for name in ("n", "total")})
    return found


def _best(work: Callable[[], list[Sums]]) -> tuple[list[Sums], float]:
    seconds = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - began)
    return found, min(seconds)


def _apart(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Largest difference; infinite where rows are lost, so that an equal value is never claimed of other rows."""
    if any(len(mine) != len(other) for mine, other in zip(ours, theirs, strict=True)):
        return float("inf")
    return max(float(np.abs(mine - other).max(initial=0)) for mine, other in zip(ours, theirs, strict=True))
