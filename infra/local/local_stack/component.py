"""What the supervisor knows about any part: a command, its ports, a probe and two budgets."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_stack.probes import Probe


def nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Component:
    """One process of the stack.

    `fetch` fills the folder `download` of `dist/`, if the part needs one and it is not there. Just before a start,
    `prepare` writes its files and `environment` says what the process gets besides the inherited variables. `ports` are
    checked before the start. `start_s` bounds the wait for the probe, `stop_s` the wait after SIGTERM. `after` (topics,
    schema) runs whenever the part works, so it must be repeatable. `nice` lets parts that can wait stand behind those
    that must answer in time, where both share few cores.
    """

    name: str
    wave: int
    command: Sequence[str]
    ports: Mapping[str, int]
    probe: Probe
    start_s: float
    stop_s: float
    environment: Callable[[], Mapping[str, str]] = dict
    download: Path | None = None
    fetch: Callable[[], object] = nothing
    prepare: Callable[[], None] = nothing
    after: Callable[[], object] = nothing
    nice: int = 0

    def fingerprint(self) -> str:
        """Changes with the command and the part's own environment: a running process of another one is started anew."""
        said = json.dumps([list(self.command), dict(self.environment())], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]
