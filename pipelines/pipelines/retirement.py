"""Before a revision's rows go: nothing serves it, and no rollback returns to it any more."""

from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines import decisions
from pipelines.errors import DeployError


def give_up(usecase: str, revision: int, *, kafka: str, actor: str = "millrace retire") -> int | None:
    """Take the revision's version out of what a rollback returns to; that version, None if none was.

    Raises:
        DeployError: the revision serves.
        UnavailableError: Kafka does not answer.
    """
    state = decisions.serving_state(kafka, usecase)
    if state.HasField("pin") and state.pin.revision == revision:
        raise DeployError(
            f"{usecase}: version {state.pin.version} serves and reads revision {revision}; deploy another one"
        )
    if not state.HasField("previous") or state.previous.revision != revision:
        return None
    given_up = int(state.previous.version)
    state.ClearField("previous")
    reason = f"revision {revision} retires: no rollback to version {given_up} any more"
    decisions.publish(kafka, usecase, pb.DECISION_KIND_DEPLOY, state, reason=reason, actor=actor)
    return given_up
