"""Measurements beside what one would take instead. One module each, with `run(..., progress) -> dict`; nothing prints.

A result has the keys that `docs/reference.md` promises, at the top, and three more that `millrace bench` prints:

- `what`: one sentence, what was run, with its sizes and conditions;
- `table`: rows with the same columns, side by side, ours and the others: `[{"who": ..., "<figure>": ...}]`;
- `bars`: what is promised of the keys, made by `at_least` and `at_most`; one missed is exit code 1.

A `run` that cannot measure raises the error of `pipelines.errors` that says why: never a made-up figure.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise about one key: `held` says whether `measured` is on the right side of `limit`."""

    key: str
    limit: float
    measured: float
    held: bool


def at_least(result: Mapping[str, Any], key: str, limit: float) -> Bar:
    """The figure must reach `limit`. KeyError if there is none."""
    return Bar(key, limit, float(result[key]), float(result[key]) >= limit)


def at_most(result: Mapping[str, Any], key: str, limit: float) -> Bar:
    """The figure must not exceed `limit`. KeyError if there is none."""
    return Bar(key, limit, float(result[key]), float(result[key]) <= limit)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected inside: a pass over all that a bench has read and trained takes .3 s and more, and
    would be measured as the time of whoever it waits for.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
