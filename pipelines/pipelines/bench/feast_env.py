"""How a bench runs something with Feast: a module of its own, as a program in Feast's environment.

The bench, where `.venv` is: `answer = feast_env.call("pipelines.bench.pit_feast", {"rows": 1_000_000}, timeout_s=300)`.
The module ends with `if __name__ == "__main__": feast_env.answer(run(**feast_env.asked()))`. There Feast has its own
duckdb and Redis stores, and there is all that `millrace-pipelines` depends on. Give big data as paths of Parquet files.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import UnavailableError
from pipelines.feast.environment import interpreter
from pipelines.settings import feast_environ


def call(module: str, arguments: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Run `module` as a program in Feast's environment; what its `answer` call gave.

    The program reads the arguments by `asked()` and ends with `answer(...)`; both sides of the pipe are JSON. What it
    prints is shown only if it fails.

    Raises:
        UnavailableError: the environment, a failure of the program (with the end of what it printed), or `timeout_s`.
    """
    python = interpreter()
    with tempfile.TemporaryDirectory(prefix="feast-") as folder:
        given, answered = Path(folder) / "arguments.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(arguments))
        try:
            done = subprocess.run(
                [str(python), "-m", module, str(given), str(answered)],
                env=feast_environ(),
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as exc:
            raise UnavailableError(f"{module} in Feast's environment was not done after {timeout_s:.0f} s") from exc
        if done.returncode or not answered.exists():
            end = (done.stderr or done.stdout)[-2000:]
            raise UnavailableError(f"{module} in Feast's environment ended with {done.returncode}: {end}")
        found: dict[str, Any] = json.loads(answered.read_text())
        return found


def asked() -> dict[str, Any]:
    """Inside the program: the arguments of `call`."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return found


def answer(result: Mapping[str, Any]) -> None:
    """Inside the program: what `call` returns."""
    Path(sys.argv[2]).write_text(json.dumps(result))
