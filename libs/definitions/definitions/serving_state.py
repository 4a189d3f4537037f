"""How the serving state of a use case changes, as pure functions: for the commands that decide, and for the gateway
that takes a bad version back by itself.
"""

from dataclasses import dataclass

from millrace.decisions.v1 import decisions_pb2 as pb

from definitions.errors import DefinitionsError

STEPS = (1.0, 5.0, 25.0, 100.0)
"""Percent of users that a canary is shown to, one after the other; the last makes it the pin."""
MAX_ERROR_EXCESS = 0.01
MAX_P99_RATIO = 2.0
MAX_SCORE_PSI = 0.25  # "a major shift" by the rule of thumb; 0.079 is the 99th percentile of equal models at n = 500


class StateError(DefinitionsError):
    """The state does not allow that change; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A canary's guardrails with their defaults; infinite: not looked at."""

    error_excess: float = MAX_ERROR_EXCESS
    p99_ratio: float = MAX_P99_RATIO
    score_psi: float = MAX_SCORE_PSI

    @classmethod
    def of(cls, guardrails: pb.Guardrails) -> "Limits":
        """As a decision states them."""
        return cls(
            _limit(guardrails.max_error_excess, MAX_ERROR_EXCESS),
            _limit(guardrails.max_p99_ratio, MAX_P99_RATIO),
            _limit(guardrails.max_score_psi, MAX_SCORE_PSI),
        )


def _limit(stated: float, default: float) -> float:
    if stated == 0:
        return default
    return stated if stated > 0 else float("inf")


def identity(pin: pb.ModelPin) -> tuple[str, int, str]:
    """What makes two pins the same bundle."""
    return pin.name, pin.version, pin.digest


def same(one: pb.ModelPin, other: pb.ModelPin) -> bool:
    """Whether both name one bundle."""
    return identity(one) == identity(other)


def scoring_pins(state: pb.ServingState) -> list[pb.ModelPin]:
    """Every version that scores something: pin, canary, shadow, experiments' arms; each once."""
    found = [state.pin] if state.HasField("pin") else []
    if state.HasField("canary"):
        found.append(state.canary.pin)
    if state.HasField("shadow"):
        found.append(state.shadow.pin)
    found += [arm.pin for experiment in state.experiments for arm in experiment.arms if arm.HasField("pin")]
    return list({identity(pin): pin for pin in found}.values())


def loaded_pins(state: pb.ServingState) -> list[pb.ModelPin]:
    """`scoring_pins`, and what a rollback returns to: what must be in Triton."""
    found = scoring_pins(state)
    if state.HasField("previous"):
        found.append(state.previous)
    return list({identity(pin): pin for pin in found}.values())


def deployed(state: pb.ServingState, pin: pb.ModelPin) -> pb.ServingState:
    """`pin` serves everybody; what served is what a rollback returns to. A canary or shadow of it ends thereby.

    Raises:
        StateError: a canary of another version is under way.
    """
    after = _copy(state)
    if state.HasField("canary"):
        if not same(state.canary.pin, pin):
            raise StateError(
                f"a canary of version {state.canary.pin.version} is on {state.canary.percent:g} % of users: finish it "
                "or take it back first (millrace canary finish, millrace canary stop)"
            )
        after.ClearField("canary")
    if state.HasField("shadow") and same(state.shadow.pin, pin):
        after.ClearField("shadow")
    if state.HasField("pin") and not same(state.pin, pin):  # the same version again: what a rollback returns to stays
        after.previous.CopyFrom(state.pin)
    after.pin.CopyFrom(pin)
    return after


def rolled_back(state: pb.ServingState, *, may_return: bool = True) -> pb.ServingState:
    """What served before serves; a canary that is under way ends. Where the pin was the champion, what serves now is.

    `may_return`: whether a second rollback returns to what served; not where that was found bad.

    Raises:
        StateError: there is no former version.
    """
    if not state.HasField("previous"):
        raise StateError("no former version to return to; deploy one first")
    after = _copy(state)
    after.ClearField("canary")
    after.pin.CopyFrom(state.previous)
    if may_return and state.HasField("pin"):
        after.previous.CopyFrom(state.pin)
    else:
        after.ClearField("previous")
    if state.HasField("champion") and same(state.champion, state.pin):
        after.champion.CopyFrom(state.previous)
    return after


