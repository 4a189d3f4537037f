"""Which of two rankings people prefer, from lists that both drafted: many times as sensitive as two arms.

Each user compares both rankings, so what users differ in cancels; Chapelle, Joachims, Radlinski, Yue (Large-Scale
Validation and Analysis of Interleaved Search Evaluation, ACM TOIS 2012) needed a tenth to a hundredth of the users. It
says which ranking is preferred, not what that is worth: for that, compare arms.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.usecase import UseCase
from stores.offline import Lake

from pipelines.experiments import sequential
from pipelines.experiments.comparing import ALPHA
from pipelines.experiments.design import Design
from pipelines.experiments.reading import of_arm, unit

Gains = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Preference:
    """Mean over users of (lists that `other` won - lists that `one` won) / lists of theirs, in [-1, 1].

    [low, high] and `p` are always valid. `wins`: lists won by one, by other, and ties among lists with a click.
    """

    value: float
    low: float
    high: float
    p: float
    users: int
    wins: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Duel:
    """Whom users prefer. `lists` were drafted; in `alone` the other arm's model did not answer, which counts for none.

    `value` of the preference above 0: `other` is preferred to the `control`.
    """

    experiment: str
    control: str
    other: str
    lists: int
    alone: int
    preference: Preference

    @property
    def verdict(self) -> str:
        """In a sentence."""
        found = self.preference
        if found.users < sequential.MIN_USERS:
            return f"too few users to say anything yet: {found.users}"
        if found.p >= ALPHA:
            return f"no preference between {self.other} and {self.control} found so far"
        return f"users prefer {self.other if found.value > 0 else self.control}"


def duel(lake: Lake, usecase: UseCase, design: Design) -> Duel:
    """Read the lake: a list is won by the arm whose items earned more reward (label weights).

    Raises:
        UnknownTable, StoreUnavailable: the lake cannot be read.
    """
    (other,) = design.treatments
    lists = (
        of_arm(lake.scan("impressions"), design)
        .filter(pl.col("arm").is_not_null())
        .select(unit(), "request_id", "item_ids", "reasons")
        .filter(pl.col("unit") != 0)
        .collect()
    )
    items = lists.explode("item_ids", "reasons").select(
        "unit", "request_id", pl.col("item_ids").alias("item_id"), pl.col("reasons").str.extract("@(.+)$").alias("team")
    )  # fmt: skip
    drafted = items.filter(pl.col("team").is_not_null())
    answers = lake.scan("interactions").select("event_id", "request_id", "item_id", "action", "value")
    found = answers.join(drafted.lazy(), on=["request_id", "item_id"]).unique(["unit", "event_id"]).collect()
    reward = usecase.label_weights(found["action"].to_numpy(), found["value"].to_numpy())
    gains = found.with_columns(pl.Series("reward", reward)).group_by("request_id").agg(
        *(pl.col("reward").filter(pl.col("team") == team).sum().alias(name) for name, team in
          (("one", design.control), ("other", other)))
    )  # fmt: skip
    table = drafted.select("request_id", "unit").unique().join(gains, on="request_id", how="left").fill_null(0.0)
    return Duel(
        experiment=design.name,
        control=design.control,
        other=other,
        lists=len(table),
        alone=len(lists) - len(table),
        preference=preference(
            table["unit"].to_numpy(), table["one"].to_numpy(), table["other"].to_numpy(), planned=design.planned_users
        ),
    )


def preference(
    users: npt.NDArray[np.uint64], clicks_one: Gains, clicks_other: Gains, *, planned: int, alpha: float = ALPHA
) -> Preference:
    """Of n interleaved lists: whose they were, and what people did with each team's items, clicks or their worth, (n,).

    A list is won by the team with more; a user counts once, however many lists. `planned`: users that the interval is
    narrowest for. Too few users (`sequential.MIN_USERS`): p is 1.
    """
    won = np.sign(clicks_other - clicks_one)
    with_click = (clicks_one + clicks_other) > 0
    _, code = np.unique(users, return_inverse=True)
    each = np.bincount(code, won) / np.maximum(np.bincount(code), 1)
    count = len(each)
    value = float(each.mean()) if count else math.nan
    error = float(each.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    variance = sequential.mixture(planned, alpha)
    reach = sequential.multiplier(count, variance, alpha)
    p = 1.0
    if count >= sequential.MIN_USERS:
        p = float(sequential.p_values(np.array([value]), np.array([error]), np.array([float(count)]), variance)[0])
    wins = (int((won < 0).sum()), int((won > 0).sum()), int((with_click & (won == 0)).sum()))
    return Preference(value, value - reach * error, value + reach * error, p, count, wins)
