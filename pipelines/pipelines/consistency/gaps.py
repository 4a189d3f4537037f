"""What the online side did not know at an impression although it had happened: the reason for a difference."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from definitions.layout import Layout
from definitions.plan import BLOCK

from pipelines.consistency.facts import Facts, Ints
from pipelines.consistency.impressions import Logged

Mask = npt.NDArray[np.bool_]
NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class Gap:
    """Of one user, item, or history at one impression.

    `age_us`: how long the oldest fact that was not known had been on the log, None if none was missing. `late`: facts
    from before the impression's time reached the log after it. `tied`: what was known has facts at or after that time
    which cannot be told apart. `absent`: nothing was known at all. `empty`: there was nothing to know. `changed_us`:
    how long ago the attributes had changed.
    """

    age_us: int | None
    late: bool
    tied: bool
    absent: bool
    empty: bool
    changed_us: int = NEVER


class Gaps:
    """The gaps of one group's impressions, each found once."""

    def __init__(self, layout: Layout, facts: Facts) -> None:
        self._facts = facts
        self._layout = layout
        self._found: dict[tuple[int, str, int], Gap] = {}

    def of(self, kind: str, logged: Logged, item: int) -> Gap:
        """`kind` is what a column is made of: `user`, `item`, or `past` (a user's history and its items)."""
        key = (id(logged), kind, item if kind == "item" else 0)
        if key not in self._found:
            self._found[key] = {"user": self._user, "item": self._item, "past": self._past}[kind](logged, item)
        return self._found[key]

    def _user(self, logged: Logged, item: int) -> Gap:
        del item
        places = self._facts.by_user.of(logged.user_id)
        known = self._facts.events.offset[places] < logged.interactions_offset
        versions = self._facts.users.get(logged.user_id)
        missed_us, changed_us = None, NEVER
        if versions is not None:
            changed_us = versions.changed_us(logged.seen_us)
            if versions.below(logged.users_offset) is not versions.at(logged.seen_us):
                missed_us = changed_us
        return self._gap(logged, places, known, BLOCK, absent=not logged.has_row, missed=missed_us, changed=changed_us)

    def _item(self, logged: Logged, item: int) -> Gap:
        places = self._facts.by_item.of(item)
        markers, events = dict(logged.markers), self._facts.events
        known = np.array(
            [
                offset < markers.get(partition, 0)
                for partition, offset in zip(
                    events.partition[places].tolist(), events.offset[places].tolist(), strict=True
                )
            ],
            np.bool_,
        )
        versions = self._facts.items.get(item)
        changed = NEVER if versions is None else versions.changed_us(logged.seen_us)
        return self._gap(logged, places, known, 1, absent=not markers, missed=None, changed=changed)

    def _past(self, logged: Logged, item: int) -> Gap:
        places = self._facts.by_user.of(logged.user_id)
        items = np.unique(self._facts.events.item_id[places]).tolist()
        return _worst([self.of("user", logged, item), *(self.of("item", logged, each) for each in items)])

    def _gap(
        self, logged: Logged, places: Ints, known: Mask, tied: int, *, absent: bool, missed: int | None, changed: int
    ) -> Gap:
        """`tied`: so many known facts at or after t cannot be told apart from those before it."""
        events = self._facts.events
        before = events.event_time_us[places] < logged.time_us
        ages_us = logged.seen_us - events.timestamp_us[places][before & ~known]
        arrived = ages_us[ages_us >= 0]
        ages = [*([int(arrived.max())] if len(arrived) else []), *([missed] if missed is not None else [])]
        return Gap(
            age_us=max(ages, default=None),
            late=bool((ages_us < 0).any()),
            tied=int((known & ~before).sum()) >= tied,
            absent=absent,
            empty=not before.any(),
            changed_us=changed,
        )


def _worst(gaps: Iterable[Gap]) -> Gap:
    every = list(gaps)
    return Gap(
        age_us=max((gap.age_us for gap in every if gap.age_us is not None), default=None),
        late=any(gap.late for gap in every),
        tied=any(gap.tied for gap in every),
        absent=any(gap.absent for gap in every),
        empty=all(gap.empty for gap in every),
        changed_us=min(gap.changed_us for gap in every),
    )
