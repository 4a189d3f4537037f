"""What all commands print with: tables on stdout, progress on stderr, and one JSON object as the last line."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from millrace_cli.errors import CommandError, GateSaidNo

_PIPE_WIDTH = 160  # a pipe has no width of its own; rich would take 80 and fold every table

out = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)

SERVERS = {"kafka": "4.3.1", "cassandra": "5.0.8", "triton": "2.51.0"}  # of the real profile
_PACKAGES = ("millrace-cli", "deltalake", "grpcio", "kafka-python", "lightgbm", "numpy", "onnxruntime", "polars")


def table(title: str, *columns: str) -> Table:
    """An empty table in the one style of this command."""
    made = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def emit(result: Mapping[str, Any], *, home: Path | None = None) -> None:
    """Print `result` with `ran_on` as one line of JSON: the last line of a `--json` command."""
    out.file.write(json.dumps({**result, "ran_on": ran_on(home)}, default=str) + "\n")
    out.file.flush()


def failed(exc: CommandError, *, as_json: bool) -> None:
    """Print why a command ended; with `as_json` also as the last line."""
    err.print(str(exc), style="red" if exc.exit_code != 1 else "yellow", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        emit({"error": str(exc), "exit_code": exc.exit_code})


def ran_on(home: Path | None = None) -> dict[str, Any]:
    """What a result was measured on: cores, memory, versions, and the profile of the stack of `home`, if one is up."""
    profile = _profile(home)
    servers = SERVERS if profile == "real" else {}
    return {
        "profile": profile,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "commit": commit(),
        "versions": {"python": platform.python_version(), **_versions(), **servers},
    }


def _profile(home: Path | None) -> str | None:
    """The profile that `run/stack.json` names; None where no stack is up."""
    path = home / "run" / "stack.json" if home else None
    if path is None or not path.exists():
        return None
    return str(json.loads(path.read_text())["profile"])


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a part that this installation leaves out
            continue
    return found


@cache
def commit() -> str | None:
    """Commit of the checkout, with `+` where files differ from it; None where this is no checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else None


def conclude(answer: Mapping[str, Any], *, home: Path, as_json: bool, refusal: str | None) -> None:
    """With `as_json` the answer as the last line; with a `refusal` the command's end, exit code 1.

    Raises:
        GateSaidNo: says the refusal. `typer.Exit` with its code where the JSON line has said all.
    """
    if as_json:
        emit(answer, home=home)
    if refusal is not None:
        raise typer.Exit(GateSaidNo.exit_code) if as_json else GateSaidNo(refusal)


@contextmanager
def progress(what: str, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
    """A bar with rate and time left on stderr; yields what is called with each further amount of work done.

    Where stderr is no terminal, a line at every tenth says the same.
    """
    if not err.is_terminal:
        with _lines(what, total, unit) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(what, total=total, rate="")
        begun = time.monotonic()

        def advance(amount: float) -> None:
            bar.advance(task, amount)
            rate = bar.tasks[task].completed / max(time.monotonic() - begun, 1e-9)
            bar.update(task, rate=f"{rate:,.0f} {unit}/s")

        yield advance


@contextmanager
def _lines(what: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    begun = time.monotonic()
    done, said = 0.0, 0

    def advance(amount: float) -> None:
        nonlocal done, said
        done += amount
        tenth = int(10 * done / total) if total else 0
        if tenth > said:
            said = tenth
            spent = time.monotonic() - begun
            _line(f"{what}: {10 * tenth} %, {done / max(spent, 1e-9):,.0f} {unit}/s, {spent:.1f} s")

    yield advance
    _line(f"{what}: {done:,.0f} {unit} in {time.monotonic() - begun:.1f} s")


@contextmanager
def steps(what: str) -> Iterator[Callable[[str, str], None]]:
    """Follow parts that work side by side; yields `tell(part, what happens to it)`.

    On a terminal each part has a line that changes; elsewhere each change is a line.
    """
    begun = time.monotonic()
    if not err.is_terminal:
        yield lambda part, state: _line(f"{time.monotonic() - begun:6.1f} s  {part}: {state}")
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description:<12} {task.fields[state]}"), console=err) as lines:
        tasks = {what: lines.add_task(what, total=1, state="")}

        def tell(part: str, state: str) -> None:
            if part not in tasks:
                tasks[part] = lines.add_task(part, total=1, state=state)
            over = state in {"ready", "stopped", "killed", "failed"}
            lines.update(tasks[part], state=f"{state} ({time.monotonic() - begun:.1f} s)", completed=int(over))

        yield tell
        lines.update(tasks[what], completed=1, state=f"{time.monotonic() - begun:.1f} s")


def _line(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
