"""All that a decision says about answering, ready for use: swapped as one reference, asked at each request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from definitions.assignment import place
from definitions.serving_rules import ServingRules
from definitions.serving_state import Limits

from gateway.arms import Arms
from gateway.model import ActiveModel, Choice, Partner
from gateway.query import Query

CANARY: Final = "canary"


@dataclass(frozen=True, slots=True)
class CanaryInForce:
    """`model` answers users whose place is below `share`; the place is the bundle's own, so the next canary's first
    users are others.
    """

    model: ActiveModel
    share: float
    limits: Limits = field(default_factory=Limits)

    def has(self, user_id: int, session_id: int) -> bool:
        """Whether a user, or a session where the user is absent, is in. Who is in stays in while the share grows.

        Who has neither id is not in: nothing of theirs would stay.
        """
        unit_id = user_id or session_id
        return bool(unit_id) and place(f"canary:{self.model.name}/{self.model.version}", unit_id) < self.share


@dataclass(frozen=True, slots=True)
class ShadowInForce:
    """`model` scores copies of a `share` of the requests."""

    model: ActiveModel
    share: float


@dataclass(frozen=True, slots=True)
class Treatment:
    """What an arm changes; None: as without the experiment. `other` drafts with it; `names` are of both."""

    model: ActiveModel | None = None
    rules: ServingRules | None = None
    names: tuple[str, str] = ("", "")
    other: "Treatment | None" = None


@dataclass(frozen=True, slots=True)
class InForce:
    """One use case's serving state under one layout. `choose` is a dictionary look-up after the hashes.

    `treatments`: by (experiment, arm), of those that change anything.
    """

    pin: ActiveModel | None
    rules: ServingRules
    canary: CanaryInForce | None = None
    shadow: ShadowInForce | None = None
    arms: Arms = field(default_factory=lambda: Arms(()))
    treatments: Mapping[tuple[str, str], Treatment] = field(default_factory=dict)
    _choices: dict[tuple[bool, Sequence[tuple[str, str]]], Choice] = field(default_factory=dict)

    def choose(self, query: Query) -> Choice:
        """By which model, rules and arm this request is answered: the same for a user while this is in force."""
        canary = self.canary
        in_canary = canary is not None and canary.has(query.user_id, query.session_id)
        assigned = tuple(self.arms.assign(query.user_id, query.session_id))
        found = self._choices.get((in_canary, assigned))
        if found is None:
            found = self._choices[in_canary, assigned] = self._made(assigned, in_canary=in_canary)
        return found

    def models(self) -> list[ActiveModel]:
        """Every version that scores something, each once."""
        found = [self.pin] if self.pin is not None else []
        found += [each.model for each in (self.canary, self.shadow) if each is not None]
        found += [each.model for each in self.treatments.values() if each.model is not None]
        return list({id(model): model for model in found}.values())

    def _made(self, assigned: Sequence[tuple[str, str]], *, in_canary: bool) -> Choice:
        applied = [each for pair in assigned if (each := self.treatments.get(pair)) is not None]
        model, rules, in_canary = self._with(applied, in_canary=in_canary)
        names = [CANARY] if in_canary else []
        names += [f"{experiment}={arm}" for experiment, arm in assigned]
        partner = None
        if (drafted := next((each for each in applied if each.other is not None), None)) is not None:
            others = [each.other or each for each in applied]
            partner = Partner(drafted.names, *self._with(others, in_canary=False)[:2])
        return Choice(model, rules, ",".join(names), partner)

    def _with(self, applied: Sequence[Treatment], *, in_canary: bool) -> tuple[ActiveModel | None, ServingRules, bool]:
        """Model and rules under these treatments, and whether the model is the canary's."""
        model = self.canary.model if in_canary and self.canary is not None else self.pin
        rules = self.rules
        for treatment in applied:
            if treatment.model is not None:
                model = treatment.model
                in_canary = False  # what answers is the arm's, not the canary
            rules = treatment.rules or rules
        return model, rules, in_canary
