"""What is kept of the stack as a whole, in `run/stack.json`: what `status` expects to find."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from local_stack.errors import DamagedState
from local_stack.home import Home
from local_stack.process import STACK_FILE, RunFile, run_files


@dataclass(frozen=True)
class StackState:
    """A stack that was brought up: what should run, and what was given by address."""

    profile: Literal["embedded", "real"]
    why: str
    log_id: str
    offset: int
    parts: list[str]
    given: dict[str, dict[str, str]]  # name to the fields of its probe
    notes: list[str]
    runs: dict[str, RunFile]

    @classmethod
    def read(cls, home: Home) -> "StackState | None":
        """The stack of `home` with its run files; None if none is up. DamagedState if the file is not ours."""
        path = home.run / STACK_FILE
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text()), runs=run_files(home))
        except (TypeError, ValueError) as exc:
            raise DamagedState(f"{path} is not ours ({exc}): remove it") from exc

    def write(self, home: Home) -> None:
        """Keep it, whole or not at all; the run files have their own."""
        content: dict[str, Any] = asdict(self)
        del content["runs"]
        aside = home.run / f".{STACK_FILE}.tmp"
        aside.write_text(json.dumps(content, indent=1))
        aside.rename(home.run / STACK_FILE)

    def alive(self, name: str) -> bool:
        """Whether the process `name` lives."""
        run = self.runs.get(name)
        return run is not None and run.process() is not None
