"""What the tests of this library share: a use case with every kind of feature, and events written by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from definitions.events import EventColumns
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase, load_usecase


class Event(NamedTuple):
    """One event as a test writes it."""

    user: int
    item: int
    action: int
    value: float
    time_us: int
    category: int = 0


@pytest.fixture(scope="session")
def everything() -> UseCase:
    return load_usecase(Path(__file__).parent / "everything.yaml")


@pytest.fixture(scope="session")
def layout(everything: UseCase) -> Layout:
    return layout_of(everything)


@pytest.fixture(scope="session")
def event() -> type[Event]:
    return Event


@pytest.fixture(scope="session")
def columns() -> Callable[[Sequence[Event]], EventColumns]:
    """Events in log order, their places in the list as offsets."""

    def build(events: Sequence[Event]) -> EventColumns:
        n = len(events)
        return EventColumns.of(
            n,
            event_id=range(1, n + 1),
            user_id=[e.user for e in events],
            item_id=[e.item for e in events],
            action=[e.action for e in events],
            value=[e.value for e in events],
            event_time_us=[e.time_us for e in events],
            category=[e.category for e in events],
            offset=range(n),
        )

    return build
