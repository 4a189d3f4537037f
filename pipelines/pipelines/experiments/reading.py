"""From the lake to one row a user: which arm, and what the user did before and since."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.assignment import assigned
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2
from stores.offline import Lake

from pipelines.experiments.design import Design

Floats = npt.NDArray[np.float64]

BEFORE_US = 28 * 86_400_000_000
"""How far back a user's own past counts as covariate: four whole weeks, so that each has the same days in it."""
_DEGRADED = (events_pb2.RUNG_LOCAL_MODEL, events_pb2.RUNG_PRECOMPUTED, events_pb2.RUNG_POPULAR)
RUNGS = {f"on_{events_pb2.Rung.Name(rung).removeprefix('RUNG_').lower()}": rung for rung in _DEGRADED}
"""Column -> rung."""


@dataclass(frozen=True)
class Units:
    """Of n users (or sessions, where the user is absent): `arm` int64 (n,), place in `Design.arms`; columns float64."""

    arm: npt.NDArray[np.int64]
    columns: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.arm)


@dataclass(frozen=True)
class Facts:
    """What the lake says of one experiment.

    `people`: unit, arm, first_us; those who were in one arm only. `exposures` and `events` of them, and of their past.
    `assigned` int64 (arms,): distinct users of each arm, those who moved counted where they came first.
    `moved`: users seen in more than one arm. `misplaced`: users whose arm is not the one that the hash gives.
    """

    people: pl.DataFrame
    exposures: pl.DataFrame
    events: pl.DataFrame
    assigned: npt.NDArray[np.int64]
    moved: int
    misplaced: int


def read(lake: Lake, usecase: UseCase, design: Design) -> Facts:
    """Scan impressions and interactions.

    Raises:
        UnknownTable, StoreUnavailable: the lake cannot be read.
    """
    shown = (
        of_arm(lake.scan("impressions"), design)
        .select(
            unit(), "request_id", "time_us", "rung", "arm", pl.col("stage_micros").list.sum().alias("micros"),
        )
        .filter(pl.col("unit") != 0)
    )  # fmt: skip
    exposed = shown.filter(pl.col("arm").is_in(design.arms)).collect()
    firsts = (
        exposed.sort("time_us", "request_id")
        .group_by("unit", maintain_order=True)
        .agg(pl.col("arm").first(), pl.col("time_us").first().alias("first_us"), pl.col("arm").n_unique().alias("arms"))
        .with_columns(pl.col("arm").replace_strict(design.arms, range(len(design.arms)), return_dtype=pl.Int64))
    )
    expected = assigned(design.split, firsts["unit"].to_numpy())
    people = firsts.filter(pl.col("arms") == 1).drop("arms")
    wanted = people.lazy().select("unit", "first_us")
    past = shown.join(wanted, on="unit").filter(_is_past("time_us")).select("unit", "time_us", "rung", "micros")
    now = exposed.join(people.select("unit"), on="unit", how="semi").select("unit", "time_us", "rung", "micros")
    return Facts(
        people=people,
        exposures=pl.concat([now, past.collect()]),
        events=_events(lake, usecase, design, wanted, exposed),
        assigned=np.bincount(firsts["arm"].to_numpy(), minlength=len(design.arms)),
        moved=len(firsts) - len(people),
        misplaced=int((firsts["arm"].to_numpy() != expected).sum()),
    )


def _events(lake: Lake, usecase: UseCase, design: Design, wanted: pl.LazyFrame, exposed: pl.DataFrame) -> pl.DataFrame:
    """unit, time_us, action, reward, answered (a list of ours); each event once, however often it was sent."""
    found = (
        lake.scan("interactions")
        .filter(pl.col("timestamp_us") < (design.until_us or 2**62))
        .select(unit(), "event_id", "action", "value", "request_id", pl.col("event_time_us").alias("time_us"))
        .join(wanted, on="unit")
        .filter((pl.col("time_us") >= pl.col("first_us")) | _is_past("time_us"))
        .unique(["unit", "event_id"])
        .collect()
    )
    lists = exposed.select("request_id").unique().with_columns(pl.lit(value=True).alias("ours"))
    found = found.join(lists, on="request_id", how="left")
    answered = pl.when(pl.col("time_us") >= pl.col("first_us")).then(pl.col("ours").fill_null(value=False))
    reward = usecase.label_weights(found["action"].to_numpy(), found["value"].to_numpy())
    return found.select(
        "unit", "time_us", "action", answered.otherwise(pl.col("request_id") != 0).alias("answered")
    ).with_columns(pl.Series("reward", reward))


def units_of(facts: Facts, usecase: UseCase, until_us: int | None = None) -> Units:
    """One row a user, with what happened before `until_us` (event time): what a look at that time would have seen."""
    people = facts.people if until_us is None else facts.people.filter(pl.col("first_us") < until_us)
    firsts = people.lazy().select("unit", "first_us")
    upto = pl.col("time_us") < (2**62 if until_us is None else until_us)
    lists = facts.exposures.lazy().filter(upto).join(firsts, on="unit")
    events = facts.events.lazy().filter(upto).join(firsts, on="unit")
    is_past = pl.col("time_us") < pl.col("first_us")
    table = people.lazy().select("unit", "arm")
    for suffix, kept in (("", ~is_past), ("_before", is_past)):
        for frame, sums in ((lists, _list_sums(suffix)), (events, _event_sums(usecase, suffix))):
            table = table.join(frame.filter(kept).group_by("unit").agg(sums), on="unit", how="left")
    filled = table.fill_null(0).sort("unit").collect()
    columns = [name for name in filled.columns if name not in ("unit", "arm")]
    return Units(filled["arm"].to_numpy(), {name: filled[name].to_numpy().astype(np.float64) for name in columns})


def _list_sums(suffix: str) -> list[pl.Expr]:
    return [
        pl.len().alias(f"requests{suffix}"),
        pl.col("rung").is_in(_DEGRADED).sum().alias(f"degraded{suffix}"),
        pl.col("micros").sum().alias(f"micros{suffix}"),
        *((pl.col("rung") == rung).sum().alias(f"{name}{suffix}") for name, rung in RUNGS.items()),
    ]


def _event_sums(usecase: UseCase, suffix: str) -> list[pl.Expr]:
    answered, sums = pl.col("answered"), list[pl.Expr]()
    for code, action in enumerate(usecase.action_names):
        of_action = pl.col("action") == code
        sums += [
            of_action.sum().alias(f"did_{action}{suffix}"),
            (of_action & answered).sum().alias(f"answered_{action}{suffix}"),
        ]
    return [
        *sums,
        pl.col("reward").sum().alias(f"reward{suffix}"),
        (pl.col("reward") * answered).sum().alias(f"answered_reward{suffix}"),
    ]


def of_arm(impressions: pl.LazyFrame, design: Design) -> pl.LazyFrame:
    """Impressions with `arm` as the experiment's own; null outside of it and of the time that counts."""
    log_time, own = pl.col("timestamp_us"), pl.col("arm").str.extract(rf"(?:^|,){design.name}=([^,]+)")
    counts = (log_time >= design.since_us) & (log_time < (design.until_us or 2**62))
    return impressions.with_columns(pl.when(counts).then(own).alias("arm"))


def unit() -> pl.Expr:
    """Who an arm is drawn for, as `Arms.assign` says it."""
    return pl.when(pl.col("user_id") != 0).then(pl.col("user_id")).otherwise(pl.col("session_id")).alias("unit")


def _is_past(column: str) -> pl.Expr:
    return (pl.col(column) < pl.col("first_us")) & (pl.col(column) >= pl.col("first_us") - BEFORE_US)
