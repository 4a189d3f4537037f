"""A small world in arrays, for the tests and for what they start by torchrun."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pipelines.deep.inputs import Columns, Field, History
from pipelines.deep.models import Shape
from pipelines.deep.rankers import Plan
from pipelines.deep.trainer import Arrays, Recipe

ITEMS, GENRES, K = 40, 8, 6
PLAN = Plan(Shape(width=4, hidden=(16,), layers=1), Recipe(batch=505, epochs=6, patience=6, rate=0.01))
"""60 steps; the last batch of an epoch is of 455 rows, an odd number."""


@dataclass(frozen=True)
class World:
    """Columns, rows to fit, later rows."""

    columns: Columns
    fit: Arrays
    valid: Arrays


def small_world() -> World:
    """Items have a quality, a number says how picky the user is, genres shift it; the history repeats what was liked.

    Int columns: item, three genre slots, K history ids, K history values.
    """
    random = np.random.default_rng(5)
    n = 6_000
    quality = random.normal(size=ITEMS + 1)
    taste = random.normal(size=GENRES + 1) * 0.4
    numbers = random.normal(size=(n, 4)).astype(np.float32)
    numbers[:, 1] = np.exp(2 * numbers[:, 1])  # long-tailed
    item = random.integers(1, ITEMS + 1, n)
    genres = random.integers(0, GENRES + 1, (n, 3))
    genres[:, 0] = np.maximum(genres[:, 0], 1)
    ids = random.integers(0, ITEMS + 1, (n, K))
    values = np.where(ids > 0, random.integers(1, 6, (n, K)) * 1_000_000, 0)
    logit = 2.5 * quality[item] * np.tanh(numbers[:, 0]) + taste[genres].sum(1) + 0.5 * numbers[:, 2]
    label = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    ints = np.hstack([item[:, None], genres, ids, values]).astype(np.int64)
    fields = (Field("item", (0,), ITEMS + 1, "item"), Field("genre", (1, 2, 3), GENRES + 1, "genre"))
    history = History(Field("recent", tuple(range(4, 4 + K)), ITEMS + 1, "item"), tuple(range(4 + K, 4 + 2 * K)))
    columns = Columns(4, ints.shape[1], (0, 1, 2, 3), fields, history, "item")
    return World(columns, _part(numbers, ints, label, slice(0, 5_000)), _part(numbers, ints, label, slice(5_000, n)))


def _part(
    numbers: npt.NDArray[np.float32],
    ints: npt.NDArray[np.int64],
    label: npt.NDArray[np.float32],
    rows: slice,
) -> Arrays:
    return Arrays(numbers[rows], ints[rows], label[rows, None], np.ones(len(label[rows]), np.float32))
