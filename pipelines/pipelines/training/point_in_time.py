"""Counts and sums of Delta tables as of many keys and times: one row out for each row in, strictly before its time."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.timeline import Column, Ids, Ints, Timeline

Sums = Mapping[str, Ints]


@dataclass(frozen=True)
class Source:
    """A Delta table of events. `sums`: name of a value -> the int64 column that it adds up, None to count rows;
    `window_us`: how far back from the asked time, None: since ever.
    """

    uri: str | Path
    key: str
    time_us: str
    sums: Mapping[str, str | None]
    window_us: int | None = None


def sums_as_of(keys: Ids, times_us: Ints, sources: Sequence[Source]) -> list[Sums]:
    """For each source its values, int64 (n,), of the events of `keys` uint64 (n,) before `times_us` int64 (n,).

    A key without events, known or not, gives 0. Sources are read and joined side by side.
    """
    with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda source: _of_source(keys, times_us, source), sources))


def _of_source(keys: Ids, times_us: Ints, source: Source) -> Sums:
    columns = sorted({column for column in source.sums.values() if column is not None})
    events = pl.scan_delta(str(source.uri)).select(source.key, source.time_us, *columns).collect()
    timeline = Timeline(events[source.key].to_numpy().astype(np.uint64, copy=False), _ints(events, source.time_us))
    reads = timeline.of(keys)
    end = reads.before(times_us)
    first = reads.starts if source.window_us is None else reads.before(times_us - source.window_us)
    found = {}
    for name, column in source.sums.items():
        if column is None:
            found[name] = end - first
        else:
            found[name] = Column(_ints(events, column)[timeline.order]).between(first, end)
    return found


def _ints(events: pl.DataFrame, column: str) -> npt.NDArray[np.int64]:
    return events[column].to_numpy().astype(np.int64, copy=False)
