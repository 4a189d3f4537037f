"""What several commands need of the stack: use cases, the catalogue's titles, errors as exit codes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from millrace_cli import output
from millrace_cli.errors import BadInput, EnvironmentAtFault, GateSaidNo

if TYPE_CHECKING:
    from definitions.usecase import UseCase

    from millrace_cli.settings import Settings


@contextmanager
def translated() -> Iterator[None]:
    """The pipelines' and stores' errors as ends of a command: 2 bad input, 3 the environment, 1 a refusal."""
    from bundle import BundleError
    from definitions.errors import DefinitionsError
    from pipelines import errors as pipelines_errors
    from servicekit.errors import LogError
    from stores import errors as stores_errors

    try:
        yield
    except (pipelines_errors.BadInputError, DefinitionsError) as exc:
        raise BadInput(str(exc)) from exc
    except (pipelines_errors.UnavailableError, stores_errors.StoreUnavailable, LogError) as exc:
        raise EnvironmentAtFault(str(exc)) from exc
    except (pipelines_errors.PipelineError, BundleError, stores_errors.StoreError) as exc:
        raise GateSaidNo(str(exc)) from exc


def usecase(settings: Settings, name: str | None) -> UseCase:
    """The use case of that name or file; by default the first that the stack serves. Raises BadInput."""
    from definitions.usecase import find_usecase

    with translated():
        return find_usecase(name or settings.usecases[0], settings.usecase_dir)


def titles(settings: Settings, spec: UseCase) -> dict[int, tuple[str, str]]:
    """Item id -> (its id in the user's data, its first text attribute), from the catalogue in the lake."""
    from stores.offline import Lake
    from stores.offline.rows import to_items

    texts = [name for name, attribute in spec.attributes.item.items() if attribute.kind == "text"]
    found = {}
    with translated():
        for item in to_items(Lake(settings.lake, spec.name).scan("items").collect()):
            title = item.attributes[texts[0]].text if texts and texts[0] in item.attributes else ""
            found[item.id] = (item.external_id, title)
    return found


class Bars:
    """The pipelines' progress as bars and notes on stderr. Use it as a context manager."""

    def __init__(self) -> None:
        self._open: contextlib.ExitStack = contextlib.ExitStack()
        self._advance: Callable[[float], None] = _nothing

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def stage(self, name: str, total: int | None = None) -> None:
        """Close the present bar and open one."""
        self._open.close()
        self._open = contextlib.ExitStack()
        self._advance = self._open.enter_context(output.progress(name, total))

    def advance(self, done: int) -> None:
        """Move the bar."""
        self._advance(done)

    def note(self, text: str) -> None:
        """Print what the user must be told."""
        output.err.print(f"note: {text}", markup=False, highlight=False)


def _nothing(amount: float) -> None:
    del amount
