"""A use case as it was when rows were built, or a model trained, under it: JSON beside checkpoints and in bundles."""

import json
from typing import Final

from pydantic import ValidationError

from definitions.errors import UseCaseError
from definitions.features import AS_WRITTEN
from definitions.usecase import UseCase

FILE: Final = "usecase.json"


def to_json(usecase: UseCase) -> bytes:
    """What its file says, without defaults: rules for options that nobody set need not hold. `from_json` reads it."""
    content = usecase.model_dump(mode="json", by_alias=True, exclude_unset=True, context={AS_WRITTEN: True})
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def from_json(raw: bytes, where: str) -> UseCase:
    """What `to_json` wrote. `where` names the file in messages.

    Raises:
        UseCaseError: it is damaged, or this version of the code knows other fields.
    """
    try:
        return UseCase.model_validate(json.loads(raw))
    except (ValueError, ValidationError) as exc:
        raise UseCaseError(f"{where}: no use case that this version of the code can read: {exc}") from exc
