"""What Feast shows of a layout: views by key, their columns, and where each column's value is. Imports no Feast."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from definitions.layout import Layout

USER: Final = "user_id"
ITEM: Final = "item_id"

Source = Literal["feature", "user_int", "item_int"]
"""A layout's arrays: float32 features, int64 columns of the user, int64 columns of the item."""


@dataclass(frozen=True, slots=True)
class Column:
    """One Feast feature: `width` neighbouring columns of a source from `start`. `listed`: an array, else one value."""

    name: str
    source: Source
    start: int
    width: int = 1
    listed: bool = False


@dataclass(frozen=True)
class View:
    """Columns that are read by the same keys (`user_id`, `item_id`, or both)."""

    name: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Column by its name."""
        return {column.name: column for column in self.columns}


def project_of(usecase: str) -> str:
    """Feast's project, and what its names begin with: Feast takes no hyphen."""
    return usecase.replace("-", "_")


def views_of(layout: Layout) -> tuple[View, ...]:
    """`<usecase>_user`, `_item` and `_cross`, without those that would be empty.

    Together they have every column of the model but the request's context codes, which the caller has, and the
    candidate's id, which is a key. Last-k ids, values and several categories are arrays.
    """
    of_user, of_item = set(layout.user.positions), set(layout.item.positions)
    user = [column for column in _floats(layout) if column.start in of_user]
    item = [column for column in _floats(layout) if column.start in of_item]
    cross = [column for column in _floats(layout) if column.start not in of_user | of_item]
    name = project_of(layout.usecase.name)
    views = (
        View(f"{name}_user", (USER,), (*user, *_user_ints(layout))),
        View(f"{name}_item", (ITEM,), (*item, *_item_ints(layout))),
        View(f"{name}_cross", (USER, ITEM), tuple(cross)),
    )
    return tuple(view for view in views if view.columns)


def _floats(layout: Layout) -> Iterator[Column]:
    for position, name in enumerate(layout.feature_names):
        yield Column(name, "feature", position)


def _user_ints(layout: Layout) -> Iterator[Column]:
    names = layout.user_int_names
    for history in layout.history_ints:
        for start in (history.start, history.start + history.k):  # the ids, then the values
            yield Column(names[start].removesuffix("_0"), "user_int", start, history.k, listed=True)
    for code in layout.user_code_ints:
        yield _codes(names, "user_int", code.start, code.codes.width)


def _item_ints(layout: Layout) -> Iterator[Column]:
    for code in layout.item_code_ints:
        yield _codes(layout.item_int_names, "item_int", code.start, code.codes.width)


def _codes(names: tuple[str, ...], source: Source, start: int, width: int) -> Column:
    if width == 1:
        return Column(names[start], source, start)
    return Column(names[start].removesuffix("_0"), source, start, width, listed=True)
