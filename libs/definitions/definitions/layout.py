"""What a use case's features need stored, and how each model column is read from it: one plan for all readers.

Rows, item partials, assembly and backfill follow this plan; `layout_hash` names it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Generic, TypeVar

import xxhash

from definitions import features as kinds
from definitions.durations import ALL, duration_us, hop_us
from definitions.events import UNITS_PER_VALUE
from definitions.plan import (
    FORMAT_VERSION,
    CodeInts,
    CodeSlots,
    ContextInt,
    Decay,
    DecayedColumn,
    GraphScores,
    History,
    HistoryInts,
    Measure,
    NumberColumn,
    RecencyColumn,
    Residual,
    SeenColumn,
    Selector,
    Side,
    Table,
    TableColumn,
    TileClass,
    WindowColumn,
    WindowSum,
)
from definitions.usecase import UseCase
from definitions.usecase_parts import AttributeSpec


@dataclass(frozen=True, eq=False)
class Layout:
    """The plan of a use case under one revision.

    `feature_names`: the float32 columns of the model in order, with their `feature_groups`. `user_int_names`: int64
    columns of a request (last-k ids and values, user codes, context codes). `item_int_names`: int64 columns of each
    candidate (item codes; at `item_id_int` its id, where a graph scores it against a history). `layout_hash`: low 32
    bits of xxh3_64 over what changes bytes or values.
    """

    usecase: UseCase
    revision: int
    layout_hash: int
    feature_names: tuple[str, ...]
    feature_groups: tuple[str, ...]
    user_int_names: tuple[str, ...]
    user_int_groups: tuple[str, ...]
    item_int_names: tuple[str, ...]
    item_int_groups: tuple[str, ...]
    user: Side
    item: Side
    table_columns: tuple[TableColumn, ...]
    seen_columns: tuple[SeenColumn, ...]
    residuals: tuple[Residual, ...]
    graph_scores: tuple[GraphScores, ...]
    history_ints: tuple[HistoryInts, ...]
    user_code_ints: tuple[CodeInts, ...]
    context_ints: tuple[ContextInt, ...]
    item_code_ints: tuple[CodeInts, ...]
    item_id_int: int | None
    seen_actions: frozenset[int]
    popularity: tuple[tuple[int, float], ...] = field(repr=False)
    """(item measure, label weight): an item's popularity is the weighted sum of these totals."""


T = TypeVar("T")


class _Unique(Generic[T]):
    """Things by first use, each once: features share what they store."""

    def __init__(self) -> None:
        self._index: dict[T, int] = {}

    def add(self, thing: T) -> int:
        return self._index.setdefault(thing, len(self._index))

    def all(self) -> tuple[T, ...]:
        return tuple(self._index)


