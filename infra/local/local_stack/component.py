"""What the supervisor knows about any part: a command, its ports, a probe and two budgets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from local_stack.probes import Probe


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Component:
    """One process of the stack.

    `fetch` downloads what the part needs (kept in `dist/`); `prepare` writes its files and `environment` says what the
    process gets besides the inherited environment, both just before a start. `ports` are checked before the start. `start_s` bounds the wait for the probe, `stop_s` the wait after SIGTERM.
    """

    name: str
    wave: int
    command: Sequence[str]
    ports: Mapping[str, int]
    probe: Probe
    start_s: float
    stop_s: float
    environment: Callable[[], Mapping[str, str]] = dict
    fetch: Callable[[], object] = nothing
    prepare: Callable[[], None] = nothing
