"""What an experiment is, from the decisions that made it; and whatever may be measured in it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from definitions.assignment import Split
from definitions.usecase import UseCase
from millrace.decisions.v1 import decisions_pb2 as pb
from stores.offline import Lake

from pipelines.decisions import archived
from pipelines.errors import BadInputError

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Metric:
    """The mean over users of column `numerator`, or the ratio of two columns' means.

    A ratio's users are drawn, not its requests: its variance is the delta method's. `<column>_before` are covariates.
    """

    name: str
    numerator: str
    denominator: str | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Design:
    """One experiment as it was said before it began.

    `shares` of the layer, in the order of `arms`. `since_us`: log time from which its users count, later than its start
    if its arms have been weighted anew since. `until_us`: log time of its end; None while it runs. `interleaved`: its
    users are in no arm but get lists that both arms drafted.
    """

    name: str
    layer: str
    arms: tuple[str, ...]
    shares: tuple[float, ...]
    control: str
    primary: str
    planned_users: int
    since_us: int
    until_us: int | None
    split: Split
    interleaved: bool = False

    @property
    def treatments(self) -> tuple[str, ...]:
        """All arms but the control."""
        return tuple(arm for arm in self.arms if arm != self.control)

    @classmethod
    def of(cls, experiment: pb.Experiment, until_us: int | None = None) -> "Design":
        """As a decision states it."""
        return cls(
            name=experiment.name,
            layer=experiment.layer,
            arms=tuple(arm.name for arm in experiment.arms),
            shares=tuple(arm.share for arm in experiment.arms),
            control=experiment.control or experiment.arms[-1].name,
            primary=experiment.primary,
            planned_users=experiment.planned_users,
            since_us=experiment.since_us,
            until_us=until_us,
            split=Split.of(experiment),
            interleaved=experiment.interleaved,
        )


def designs(lake: Lake, usecase: str) -> dict[str, Design]:
    """Every experiment that the archived decisions know of, by name, as it was last; oldest first."""
    newest: dict[str, pb.Experiment] = {}
    ended: dict[str, int] = {}
    for decision in archived(lake, usecase):
        running = {each.name: each for each in decision.state.experiments}
        for gone in set(newest) - set(running) - set(ended):
            ended[gone] = decision.time_us
        for each in running:
            ended.pop(each, None)
        newest |= running
    return {name: Design.of(experiment, ended.get(name)) for name, experiment in newest.items()}


def design_of(lake: Lake, usecase: str, name: str) -> Design:
    """One of `designs`; BadInputError if there is none of that name."""
    found = designs(lake, usecase)
    if name not in found:
        known = f"there are {', '.join(found)}" if found else "begin one: millrace experiment start"
        raise BadInputError(f"experiment {name!r}: the archived decisions of {usecase} know none; {known}")
    return found[name]


def metrics_of(usecase: UseCase) -> dict[str, Metric]:
    """What every experiment of a use case is measured by, by name.

    `reward` is the label weight of what people did. `_per_user`: all that they did since they first were in the
    experiment; `_per_request`: what answered a list of it. The last three are guards: more is not better.
    """
    found = [Metric("reward_per_user", "reward"), Metric("reward_per_request", "answered_reward", "requests")]
    for action in usecase.action_names:
        found += [
            Metric(f"{action}_per_user", f"did_{action}"),
            Metric(f"{action}_per_request", f"answered_{action}", "requests"),
        ]
    found += [
        Metric("requests_per_user", "requests"),
        Metric("degraded_per_request", "degraded", "requests", higher_is_better=False),
        Metric("micros_per_request", "micros", "requests", higher_is_better=False),
    ]
    return {metric.name: metric for metric in found}


def primary_of(usecase: UseCase, name: str) -> str:
    """`name`, or what decides by default. BadInputError if the use case has no such metric."""
    known = metrics_of(usecase)
    if not name:
        return "reward_per_user"
    if name not in known:
        raise BadInputError(f"metric {name!r}: {usecase.name} has {', '.join(known)}")
    return name


def expected_shares(design: Design) -> npt.NDArray[np.float64]:
    """Of the experiment's users that each arm should have: float64 (arms,), adding up to 1."""
    shares: npt.NDArray[np.float64] = np.array(design.shares) / np.sum(design.shares)
    return shares


def check_name(what: str, names: Iterable[str]) -> None:
    """Names stand in logs as `<experiment>=<arm>` joined by commas. BadInputError."""
    for name in names:
        if not NAME.fullmatch(name):
            raise BadInputError(f"{what} {name!r}: begin with a letter; letters a-z, digits, - and _, at most 63")