class _SidePlan:
    """Collects one side while the features are read."""

    def __init__(self, usecase: UseCase, attributes: Mapping[str, AttributeSpec]) -> None:
        self.usecase = usecase
        self.measures = _Unique[Measure]()
        self.windows: list[tuple[int, int | None]] = []  # of each sum: measure, window
        self.sums = _Unique[tuple[int, int | None]]()
        self.decays = _Unique[Decay]()
        self.recencies = _Unique[Selector]()
        self.histories: list[History] = []
        self.tables: list[Table] = []
        self.window_columns: list[WindowColumn] = []
        self.decayed_columns: list[DecayedColumn] = []
        self.recency_columns: list[RecencyColumn] = []
        self.number_columns: list[NumberColumn] = []
        self.numbers = tuple(name for name, spec in attributes.items() if spec.kind == "number")
        self.codes: dict[str, CodeSlots] = {}
        start = 0
        for name, spec in attributes.items():
            if spec.kind in ("category", "categories"):
                width = spec.width if spec.kind == "categories" else 1
                self.codes[name] = CodeSlots(start, width)
                start += width

    def selector(self, actions: Mapping[str, kinds.Condition]) -> Selector:
        names = actions or dict.fromkeys(self.usecase.action_names, kinds.Condition())
        return tuple(
            sorted((self.usecase.action_code(name), condition.bound_micros) for name, condition in names.items())
        )

    def sum(self, actions: Mapping[str, kinds.Condition], window: str, *, is_sum: bool) -> int:
        measure = self.measures.add(Measure(self.selector(actions), is_sum=is_sum))
        return self.sums.add((measure, None if window == ALL else duration_us(window)))

    def decay(self, actions: Mapping[str, kinds.Condition], half_life_us: int, *, is_sum: bool) -> int:
        return self.decays.add(Decay(self.selector(actions), is_sum, half_life_us))

    def finish(self) -> Side:
        wanted: dict[int, tuple[int, set[int]]] = {}  # hop -> longest window, measures
        for measure, window_us in self.sums.all():
            if window_us is not None:
                keep_us, measures = wanted.get(hop_us(window_us), (0, set()))
                wanted[hop_us(window_us)] = (max(keep_us, window_us), measures | {measure})
        classes = tuple(TileClass(hop, keep, tuple(sorted(m))) for hop, (keep, m) in sorted(wanted.items()))
        columns = {
            (measure, tiles.hop_us): index
            for index, (measure, tiles) in enumerate((m, c) for c in classes for m in c.measures)
        }
        sums = tuple(
            WindowSum(measure, None, -1, 0)
            if window_us is None
            else WindowSum(measure, window_us, columns[measure, hop_us(window_us)], hop_us(window_us))
            for measure, window_us in self.sums.all()
        )
        return Side(
            measures=self.measures.all(),
            classes=classes,
            decays=self.decays.all(),
            recencies=self.recencies.all(),
            histories=tuple(self.histories),
            tables=tuple(self.tables),
            numbers=self.numbers,
            codes=self.codes,
            sums=sums,
            window_columns=tuple(self.window_columns),
            decayed_columns=tuple(self.decayed_columns),
            recency_columns=tuple(self.recency_columns),
            number_columns=tuple(self.number_columns),
        )


