"""What several commands need of the stack: use cases, the catalogue's titles, errors as exit codes."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from millrace_cli import output, secured
from millrace_cli.errors import BadInput, CommandError, EnvironmentAtFault, GateSaidNo

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from local_stack.state import StackState
    from pipelines.triton_repository import Repository
    from stores.offline import Lake

    from millrace_cli.settings import Settings

DEMO_MARK: Final = "demo.json"  # in a home whose state the demo made, and may take away
FLUSH_S: Final = 60.0
SETTLE_S: Final = 120.0  # a whole data set may lie before the last event


@contextmanager
def translated() -> Iterator[None]:
    """The pipelines' and stores' errors as ends of a command: 2 bad input, 3 the environment, 1 a refusal."""
    try:
        yield
    except Exception as exc:  # what can be told of it, `_ending` knows; all else goes on as it is
        if (ending := _ending(exc)) is None:
            raise
        raise ending from exc


def _ending(exc: Exception) -> CommandError | None:
    """Asked once something has failed: these imports take more than a second, which few commands need to spend."""
    from bundle import BundleError
    from definitions.errors import DefinitionsError
    from servicekit.errors import LogError
    from stores import errors as stores_errors

    from pipelines import errors as pipelines_errors

    endings: list[tuple[type[CommandError], tuple[type[Exception], ...]]] = [
        (BadInput, (pipelines_errors.BadInputError, DefinitionsError)),
        (EnvironmentAtFault, (pipelines_errors.UnavailableError, stores_errors.StoreUnavailable, LogError)),
        (GateSaidNo, (pipelines_errors.PipelineError, BundleError, stores_errors.StoreError)),
    ]
    return next((ending(str(exc)) for ending, errors in endings if isinstance(exc, errors)), None)


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
        self.close()

    def close(self) -> None:
        """End the present bar."""
        self._open.close()
        self._open = contextlib.ExitStack()
        self._advance = _nothing

    def stage(self, name: str, total: int | None = None) -> None:
        """Close the present bar and open one."""
        self.close()
        self._advance = self._open.enter_context(output.progress(name, total))

    def advance(self, done: int) -> None:
        """Move the bar."""
        self._advance(done)

    def note(self, text: str) -> None:
        """Print what the user must be told."""
        output.err.print(f"note: {text}", markup=False, highlight=False)


def _nothing(amount: float) -> None:
    del amount


def gateway(settings: Settings) -> str:
    """The stack's gateway as `RankingClient` takes it: host:port, or with what a secured one wants to see."""
    return secured.target(settings, endpoint(settings, "gateway"))


def collector(settings: Settings) -> str:
    """The stack's collector as `EventClient` takes it."""
    return secured.target(settings, endpoint(settings, "collector"))


def endpoint(settings: Settings, service: Literal["gateway", "collector"]) -> str:
    """host:port of a service's gRPC endpoint."""
    from servicekit import ports

    return f"127.0.0.1:{settings.port(ports.GRPC[service])}"


def flush_archiver(settings: Settings) -> dict[str, Any]:
    """Have everything that is on the log now written to the lake; what the archiver answers. Raises CommandError."""
    from servicekit import ports

    return _flush(settings.port(ports.METRICS["archiver"]), "archiver")


def archive(settings: Settings, spec: UseCase) -> tuple[Lake, bool]:
    """A use case's lake, brought up to date where a stack is up, and whether one is. Raises CommandError."""
    from local_stack.home import Home
    from local_stack.state import StackState
    from stores.offline import Lake

    if is_up := StackState.read(Home(settings.home)) is not None:
        flush_archiver(settings)
    return Lake(settings.lake, spec.name), is_up


def flush_features(settings: Settings, usecase: str) -> dict[str, dict[str, int]]:
    """Have every revision of a use case emit and checkpoint what it has folded. Raises CommandError.

    Returns what the one that is furthest behind has: partition -> topic -> offset below which everything is saved.
    """
    from millrace_cli import revisions

    found: dict[str, dict[str, int]] = {}
    for revision in revisions.Revisions.read(settings).of(usecase):
        answer = _flush(revisions.metrics_port(settings, revision), revisions.process_name(revision))
        for partition, offsets in answer["offsets"].get(usecase, {}).items():
            least = found.setdefault(partition, dict(offsets))
            found[partition] = {kind: min(offset, least[kind]) for kind, offset in offsets.items()}
    return found


def _flush(port: int, service: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/flush"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=FLUSH_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError) as exc:
        raise EnvironmentAtFault(
            f"the {service} service does not answer at {url} ({exc}); try: millrace status"
        ) from exc


def settle(settings: Settings, usecase: str, next_offsets: Mapping[int, int]) -> float:
    """Wait until the features hold the log up to `next_offsets` (partition -> offset) and have emitted it.

    Returns the seconds waited. Raises EnvironmentAtFault after `SETTLE_S`.
    """
    begun = time.monotonic()
    while True:
        offsets = flush_features(settings, usecase)
        behind = [
            partition
            for partition, wanted in next_offsets.items()
            if int(offsets.get(str(partition), {}).get("interactions", 0)) < wanted
        ]
        waited = time.monotonic() - begun
        if not behind:
            return waited
        if waited > SETTLE_S:
            raise EnvironmentAtFault(
                f"after {waited:.0f} s the features service is behind on partitions {behind}; try: millrace status"
            )
        time.sleep(0.1)


def stack_state(settings: Settings) -> StackState:
    """What is up. Raises EnvironmentAtFault if nothing is."""
    from local_stack.home import Home
    from local_stack.state import StackState

    state = StackState.read(Home(settings.home))
    if state is None:
        raise EnvironmentAtFault("no stack is up; start one: millrace up")
    return state


def server(settings: Settings, name: str) -> str | None:
    """host:port of `valkey`, `cassandra` or `triton` in the running stack; None where the embedded part stands in."""
    given: str | None = getattr(settings, name)
    if given is not None:
        return given
    state = stack_state(settings)
    if name not in state.parts or name not in state.runs:
        return None
    found = state.runs[name].ports
    return f"127.0.0.1:{found.get('grpc') or found[name]}"


def repository(settings: Settings) -> Repository:
    """Triton's repository of this stack, with the templates that deploy fills in."""
    from pipelines.triton_repository import Repository

    return Repository(settings.models, settings.triton_templates, settings.triton_profile)
