"""A push of attributes, as the collector takes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from definitions.usecase import UseCase
from millrace.client import Entity, EventClient, MillraceError

from pipelines.errors import UnavailableError
from pipelines.feast.errors import PushRefusedError

PUSH_S = 30.0


def push(collector: str, usecase: UseCase, kind: str, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Send (id, attribute -> Feast's value) of `user`s or `item`s; each replaces all that was known of its id.

    A value that is not set leaves its attribute out.

    Raises:
        PushRefusedError: the collector refused rows; the others are taken.
        UnavailableError: it does not answer; send all again.
    """
    entities = [Entity(id=key, attributes=_attributes(values)) for key, values in rows]
    try:
        with EventClient(collector, timeout_s=PUSH_S) as client:
            put = client.put_users if kind == "user" else client.put_items
            answer = put(usecase.name, entities)
    except MillraceError as exc:
        raise UnavailableError(f"the collector at {collector}: {exc}; is the stack up? millrace status") from exc
    if answer.rejected:
        first = "; ".join(f"{kind} {entities[each.index].id}: {each.reason}" for each in answer.rejected[:3])
        raise PushRefusedError(f"{len(answer.rejected)} of {len(entities)} {kind}s refused: {first}")


def _attributes(values: Mapping[str, Any]) -> dict[str, float | str | Sequence[int]]:
    found: dict[str, float | str | Sequence[int]] = {}
    for name, value in values.items():
        match value.WhichOneof("val"):
            case "int64_list_val":
                found[name] = list(value.int64_list_val.val)
            case "int64_val":
                found[name] = [value.int64_val]  # a category's code
            case "double_val":
                found[name] = value.double_val
            case "string_val":
                found[name] = value.string_val
    return found
