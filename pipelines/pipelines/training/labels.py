"""What became of each candidate: what happened within the attribution window, final once that has closed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.events import EventColumns
from definitions.features import Condition
from definitions.usecase import UseCase

from pipelines.training.candidates import NONE, Candidates, Ids, Ints, Mask

Floats = npt.NDArray[np.float32]
Column = TypeVar("Column", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Labels:
    """Of n candidates. `label` int64 0/1; `value` float32, of a regression (0 without `label.value`); `heads`: name ->
    float32, 0/1 or a value. `event_id` uint64: the candidate's own event, else the event that gave the label, 0 if
    there is neither. `closed`: whether the label is final.
    """

    label: Ints
    value: Floats
    heads: Mapping[str, Floats]
    event_id: Ids
    closed: Mask

    def take(self, rows: Mask | Ints) -> "Labels":
        """Some of them, by mask or by place."""
        heads = {name: column[rows] for name, column in self.heads.items()}
        return Labels(self.label[rows], self.value[rows], heads, self.event_id[rows], self.closed[rows])


def label_candidates(usecase: UseCase, candidates: Candidates, events: EventColumns, known_until_us: int) -> Labels:
    """Label every candidate from the log.

    A candidate whose own event's action can be positive is judged by that event. Any other by the first event that
    answers it: with its request_id and item where it has a request (whatever the clocks say, but before the window
    ends), else of its user and item from its time on. A label is final once the window has closed: until then a
    candidate without a positive event is not negative but unknown, and one with it would stand there without its
    negatives. Events that reach the log late are found by their own time, so the next training set is correct.

    Args:
        usecase: `label`, `heads` and the window.
        candidates: n rows.
        events: the log, each event once.
        known_until_us: the event time up to which the log is known.
    """
    found = _Outcomes(candidates, events, usecase.label.window_us)
    label, event_id = found.flag(usecase, usecase.positive_actions())
    value = np.zeros(len(candidates), np.float32)
    if usecase.label.value is not None:
        value, event_id = found.value(usecase, {usecase.label.value: Condition()})
    own = candidates.event != NONE
    event_id[own] = events.event_id[candidates.event[own]]
    heads = {}
    for name, head in usecase.heads.items():
        actions = usecase.head_actions(name)
        answer = found.flag(usecase, actions) if head.value is None else found.value(usecase, actions)
        heads[name] = answer[0].astype(np.float32)
    waits_us = usecase.attribution_us
    closed = candidates.time_us + waits_us <= known_until_us if waits_us else np.ones(len(candidates), bool)
    return Labels(label.astype(np.int64), value, heads, event_id, closed)


class _Outcomes:
    """The first event of some kind that answers each candidate."""

    def __init__(self, candidates: Candidates, events: EventColumns, window_us: int) -> None:
        self._candidates = candidates
        self._events = events
        self._window_us = window_us

    def flag(self, usecase: UseCase, actions: Mapping[str, Condition]) -> tuple[Mask, Ids]:
        """Whether there is one, (n,), and its event_id (0 = none)."""
        place = self._first(usecase, actions)
        return place != NONE, self._of(place, self._events.event_id)

    def value(self, usecase: UseCase, actions: Mapping[str, Condition]) -> tuple[Floats, Ids]:
        """Its value, 0 if there is none, (n,), and its event_id."""
        place = self._first(usecase, actions)
        return self._of(place, self._events.value), self._of(place, self._events.event_id)

    def _of(self, place: Ints, column: npt.NDArray[Column]) -> npt.NDArray[Column]:
        found = np.zeros(len(place), column.dtype)
        found[place != NONE] = column[place[place != NONE]]
        return found

    def _first(self, usecase: UseCase, actions: Mapping[str, Condition]) -> Ints:
        """Place in the log of the answer to each candidate, NONE without."""
        events, rows = self._events, self._candidates
        matching = usecase.matches(actions, events.action, events.value)
        codes = [usecase.action_code(name) for name in actions]
        own = (rows.event != NONE) & np.isin(events.action[rows.event], codes)
        place = np.full(len(rows), NONE, np.int64)
        place[own] = np.where(matching[rows.event[own]], rows.event[own], NONE)
        answers = np.flatnonzero(matching)
        by_request = ~own & (rows.request_id != 0)
        place[by_request] = self._by_request(np.flatnonzero(by_request), answers)
        rest = ~own & ~by_request
        place[rest] = self._by_time(np.flatnonzero(rest), answers)
        return place

    def _by_request(self, asked: Ints, answers: Ints) -> Ints:
        rows, events = self._candidates, self._events
        answers = answers[events.request_id[answers] != 0]
        first = self._table(answers, key=events.request_id).sort("time", "place").unique(["key", "item"], keep="first")
        left = pl.DataFrame({"key": rows.request_id[asked], "item": rows.item_id[asked], "from": rows.time_us[asked]})
        return self._within(left.join(first, on=["key", "item"], how="left", maintain_order="left"))

    def _by_time(self, asked: Ints, answers: Ints) -> Ints:
        rows, events = self._candidates, self._events
        left = pl.DataFrame(
            {"key": rows.user_id[asked], "item": rows.item_id[asked], "from": rows.time_us[asked]}
        ).with_row_index()
        joined = left.sort("from").join_asof(
            self._table(answers, key=events.user_id).sort("time", "place"),
            left_on="from", right_on="time", by=["key", "item"], strategy="forward", coalesce=False,
            check_sortedness=False,
        )  # fmt: skip
        return self._within(joined.sort("index"))

    def _table(self, answers: Ints, key: Ids) -> pl.DataFrame:
        events = self._events
        return pl.DataFrame(
            {
                "key": key[answers], "item": events.item_id[answers], "time": events.event_time_us[answers],
                "place": answers,
            }
        )  # fmt: skip

    def _within(self, joined: pl.DataFrame) -> Ints:
        """Places of answers that came before the window closed."""
        in_time = pl.col("time") < pl.col("from") + self._window_us
        return joined.select(pl.when(in_time).then("place").otherwise(NONE))["place"].to_numpy()