class _Planner:
    """Reads the features in order; each gets its columns."""

    def __init__(self, usecase: UseCase) -> None:
        self.usecase = usecase
        self.sides = {
            "user": _SidePlan(usecase, usecase.attributes.user),
            "item": _SidePlan(usecase, usecase.attributes.item),
        }
        self.names: list[tuple[str, str]] = []  # name and group of each float column
        self.user_ints: list[tuple[str, str]] = []
        self.item_ints: list[tuple[str, str]] = []
        self.histories: dict[str, int] = {}
        self.tables: dict[str, tuple[int, int | None]] = {}
        self.table_columns: list[TableColumn] = []
        self.seen_columns: list[SeenColumn] = []
        self.residual_columns: list[tuple[kinds.RecentResidual, tuple[tuple[int, int], ...], int | None]] = []
        self.graph_scores: list[GraphScores] = []
        self.item_id_int: int | None = None
        self.history_ints: list[HistoryInts] = []
        self.user_code_ints: list[CodeInts] = []
        self.item_code_ints: list[CodeInts] = []
        self.context_ints: list[ContextInt] = []
        for feature in usecase.features:  # first, so that a cross feature may stand before its table
            self._store(feature)
        for feature in usecase.features:
            self._columns(feature)

    def _column(self, name: str, feature: kinds.Feature) -> int:
        self.names.append((name, feature.group))
        return len(self.names) - 1

    def _store(self, feature: kinds.Feature) -> None:
        user = self.sides["user"]
        if isinstance(feature, kinds.LastK):
            self.histories[feature.name] = len(user.histories)
            user.histories.append(History(user.selector(feature.action), feature.k))
        elif isinstance(feature, kinds.Affinity):
            self.tables[feature.name] = (len(user.tables), feature.ttl_us)
            selector, positive = user.selector(feature.action), user.selector(feature.positive)
            user.tables.append(Table(selector, positive, feature.half_life_us, feature.k))

    def _columns(self, feature: kinds.Feature) -> None:
        match feature:
            case kinds.Count() | kinds.Sum() | kinds.Mean() | kinds.Rate():
                self._windowed(feature)
            case kinds.DecayedCount() | kinds.DecayedMean() | kinds.DecayedRate():
                self._decayed(feature)
            case kinds.Recency():
                side = self.sides[feature.of]
                recency = side.recencies.add(side.selector(feature.action))
                position = self._column(feature.name, feature)
                side.recency_columns.append(RecencyColumn(position, recency, feature.cap_us, feature.ttl_us))
            case kinds.LastK():
                start = len(self.user_ints)
                for part in ("ids", "values"):
                    self.user_ints += [(f"{feature.name}_{part}_{i}", feature.group) for i in range(feature.k)]
                self.history_ints.append(HistoryInts(start, self.histories[feature.name], feature.k))
            case kinds.AffinityShare() | kinds.AffinityRate():
                table, ttl_us = self.tables[feature.table]
                prior = feature.prior if isinstance(feature, kinds.AffinityRate) else None
                self.table_columns.append(TableColumn(self._column(feature.name, feature), table, prior, ttl_us))
            case kinds.CandidateSeen():
                position = self._column(feature.name, feature)
                self.seen_columns.append(SeenColumn(position, self.histories[feature.history]))
            case kinds.RecentResidual():
                newest = tuple((n, self._column(f"{feature.name}_{n}", feature)) for n in feature.last)
                of_category = None
                if self.usecase.category is not None:
                    of_category = self._column(f"{feature.name}_category", feature)
                    self._column(f"{feature.name}_category_n", feature)
                self.residual_columns.append((feature, newest, of_category))
            case kinds.HistoryScore():
                self.graph_scores.append(GraphScores(feature.name, self.histories[feature.history], feature.scores))
                if self.item_id_int is None:
                    self.item_id_int = len(self.item_ints)
                    self.item_ints.append((kinds.ITEM_ID, feature.group))
            case kinds.Attribute():
                self._attribute(feature)
            case kinds.ContextCode():
                self.context_ints.append(ContextInt(len(self.user_ints), feature.source))
                self.user_ints.append((feature.name, feature.group))
            case kinds.Affinity():
                pass  # a table for cross features

    def _windowed(self, feature: kinds.Count | kinds.Sum | kinds.Mean | kinds.Rate) -> None:
        side = self.sides[feature.of]
        for window in feature.windows:
            den: int | None = None
            prior, scale = kinds.Prior(), 1.0
            match feature:
                case kinds.Count():
                    num = side.sum(feature.action, window, is_sum=False)
                case kinds.Sum():
                    num, scale = side.sum(feature.action, window, is_sum=True), float(UNITS_PER_VALUE)
                case kinds.Mean():
                    num, scale = side.sum(feature.action, window, is_sum=True), float(UNITS_PER_VALUE)
                    den, prior = side.sum(feature.action, window, is_sum=False), feature.prior
                case kinds.Rate():
                    num = side.sum(feature.num, window, is_sum=False)
                    den, prior = side.sum(feature.den, window, is_sum=False), feature.prior
            position = self._column(f"{feature.name}_{window}", feature)
            side.window_columns.append(WindowColumn(position, num, den, scale, prior, feature.ttl_us))

    def _decayed(self, feature: kinds.DecayedCount | kinds.DecayedMean | kinds.DecayedRate) -> None:
        side = self.sides[feature.of]
        den: int | None = None
        prior, scale = kinds.Prior(), 1.0
        match feature:
            case kinds.DecayedCount():
                num = side.decay(feature.action, feature.half_life_us, is_sum=False)
            case kinds.DecayedMean():
                num, scale = side.decay(feature.action, feature.half_life_us, is_sum=True), float(UNITS_PER_VALUE)
                den, prior = side.decay(feature.action, feature.half_life_us, is_sum=False), feature.prior
            case kinds.DecayedRate():
                num = side.decay(feature.num, feature.half_life_us, is_sum=False)
                den, prior = side.decay(feature.den, feature.half_life_us, is_sum=False), feature.prior
        position = self._column(feature.name, feature)
        side.decayed_columns.append(DecayedColumn(position, num, den, scale, prior, feature.ttl_us))

    def _attribute(self, feature: kinds.Attribute) -> None:
        side = self.sides[feature.of]
        if feature.source in side.numbers:
            number = side.numbers.index(feature.source)
            side.number_columns.append(NumberColumn(self._column(feature.name, feature), number, feature.default))
            return
        codes = side.codes[feature.source]
        names, ints = (
            (self.user_ints, self.user_code_ints) if feature.of == "user" else (self.item_ints, self.item_code_ints)
        )
        ints.append(CodeInts(len(names), codes))
        if codes.width == 1:
            names.append((feature.name, feature.group))
        else:
            names += [(f"{feature.name}_{i}", feature.group) for i in range(codes.width)]

    def residuals(self) -> tuple[Residual, ...]:
        """Once all columns are known: the means may stand after what reads them."""
        means = {column.position: index for index, column in enumerate(self.sides["item"].window_columns)}
        found = []
        for feature, newest, of_category in self.residual_columns:
            mean = next(other for other in self.usecase.features if other.name == feature.item_mean)
            assert isinstance(mean, kinds.Mean)  # noqa: S101  the use case was checked
            longest = max(mean.windows, key=lambda window: inf if window == ALL else duration_us(window))
            position = [name for name, _ in self.names].index(f"{mean.name}_{longest}")
            found.append(Residual(self.histories[feature.history], means[position], newest, of_category))
        return tuple(found)

    def popularity(self) -> tuple[tuple[int, float], ...]:
        """Item totals, one for each action with a label weight."""
        items = self.sides["item"]
        return tuple(
            (
                items.measures.add(Measure(((code, _bound(action.label.if_value_at_least)),), is_sum=False)),
                action.label.weight,
            )
            for code, action in enumerate(self.usecase.actions)
            if action.label.weight
        )


