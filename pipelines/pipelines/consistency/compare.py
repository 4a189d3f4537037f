"""Cell by cell: equal, or why not. Counts add up over groups."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from definitions.layout import Layout

from pipelines.consistency.gaps import Gap, Gaps
from pipelines.consistency.recompute import Floats, Recomputed

DECAYED: Final = 1e-9
"""Relative tolerance of decayed columns; as float32 they may also round to neighbours."""
_EXAMPLES: Final = 10
_Mask = npt.NDArray[np.bool_]


@dataclass
class Tally:
    """Of one feature (or family of integer columns), in cells.

    `mismatch`: further behind than the tolerance, or wrong; `inside`: behind, within it; `missing`: served without any
    history although there was one; `extra`: served with one although there was none. `lag`, `tie`, `late`, `logic`: why
    a cell differs; `inexact`: differs from the recomputation below the offsets. `smape`: sum over cells, as of t.
    """

    cells: int = 0
    mismatch: int = 0
    inside: int = 0
    missing: int = 0
    extra: int = 0
    lag: int = 0
    tie: int = 0
    late: int = 0
    logic: int = 0
    inexact: int = 0
    smape: float = 0.0
    oldest_us: int = 0

    def as_dict(self) -> dict[str, Any]:
        """With SMAPE as the mean, and the oldest fact that was not known in seconds."""
        counts = {name: value for name, value in vars(self).items() if name not in ("smape", "oldest_us")}
        return {**counts, "smape": self.smape / max(self.cells, 1), "oldest_missing_s": round(self.oldest_us / 1e6, 3)}


@dataclass
class Comparison:
    """All that was found so far. `tolerance_us`: how young a fact may be that the online side does not know yet."""

    layout: Layout
    tolerance_us: int
    features: dict[str, Tally] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        layout = self.layout
        decayed = [column.position for side in (layout.user, layout.item) for column in side.decayed_columns]
        decayed += [column.position for column in layout.table_columns]
        self._is_decayed = np.zeros(len(layout.feature_names), np.bool_)
        self._is_decayed[decayed] = True
        self._kinds = ["user"] * len(layout.feature_names)
        for position in layout.item.positions:
            self._kinds[position] = "item"
        for residual in layout.residuals:
            of_category = [] if residual.of_category is None else [residual.of_category, residual.of_category + 1]
            for position in (*(position for _, position in residual.newest), *of_category):
                self._kinds[position] = "past"
        self._crossing = {column.position for column in layout.table_columns}  # they read the item's category too

    def add(self, found: Recomputed, gaps: Gaps) -> None:
        """Compare one group."""
        exact = self._equal(found.logged, found.below.features)
        same = self._equal(found.logged, found.as_of.features)
        apart = _smape(found.logged, found.as_of.features)
        for position, name in enumerate(self.layout.feature_names):
            tally = self.features.setdefault(name, Tally())
            tally.cells += len(exact)
            tally.smape += float(apart[:, position].sum())
            for row in np.flatnonzero(~exact[:, position] | ~same[:, position]).tolist():
                logged, item = found.members[found.place[row]], int(found.item_ids[row])
                gap = gaps.of(self._kinds[position], logged, item)
                if position in self._crossing:
                    changed_us = gaps.of("item", logged, item).changed_us
                    gap = Gap(gap.age_us, gap.late, gap.tied, gap.absent, gap.empty, min(changed_us, gap.changed_us))
                is_wrong = self._judge(tally, gap, is_exact=bool(exact[row, position]))
                if is_wrong and len(self.examples) < _EXAMPLES:
                    self.examples.append(
                        {
                            "request_id": logged.request_id, "user_id": logged.user_id, "item_id": item,
                            "time_us": logged.time_us, "feature": name,
                            "logged": float(found.logged[row, position]),
                            "below_offsets": float(found.below.features[row, position]),
                            "as_of_time": float(found.as_of.features[row, position]),
                        }
                    )  # fmt: skip
        self._add_ints(found, gaps)

    def _judge(self, tally: Tally, gap: Gap, *, is_exact: bool) -> bool:
        """Count one differing cell; whether it is a fault of the logic."""
        tally.inexact += not is_exact
        if not is_exact:
            tally.extra += gap.empty and not gap.tied
            if gap.tied:
                tally.tie += 1
                return False
            if gap.changed_us <= self.tolerance_us:  # which attributes were known is not logged, only when they changed
                tally.lag, tally.inside = tally.lag + 1, tally.inside + 1
                return False
        elif gap.age_us is not None:
            tally.oldest_us = max(tally.oldest_us, gap.age_us)
            is_inside = gap.age_us <= self.tolerance_us
            if gap.absent and not is_inside:
                tally.missing += 1
                return False
            tally.lag, tally.inside = tally.lag + 1, tally.inside + is_inside
            tally.mismatch += not is_inside
            return False
        elif gap.late:
            tally.late += 1
            return False
        elif gap.changed_us <= self.tolerance_us:
            tally.lag, tally.inside = tally.lag + 1, tally.inside + 1
            return False
        tally.logic, tally.mismatch = tally.logic + 1, tally.mismatch + 1
        return True

    def _add_ints(self, found: Recomputed, gaps: Gaps) -> None:
        """Integer columns below the offsets: ids, values and codes, which must be equal."""
        first = np.searchsorted(found.place, np.arange(len(found.members)))
        for names, kind, logged, below, rows in (
            (
                self.layout.user_int_names, "user",
                np.stack([each.user_ints for each in found.members]), found.below.user_ints[first], first,
            ),
            (
                self.layout.item_int_names, "item",
                np.concatenate([each.item_ints for each in found.members]), found.below.item_ints,
                np.arange(len(found.place)),
            ),
        ):  # fmt: skip
            different = logged != below
            for name, columns in _families(names):
                tally = self.features.setdefault(f"{name} (integers)", Tally())
                tally.cells += different[:, columns].size
                for row, column in np.argwhere(different[:, columns]).tolist():
                    member = found.members[found.place[rows[row]]]
                    item = int(found.item_ids[rows[row]])
                    if (
                        self._judge(tally, gaps.of(kind, member, item), is_exact=False)
                        and len(self.examples) < _EXAMPLES
                    ):
                        self.examples.append(
                            {
                                "request_id": member.request_id, "user_id": member.user_id, "item_id": item,
                                "time_us": member.time_us, "feature": names[columns[column]],
                                "logged": int(logged[row, columns[column]]),
                                "below_offsets": int(below[row, columns[column]]),
                            }
                        )  # fmt: skip

    def _equal(self, logged: Floats, expected: Floats) -> _Mask:
        """The same bits; for decayed columns within 1e-9, and a float32's rounding of it."""
        same: _Mask = logged == expected
        near = np.abs(logged - expected) <= DECAYED * np.abs(expected) + np.spacing(np.abs(expected))
        same |= near & self._is_decayed
        return same


def _families(names: tuple[str, ...]) -> Iterator[tuple[str, list[int]]]:
    """Columns that differ in their last number are one feature's."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        found.setdefault(re.sub(r"_\d+$", "", name), []).append(column)
    yield from found.items()


def _smape(logged: Floats, expected: Floats) -> npt.NDArray[np.float64]:
    """2 |a - b| / (|a| + |b|) of each cell, 0 where both are 0."""
    a, b = logged.astype(np.float64), expected.astype(np.float64)
    total = np.abs(a) + np.abs(b)
    found: npt.NDArray[np.float64] = np.divide(2 * np.abs(a - b), total, out=np.zeros_like(total), where=total > 0)
    return found


def rate_of(features: dict[str, Tally], count: Callable[[Tally], int]) -> float:
    """A count's share of all cells."""
    cells = sum(tally.cells for tally in features.values())
    return sum(map(count, features.values())) / cells if cells else 0.0
