"""How a serving state changes when an experiment begins, grows or ends: pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from definitions.assignment import free_segments
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines.errors import BadInputError
from pipelines.experiments.design import check_name

_SAME = 1e-9  # of a share: closer is rounding


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """One arm as it is asked for. `pin`, `rules` (JSON): None, empty = as without the experiment."""

    name: str
    share: float
    pin: pb.ModelPin | None = None
    rules: str = ""


def started(
    state: pb.ServingState, name: str, arms: Sequence[ArmSpec], *, layer: str, control: str, primary: str,
    planned_users: int, now_us: int, interleaved: bool = False,
) -> pb.ServingState:  # fmt: skip
    """With a new experiment on free places of its layer.

    Raises:
        BadInputError: what is asked for is no experiment, or does not go with what runs.
    """
    check_name("experiment", [name])
    check_name("layer", [layer])
    check_name("arm", [arm.name for arm in arms])
    _check_arms(state, name, arms, control, planned_users)
    _check_beside(state, layer, arms)
    if interleaved and len(arms) != 2:
        raise BadInputError(f"{name}: two arms can draft lists together, not {len(arms)}")
    after = pb.ServingState()
    after.CopyFrom(state)
    made = after.experiments.add(
        name=name, layer=layer, since_us=now_us, primary=primary, planned_users=planned_users, control=control,
        interleaved=interleaved,
    )  # fmt: skip
    for arm in arms:
        made.arms.add(name=arm.name, share=arm.share, pin=arm.pin, rules=arm.rules)
    _take(made, free_segments_of(state, layer, math.fsum(arm.share for arm in arms)))
    return after


def grown(state: pb.ServingState, name: str, shares: Mapping[str, float], now_us: int) -> pb.ServingState:
    """With other shares of the arms that are named.

    While all arms grow or shrink alike, every user stays where it is. Else some change their arm, so what is counted
    begins anew, now.

    Raises:
        BadInputError: there is no such experiment or arm, or no such place.
    """
    after = pb.ServingState()
    after.CopyFrom(state)
    experiment = _running(after, name)
    known = [arm.name for arm in experiment.arms]
    if strange := set(shares) - set(known):
        raise BadInputError(f"arm {sorted(strange)[0]!r}: {name} has {', '.join(known)}")
    before = [arm.share for arm in experiment.arms]
    for arm in experiment.arms:
        arm.share = shares.get(arm.name, arm.share)
    now = [arm.share for arm in experiment.arms]
    _check_shares(experiment.arms, name)
    parts = [[share / math.fsum(each) for share in each] for each in (before, now)]
    if max(abs(one - other) for one, other in zip(*parts, strict=True)) > _SAME:
        experiment.since_us = now_us
    own = [(segment.begin, segment.end) for segment in experiment.segments] or [(0.0, math.fsum(before))]
    more = math.fsum(now) - math.fsum(end - begin for begin, end in own)
    if more > _SAME:
        _take(experiment, [*own, *free_segments_of(state, experiment.layer, more)])
    elif more < -_SAME:
        _take(experiment, _first_of(own, math.fsum(now)))
    return after


def stopped(state: pb.ServingState, name: str) -> pb.ServingState:
    """Without the experiment. BadInputError: it does not run."""
    after = pb.ServingState()
    after.CopyFrom(state)
    after.experiments.remove(_running(after, name))
    return after


def free_segments_of(state: pb.ServingState, layer: str, wanted: float) -> tuple[tuple[float, float], ...]:
    """Places of a layer that no experiment of `state` has. BadInputError: there are too few."""
    taken = []
    for each in state.experiments:
        if each.layer == layer:
            whole = [(0.0, math.fsum(arm.share for arm in each.arms))]
            taken += [(segment.begin, segment.end) for segment in each.segments] or whole
    try:
        return free_segments(taken, wanted)
    except ValueError as exc:
        inside = ", ".join(each.name for each in state.experiments if each.layer == layer)
        raise BadInputError(
            f"layer {layer}: {exc}; {inside} have the rest: stop one, ask for less, or take another layer"
        ) from exc


def _running(state: pb.ServingState, name: str) -> pb.Experiment:
    for each in state.experiments:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in state.experiments) or "none"
    raise BadInputError(f"experiment {name!r} does not run; running: {known}")


def _check_arms(state: pb.ServingState, name: str, arms: Sequence[ArmSpec], control: str, planned_users: int) -> None:
    names = [arm.name for arm in arms]
    if name in [each.name for each in state.experiments]:
        raise BadInputError(f"experiment {name} runs already; to change its shares: millrace experiment grow {name}")
    if len(names) < 2 or len(set(names)) != len(names):
        raise BadInputError(f"{name}: at least two arms, each named once, e.g. --arm treatment=0.5 --arm control=0.5")
    if control not in names:
        raise BadInputError(f"{name}: --control {control!r} is none of its arms ({', '.join(names)})")
    if planned_users < 1:
        raise BadInputError(f"{name}: --users {planned_users}; say how many users it is planned for, at least 1")
    _check_shares(arms, name)


def _check_shares(arms: Sequence[ArmSpec] | Sequence[pb.Arm], name: str) -> None:
    for arm in arms:
        if not 0 < arm.share <= 1:
            raise BadInputError(f"{name}: arm {arm.name} has share {arm.share:g}; more than 0, at most 1")
    if (total := math.fsum(arm.share for arm in arms)) > 1 + _SAME:
        raise BadInputError(f"{name}: the arms' shares add up to {total:g}; at most 1 of the layer")


def _check_beside(state: pb.ServingState, layer: str, arms: Sequence[ArmSpec]) -> None:
    """Independent layers may not change the same thing: which of both would hold depends on their order."""
    others = [(each, arm) for each in state.experiments if each.layer != layer for arm in each.arms]
    for what, ours, has in (
        ("the model", any(arm.pin is not None for arm in arms), lambda arm: arm.HasField("pin")),
        ("the rules", any(arm.rules for arm in arms), lambda arm: bool(arm.rules)),
    ):
        clash = next((each for each, arm in others if has(arm)), None)
        if ours and clash is not None:
            raise BadInputError(
                f"{clash.name} changes {what} too, in layer {clash.layer}: a user could be in both; "
                f"begin this one in that layer (--layer {clash.layer}), where no user is in two"
            )
    if any(arm.pin is not None for arm in arms) and state.HasField("canary"):
        raise BadInputError(
            f"a canary of version {state.canary.pin.version} is under way and would be part of the control: finish it "
            "or take it back first (millrace canary finish, millrace canary stop)"
        )


def _take(experiment: pb.Experiment, segments: Sequence[tuple[float, float]]) -> None:
    """These places and no others, neighbours joined."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(segments):
        if joined and begin - joined[-1][1] < _SAME:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((begin, end))
    del experiment.segments[:]
    for begin, end in joined:
        experiment.segments.add(begin=begin, end=end)


def _first_of(segments: Sequence[tuple[float, float]], wanted: float) -> list[tuple[float, float]]:
    """The lowest `wanted` of the places."""
    kept = []
    for begin, end in sorted(segments):
        if wanted > _SAME:
            kept.append((begin, min(end, begin + wanted)))
            wanted -= kept[-1][1] - begin
    return kept
