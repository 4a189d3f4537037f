"""From a model's inputs to one float matrix: the columns looked at, item-item scores, categories, what is missing.

How a category and a missing value are told is the use case's choice (`encode`, `missing` of the feature); without one
categories are one-hot and absent numbers are their declared default.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from definitions.features import Attribute
from definitions.layout import Layout
from definitions.usecase_parts import Encoding

from pipelines.errors import TrainingError
from pipelines.training.history import History
from pipelines.training.inputs import CodeColumn, Inputs, Ints
from pipelines.training.ranker import Rows, TrainData

MAX_COLUMNS = 64  # of one category, its most frequent codes
MIN_ROWS = 50  # a rarer code says nothing that lasts
BUCKETS = 61  # of a hashed category; a prime, since the code modulo it is the hash

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class OneHot:
    """The codes that get a 0/1 column of their own; 0 among them is what is unknown or absent."""

    name: str
    places: Ints
    codes: Ints

    @property
    def names(self) -> tuple[str, ...]:
        """`name=code`."""
        return tuple(f"{self.name}={code}" for code in self.codes)

    def columns(self, ints: Ints) -> Matrix:
        """Other codes are all zeros. A category with many values is absent if its first place is 0."""
        found = ints[:, self.places][:, :, None] == self.codes
        found[:, 1:, self.codes == 0] = False
        return np.asarray(found.any(axis=1), np.float32)


@dataclass(frozen=True, eq=False)
class Hashed:
    """0/1 columns of `buckets`: the code modulo their number; the unknown code 0 has bucket 0 for its own."""

    name: str
    places: Ints
    buckets: int

    @property
    def names(self) -> tuple[str, ...]:
        """`name#bucket`."""
        return tuple(f"{self.name}#{bucket}" for bucket in range(self.buckets))

    def columns(self, ints: Ints) -> Matrix:
        """Several codes may share a bucket."""
        found = self.bucket(ints)[:, :, None] == np.arange(self.buckets)
        found[:, 1:, 0] = False
        return np.asarray(found.any(axis=1), np.float32)

    def bucket(self, ints: Ints) -> Ints:
        """int64 (n, places)."""
        codes = ints[:, self.places]
        return np.where(codes == 0, 0, 1 + codes % (self.buckets - 1))


@dataclass(frozen=True, eq=False)
class Native:
    """The codes themselves, one column a place: for trees that split sets of codes."""

    name: str
    places: Ints

    @property
    def names(self) -> tuple[str, ...]:
        """One for each place."""
        return tuple(f"{self.name}@{place}" for place in range(len(self.places)))

    def columns(self, ints: Ints) -> Matrix:
        """Whole numbers below 2^24, exact in float32."""
        return ints[:, self.places].astype(np.float32)


Group = OneHot | Hashed | Native


@dataclass(frozen=True)
class Filling:
    """A number column that may be missing: NaN, or its declared `default`.

    `place`: among the columns looked at. `policy`: as of the use case; `median`: of the fit rows that have a value.
    """

    place: int
    name: str
    default: float
    policy: str
    median: float


@dataclass(frozen=True, eq=False)
class Encoder:
    """float32 (n, F) features and int64 (n, K) codes -> float32 (n, M): `numbers` leading columns, then 0/1 columns of
    what is missing, then those of `groups`.
    """

    inputs: Inputs
    groups: tuple[Group, ...] = ()
    history: History | None = None
    fillings: tuple[Filling, ...] = ()

    @property
    def numbers(self) -> int:
        """Leading columns that are numbers."""
        return len(self.inputs.floats) + (len(self.history.names) if self.history else 0)

    @property
    def indicated(self) -> tuple[Filling, ...]:
        """Fillings whose absence is a column."""
        return tuple(filling for filling in self.fillings if filling.policy in ("indicator", "own_code"))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the M columns."""
        missing = tuple(f"{filling.name}?" for filling in self.indicated)
        codes = tuple(name for group in self.groups for name in group.names)
        return self.inputs.float_names + (self.history.names if self.history else ()) + missing + codes

    @property
    def native(self) -> tuple[int, ...]:
        """Places of columns that hold codes."""
        names = {name for group in self.groups if isinstance(group, Native) for name in group.names}
        return tuple(place for place, name in enumerate(self.names) if name in names)

    def expand(self, features: Matrix, ints: Ints) -> Matrix:
        """What the graph computes."""
        return self._stack(features, ints, self.history.score(ints) if self.history else None)

    def rows(self, rows: Rows) -> Matrix:
        """Of training rows: item-item scores are those of each row's past."""
        return self._stack(rows.features, rows.ints, rows.history if self.history else None)

    def _stack(self, features: Matrix, ints: Ints, scores: Matrix | None) -> Matrix:
        numbers = features[:, self.inputs.floats]
        parts = [numbers]
        if scores is not None:
            parts.append(scores)
        absent = {each.place: is_missing(numbers[:, each.place], each.default) for each in self.fillings}
        parts += [absent[each.place][:, None].astype(np.float32) for each in self.indicated]
        for filling in self.fillings:
            numbers[absent[filling.place], filling.place] = filled(filling)
        parts += [group.columns(ints) for group in self.groups]
        return np.hstack(parts)


