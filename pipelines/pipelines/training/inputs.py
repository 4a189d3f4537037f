"""What the models of one training take, and how the gateway makes it: places, vocabularies, histories."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bundle import IntInputs
from definitions.events import UNITS_PER_VALUE
from definitions.features import ITEM_ID, Attribute, ContextCode
from definitions.layout import Layout

BASE, RELATIVE, HISTORY = "base", "relative", "history"
ALL_GROUPS = (BASE, RELATIVE, HISTORY)
MAX_CODES = 100_000  # of one column, the most frequent; also the rows of an embedding table
MAX_HISTORY_ITEMS = 4000  # three matrices of 16-bit weights are 96 MB; a bundle's graph ends at 512 MiB
MIN_ROWS = 5  # a rarer code is unknown: nothing can be learnt about it

Ids = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CodeColumn:
    """A category: the `places` among the int inputs that hold its codes (several where it has many values), and `size`,
    the codes 0 to size - 1 that occur there; 0 = unknown or absent.
    """

    name: str
    places: Ints
    size: int


@dataclass(frozen=True, eq=False)
class HistoryColumns:
    """A user's newest events: `ids` and `values`, the places (k,) of item codes and of values in 1e-6, newest first.

    A code of 0 is padding or an unknown item; `size` as of a CodeColumn, the same codes as the candidate's. `feature`:
    the `history_score` that asks for them, `scores`: which.
    """

    name: str
    ids: Ints
    values: Ints
    size: int
    feature: str
    scores: tuple[str, ...]

    def read(self, ints: Ints) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Item codes int64 (n, k), and values float64 (n, k) in the data's own unit."""
        return ints[:, self.ids], ints[:, self.values] / UNITS_PER_VALUE


@dataclass(frozen=True, eq=False)
class Inputs:
    """Columns of the graphs' inputs `features` float32 (n, F) and `int_features` int64 (n, K), and who reads which.

    `feature_names`: all F of the layout; `floats`: places of those that these models look at (their group is wanted).
    `int_names`: the K; `vocabularies`: name of a `vocab/<name>.npy` -> its sorted values, place + 1 is the code.
    `codes`: the categories. `history`, `item`: the user's newest items and the place of the candidate's own code, where
    the layout has them.
    """

    feature_names: tuple[str, ...]
    floats: Ints
    int_names: tuple[str, ...]
    vocabularies: Mapping[str, Ids]
    codes: tuple[CodeColumn, ...]
    history: HistoryColumns | None
    item: CodeColumn | None

    @classmethod
    def of_names(cls, feature_names: tuple[str, ...], int_names: tuple[str, ...] = ()) -> "Inputs":
        """All float columns are looked at; int columns have no vocabulary, and are read by place."""
        return cls(feature_names, np.arange(len(feature_names)), int_names, {}, (), None, None)

    @property
    def float_names(self) -> tuple[str, ...]:
        """Names of the columns at `floats`."""
        return tuple(self.feature_names[place] for place in self.floats)

    def ints_of(self, layout: Layout, user_ints: Ints, item_ints: Ints) -> Ints:
        """int64 (n, K) from the layout's int columns (n, Ku) and (n, Ki): what `bundle.IntInputs` gives in serving."""
        read = IntInputs(self.int_names, layout.user_int_names, layout.item_int_names, self.vocabularies)
        found = read(user_ints, item_ints)
        return np.empty((len(item_ints), 0), np.int64) if found is None else found


def fit_inputs(layout: Layout, user_ints: Ints, item_ints: Ints, *, groups: Collection[str] = ALL_GROUPS) -> Inputs:
    """The inputs of models that may look at `groups`; vocabularies are the codes of the given rows.

    Args:
        layout: of the columns.
        user_ints, item_ints: int64 (n, Ku), (n, Ki) of the fit rows, which are the past of all others.
        groups: of the feature columns that are looked at; without `history` the user's newest items are no input.
    """
    return _Collector(layout, user_ints, item_ints, frozenset(groups)).inputs()


class _Collector:
    """Goes through the features in order and gives each its int columns."""

    def __init__(self, layout: Layout, user_ints: Ints, item_ints: Ints, groups: frozenset[str]) -> None:
        self.layout = layout
        self.groups = groups
        self.values = dict(zip(layout.user_int_names, user_ints.T, strict=True))
        self.values |= dict(zip(layout.item_int_names, item_ints.T, strict=True))
        self.int_names: list[str] = []
        self.vocabularies: dict[str, Ids] = {}

    def inputs(self) -> Inputs:
        """All of it."""
        layout, codes = self.layout, []
        for feature in layout.usecase.features:
            if isinstance(feature, Attribute | ContextCode) and feature.group in self.groups:
                columns = [name for name in self.values if name == feature.name or _is_slot(name, feature.name)]
                vocabulary = _vocabulary(np.concatenate([self.values[name] for name in columns])) if columns else None
                if vocabulary is not None and len(vocabulary):
                    codes.append(self._codes(feature.name, columns, vocabulary))
        item, history = self._item_and_history()
        wanted = np.array([group in self.groups for group in layout.feature_groups], bool)
        return Inputs(
            feature_names=layout.feature_names,
            floats=np.flatnonzero(wanted).astype(np.int64),
            int_names=tuple(self.int_names),
            vocabularies=self.vocabularies,
            codes=tuple(codes),
            history=history,
            item=item,
        )

    def _codes(self, name: str, columns: list[str], vocabulary: Ids) -> CodeColumn:
        self.vocabularies[name] = vocabulary
        return CodeColumn(name, self._places(columns), len(vocabulary) + 1)

    def _item_and_history(self) -> tuple[CodeColumn | None, HistoryColumns | None]:
        """Candidate and history share one vocabulary: the candidates of the fit rows."""
        if self.layout.item_id_int is None:
            return None, None
        compares = HISTORY in self.groups and bool(self.layout.graph_scores)
        vocabulary = _vocabulary(self.values[ITEM_ID], MAX_HISTORY_ITEMS if compares else MAX_CODES)
        item = self._codes(ITEM_ID, [ITEM_ID], vocabulary)
        if not compares:
            return item, None
        asked = self.layout.graph_scores[0]
        spec = next(h for h in self.layout.history_ints if h.history == asked.history)
        names = self.layout.user_int_names[spec.start : spec.start + 2 * spec.k]
        name = names[0].removesuffix("_0")
        self.vocabularies[name] = vocabulary
        ids, values = self._places(names[: spec.k]), self._places(names[spec.k :])
        return item, HistoryColumns(name.removesuffix("_ids"), ids, values, item.size, asked.name, asked.scores)

    def _places(self, columns: Collection[str]) -> Ints:
        first = len(self.int_names)
        self.int_names += columns
        return np.arange(first, len(self.int_names), dtype=np.int64)


def _vocabulary(values: Ints, most: int = MAX_CODES) -> Ids:
    codes, counts = np.unique(np.ascontiguousarray(values).view(np.uint64), return_counts=True)
    known = (codes != 0) & (counts >= MIN_ROWS)
    codes, counts = codes[known], counts[known]
    return np.sort(codes[np.argsort(-counts.astype(np.int64), kind="stable")[:most]])


def _is_slot(column: str, feature: str) -> bool:
    return column.startswith(f"{feature}_") and column.removeprefix(f"{feature}_").isdecimal()
