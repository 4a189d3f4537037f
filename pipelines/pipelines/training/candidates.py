"""Who met which item when: what may become an example, before label and features."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from definitions.backfill import Queries
from definitions.events import EventColumns

Ids = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]

NONE = -1


@dataclass(frozen=True, eq=False)
class Candidates:
    """n rows: user_id, item_id, request_id (0 = organic) uint64; time_us int64; device, surface, country uint32.

    `event`: place of a row's own event in the log, `shown`: place of its features among the logged ones, int64, NONE
    (-1) where there is none. `sampled`: drawn as a negative, nobody showed it.
    """

    user_id: Ids
    item_id: Ids
    request_id: Ids
    time_us: Ints
    device: Codes
    surface: Codes
    country: Codes
    event: Ints
    shown: Ints
    sampled: Mask

    def __len__(self) -> int:
        return len(self.user_id)

    def take(self, rows: Mask | Ints) -> "Candidates":
        """Some of them, by mask or by place."""
        return Candidates(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def queries(self) -> Queries:
        """As a backfill asks for them."""
        return Queries(self.user_id, self.item_id, self.time_us, self.device, self.surface, self.country)

    @classmethod
    def of_events(cls, events: EventColumns, places: Ints) -> "Candidates":
        """One for each event at `places`, at the event's own time."""
        asked = events.take(places)
        n = len(places)
        return cls(
            user_id=asked.user_id,
            item_id=asked.item_id,
            request_id=asked.request_id,
            time_us=asked.event_time_us,
            device=asked.device,
            surface=asked.surface,
            country=asked.country,
            event=places,
            shown=np.full(n, NONE, np.int64),
            sampled=np.zeros(n, bool),
        )

    @classmethod
    def concat(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """One after the other."""
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )
