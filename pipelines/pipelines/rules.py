"""Serving rules by decision: they replace those of the use case's file for everybody, at once, without a deployment."""

from dataclasses import dataclass

from definitions.errors import UseCaseError
from definitions.rules import Rules
from definitions.usecase import UseCase
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines import decisions
from pipelines.errors import BadInputError

ACTOR = "millrace rules"


@dataclass(frozen=True)
class InForce:
    """`version`: 0 while nobody has decided about rules. `own`: they are the use case's."""

    version: int
    own: bool
    rules: Rules


def rules_in_force(kafka: str, usecase: UseCase) -> InForce:
    """What the gateway orders lists by, outside of experiments.

    Raises:
        UnavailableError: Kafka does not answer.
        BadInputError: what was decided does not fit the use case any more.
    """
    return _of(usecase, decisions.serving_state(kafka, usecase.name))


def set_rules(kafka: str, usecase: UseCase, text: str, *, actor: str = ACTOR) -> InForce:
    """Put rules in force: JSON; what it does not name stays as the use case says it. Empty text: its own again.

    Raises:
        BadInputError: they do not fit the use case; every problem with its field.
        DeployError: Kafka did not take it; the former rules stay.
        UnavailableError: Kafka does not answer.
    """
    written = rules_of(usecase, text).to_json() if text else ""

    def edit(state: pb.ServingState) -> pb.ServingState:
        after = pb.ServingState()
        after.CopyFrom(state)
        after.rules, after.rules_version = written, state.rules_version + 1
        return after

    reason = "rules set" if text else "rules of the use case"
    state = decisions.change(kafka, usecase.name, pb.DECISION_KIND_RULES, edit, reason=reason, actor=actor)
    return _of(usecase, state)


def _of(usecase: UseCase, state: pb.ServingState) -> InForce:
    return InForce(state.rules_version, not state.rules, rules_of(usecase, state.rules))


def rules_of(usecase: UseCase, text: str) -> Rules:
    """Rules as a decision says them; empty text: the use case's own. BadInputError: they do not fit it."""
    try:
        return usecase.rules_of(text)
    except UseCaseError as exc:
        raise BadInputError(str(exc)) from exc