def with_canary(
    state: pb.ServingState,
    pin: pb.ModelPin,
    percent: float,
    now_us: int,
    guardrails: pb.Guardrails | None = None,
) -> pb.ServingState:
    """`pin` serves `percent` of users: a new canary, or the present one widened or narrowed.

    Raises:
        StateError: nothing is pinned, it is the pin itself, another canary or an experiment on versions is under way,
            or no such percentage.
    """
    if not state.HasField("pin"):
        raise StateError("a canary needs a version to be compared with: deploy this one to everybody")
    if same(state.pin, pin):
        raise StateError(f"version {pin.version} serves everybody already")
    if state.HasField("canary") and not same(state.canary.pin, pin):
        raise StateError(
            f"a canary of version {state.canary.pin.version} is under way: finish it or take it back first "
            "(millrace canary finish, millrace canary stop)"
        )
    arms = [each.name for each in state.experiments if any(arm.HasField("pin") for arm in each.arms)]
    if arms and not state.HasField("canary"):
        raise StateError(
            f"experiment {', '.join(arms)} compares versions, and the canary would be part of its control: let it end, "
            f"or end it first (millrace experiment stop {arms[0]})"
        )
    if not 0 < percent < 100:
        raise StateError(f"{percent:g} % of users: more than 0 and less than 100; to all by millrace deploy")
    after = _copy(state)
    after.canary.pin.CopyFrom(pin)
    after.canary.percent = percent
    after.canary.since_us = now_us
    if guardrails is not None:
        after.canary.guardrails.CopyFrom(guardrails)
    return after


def next_step(percent: float) -> float:
    """The next of STEPS above `percent`."""
    return next(step for step in STEPS if step > percent)


def without(state: pb.ServingState, bad: pb.ModelPin) -> tuple[pb.ServingState, pb.DecisionKind] | None:
    """The state in which `bad` scores nothing any more, and that decision's kind; None where nothing can replace it.

    A canary or shadow of it ends, so does an experiment that has it; as the pin it gives way to the former version, to
    which no rollback returns then. Where it was the champion, what serves after that is: in production a champion is
    what may be deployed, and what a challenger is compared with.
    """
    after = _copy(state)
    kind: pb.DecisionKind | None = None
    for at in reversed(range(len(after.experiments))):
        if any(arm.HasField("pin") and same(arm.pin, bad) for arm in after.experiments[at].arms):
            del after.experiments[at]
            kind = pb.DECISION_KIND_EXPERIMENT
    if after.HasField("shadow") and same(after.shadow.pin, bad):
        after.ClearField("shadow")
        kind = pb.DECISION_KIND_SHADOW
    if after.HasField("canary") and same(after.canary.pin, bad):
        after.ClearField("canary")
        kind = pb.DECISION_KIND_CANARY
    if after.HasField("pin") and same(after.pin, bad):
        if not after.HasField("previous") or same(after.previous, bad):
            return (after, kind) if kind is not None else None
        canary = after.canary if after.HasField("canary") else None
        back = rolled_back(after, may_return=False)
        if canary is not None and not same(canary.pin, back.pin):
            back.canary.CopyFrom(canary)  # it is not to blame
        return back, pb.DECISION_KIND_ROLLBACK
    if after.HasField("previous") and same(after.previous, bad) and kind is not None:
        after.ClearField("previous")
    if kind is not None and after.HasField("champion") and same(after.champion, bad):
        after.champion.CopyFrom(after.pin)
    return (after, kind) if kind is not None else None


def _copy(state: pb.ServingState) -> pb.ServingState:
    after = pb.ServingState()
    after.CopyFrom(state)
    return after