def _bound(value: float | None) -> int | None:
    return kinds.Condition(if_value_at_least=value).bound_micros


def _hash(usecase: UseCase) -> int:
    parts = usecase.model_dump(
        mode="json",
        include={"actions", "attributes", "category", "seen", "features"},
        exclude={"features": {"__all__": set(kinds.READ_BY_MODELS)}},
    )
    content = json.dumps({"format": FORMAT_VERSION, **parts}, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_intdigest(content.encode()) & 0xFFFFFFFF


def layout_of(usecase: UseCase, revision: int = 1) -> Layout:
    """The plan of a use case; `revision` names its rows (`u:<usecase>.<revision>:`) and is no part of the hash."""
    plan = _Planner(usecase)
    popularity = plan.popularity()
    return Layout(
        usecase=usecase,
        revision=revision,
        layout_hash=_hash(usecase),
        feature_names=tuple(name for name, _ in plan.names),
        feature_groups=tuple(group for _, group in plan.names),
        user_int_names=tuple(name for name, _ in plan.user_ints),
        user_int_groups=tuple(group for _, group in plan.user_ints),
        item_int_names=tuple(name for name, _ in plan.item_ints),
        item_int_groups=tuple(group for _, group in plan.item_ints),
        user=plan.sides["user"].finish(),
        item=plan.sides["item"].finish(),
        table_columns=tuple(plan.table_columns),
        seen_columns=tuple(plan.seen_columns),
        residuals=plan.residuals(),
        graph_scores=tuple(plan.graph_scores),
        history_ints=tuple(plan.history_ints),
        user_code_ints=tuple(plan.user_code_ints),
        context_ints=tuple(plan.context_ints),
        item_code_ints=tuple(plan.item_code_ints),
        item_id_int=plan.item_id_int,
        seen_actions=frozenset(usecase.action_code(name) for name in usecase.seen.actions),
        popularity=popularity,
    )