def is_missing(values: Matrix, default: float) -> npt.NDArray[np.bool_]:
    """(n,): NaN, or the declared default."""
    return np.asarray(np.isnan(values) | (values == np.float32(default)))


def filled(filling: Filling) -> np.float32:
    """What stands for a missing number."""
    by_policy = {"native_nan": np.nan, "train_median": filling.median}
    return np.float32(by_policy.get(filling.policy, filling.default))


def fit_encoder(data: TrainData, *, native: bool = False) -> Encoder:
    """As the use case says; codes, medians and buckets are of the fit rows. Item-item scores where the data have them.

    Args:
        data: rows and inputs.
        native: whether the model splits sets of codes; others read a `native` category as one-hot.

    Raises:
        TrainingError: a number that the use case says how to fill has no value in any row.
    """
    encodings = data.layout.usecase.encodings
    groups = [
        group
        for column in data.inputs.codes
        if (group := _group(column, encodings.get(column.name), data.fit.ints, native)) is not None
    ]
    return Encoder(data.inputs, tuple(groups), data.history, _fillings(data))


def without_nan(encoder: Encoder) -> Encoder:
    """The same for a model that cannot read NaN: medians stand for it."""
    safe = [replace(each, policy="train_median") if each.policy == "native_nan" else each for each in encoder.fillings]
    return replace(encoder, fillings=tuple(safe))


def _group(column: CodeColumn, said: Encoding | None, ints: Ints, native: bool) -> Group | None:
    encode = "one_hot" if said is None or said.encode is None else said.encode
    if encode == "hashing":
        return Hashed(column.name, column.places, BUCKETS + 1)
    if encode == "native" and native:
        return Native(column.name, column.places)
    codes, counts = np.unique(ints[:, column.places], return_counts=True)
    enough = (codes != 0) & (counts >= MIN_ROWS)
    codes, counts = codes[enough], counts[enough]
    kept = np.sort(codes[np.argsort(-counts, kind="stable")[:MAX_COLUMNS]]).astype(np.int64)
    if said is not None and said.missing == "own_code":
        kept = np.r_[0, kept]
    return OneHot(column.name, column.places, kept) if len(kept) else None


def _fillings(data: TrainData) -> tuple[Filling, ...]:
    """Of the number attributes whose `missing` is declared."""
    names = data.inputs.float_names
    found = []
    for feature in _numbers(data.layout):
        if feature.missing is None or feature.name not in names:
            continue
        place = names.index(feature.name)
        values = data.fit.features[:, data.inputs.floats[place]]
        there = values[~is_missing(values, feature.default)]
        if len(there) == 0:
            raise TrainingError(f"feature {feature.name}: every value is missing; remove it or its `missing` policy")
        median = float(np.median(there))
        found.append(Filling(place, feature.name, feature.default, feature.missing, median))
    return tuple(found)


def _numbers(layout: Layout) -> Sequence[Attribute]:
    numbers = {name for name, said in layout.usecase.encodings.items() if said.kind == "number"}
    return [each for each in layout.usecase.features if isinstance(each, Attribute) and each.name in numbers]
