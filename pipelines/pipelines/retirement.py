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
    _check(usecase, revision, state)
    if not state.HasField("previous") or state.previous.revision != revision:
        return None
    given_up = state.previous

    def edit(now: pb.ServingState) -> pb.ServingState:
        _check(usecase, revision, now)
        if now.HasField("previous") and now.previous.revision == revision:
            now.ClearField("previous")
        return now

    reason = f"revision {revision} retires: no rollback to version {given_up.version} any more"
    decisions.change(kafka, usecase, pb.DECISION_KIND_DEPLOY, edit, reason=reason, actor=actor)
    return int(given_up.version)


def _check(usecase: str, revision: int, state: pb.ServingState) -> None:
    if state.HasField("pin") and state.pin.revision == revision:
        raise DeployError(
            f"{usecase}: version {state.pin.version} serves and reads revision {revision}; deploy another one"
        )
