"""What is wrong with a record, judged before it reaches the log; the same rules as the log's readers apply."""

from collections.abc import Container

from definitions.records import Problem, entity_problem, interaction_problem, reason_name
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb

MAX_EXTERNAL_ID = 1_024  # characters; it is repeated in every store


def event_fault(usecase: UseCase, event: pb.Interaction, erased: Container[int], now_us: int) -> str | None:
    """Why `event` is rejected (term of `DeadLetterReason`, field, what is wrong, remedy), or None if it is good.

    Args:
        usecase: whose actions count.
        event: as the caller sent it.
        erased: ids of users that were deleted.
        now_us: the collector's clock, microseconds since the epoch.
    """
    if problem := interaction_problem(usecase, event, now_us):
        return _text(problem)
    if event.user_id in erased:
        return f"erased: user_id {event.user_id} was deleted; its events are refused for good"
    return None


def item_fault(usecase: UseCase, item: pb.Item) -> str | None:
    """Why `item` is rejected, or None if it is good. A deletion needs no more than its id."""
    return _entity_fault(item, {name: spec.kind for name, spec in usecase.attributes.item.items()})


def user_fault(usecase: UseCase, user: pb.User, erased: Container[int]) -> str | None:
    """Why `user` is rejected, or None if it is good. A deletion may be repeated, and never taken back."""
    if fault := _entity_fault(user, {name: spec.kind for name, spec in usecase.attributes.user.items()}):
        return fault
    if not user.deleted and user.id in erased:
        return f"erased: id {user.id} was deleted; an erased user cannot return under the same id"
    return None


def _entity_fault(entity: pb.Item | pb.User, kinds: dict[str, str]) -> str | None:
    if problem := entity_problem(entity):
        return _text(problem)
    if len(entity.external_id) > MAX_EXTERNAL_ID:
        return (
            f"invalid_value: external_id has {len(entity.external_id)} characters; at most {MAX_EXTERNAL_ID} are kept"
        )
    for name, value in entity.attributes.items():
        found, declared = value.WhichOneof("kind"), kinds.get(name)
        if declared in ("number", "text") and found != declared:
            return f"invalid_value: attribute {name!r} is given as {found}; the use case declares it a {declared}"
    return None


def _text(problem: Problem) -> str:
    return f"{reason_name(problem.reason)}: {problem.detail}"
