"""One process: its identity on disk, its start, its end with all that it started."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from local_stack import process
from local_stack.component import Component
from local_stack.errors import DamagedState, StartFailed
from local_stack.home import Home
from local_stack.probes import wait
from local_stack.process import RunFile

Make = Callable[..., Component]
Start = Callable[[Component], RunFile]

STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
signal.pause()
"""


def first_line(run: RunFile) -> str:
    """What the process says first, once it has."""
    log = Path(run.log)
    deadline = time.monotonic() + 10
    while not log.read_text().endswith("\n"):
        assert time.monotonic() < deadline
    return log.read_text().splitlines()[0]


def test_a_started_process_is_ready_and_known(component: Make, started: Start, home: Home) -> None:
    """Its run file is enough to find it again from another command."""
    run = started(component())
    process.await_ready(run, 10)

    assert process.run_files(home) == {"small": run}
    assert run.process() is not None
    assert run.process().pid == run.pid  # type: ignore[union-attr]


def test_a_part_that_can_wait_runs_behind_the_others(component: Make, started: Start) -> None:
    """Its priority is set before it has threads, so that all of them have it; also where Linux orders by session."""
    run = started(dataclasses.replace(component(), nice=7))
    session = Path(f"/proc/{run.pid}/autogroup")

    assert 7 == psutil.Process(run.pid).nice()
    if session.exists():
        assert session.read_text().endswith(" nice 7\n")


def test_stop_ends_it_in_time_and_forgets_it(component: Make, started: Start, home: Home) -> None:
    """A process that heeds SIGTERM is not killed."""
    run = started(component())
    process.await_ready(run, 10)

    assert process.stop(run, home)
    assert run.process() is None
    assert process.run_files(home) == {}


def test_what_ignores_sigterm_is_killed_with_its_children(component: Make, started: Start, home: Home) -> None:
    """Nothing of the group is left, whatever it does about signals."""
    run = started(component(STUBBORN, stop_s=0.05))
    child = psutil.Process(int(first_line(run)))

    assert not process.stop(run, home)
    assert run.process() is None
    assert wait_gone(child)


def test_children_of_a_crashed_process_are_stopped(component: Make, started: Start, home: Home) -> None:
    """A leader killed from outside leaves orphans in its session; `down` finds them."""
    run = started(component(STUBBORN))
    child = psutil.Process(int(first_line(run)))
    os.kill(run.pid, signal.SIGKILL)

    process.stop(run, home)

    assert wait_gone(child)


def wait_gone(child: psutil.Process) -> bool:
    """Whether the process ends within 5 s; a zombie that only init reaps has ended."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
    return False


def test_a_pid_that_was_used_again_is_not_ours(component: Make, started: Start, home: Home) -> None:
    """Only pid and start time together name a process: another one of the same pid must not be signalled."""
    run = started(component())
    stale = dataclasses.replace(run, started="another boot/1")

    assert stale.process() is None
    assert process.members(stale) == []
    process.stop(stale, home)
    assert run.process() is not None


def test_a_dead_child_ends_the_wait_with_its_log(component: Make, started: Start) -> None:
    """Nobody should wait a minute for a process that said at once what it lacks."""
    run = started(component("import sys; print('no such disk', flush=True); sys.exit(4)", start_s=60))

    with pytest.raises(StartFailed, match=r"(?s)small is not ready: it ended.*no such disk"):
        process.await_ready(run, 60)


def test_a_late_child_is_named_with_its_reason(component: Make, started: Start) -> None:
    """The message says for how long it was waited and what the probe said last."""
    run = started(component("import signal; signal.pause()"))

    with pytest.raises(StartFailed, match=r"small is not ready within 0 s: .*refused"):
        process.await_ready(run, 0.01)


def test_the_log_before_the_last_is_kept(component: Make, started: Start, home: Home) -> None:
    """A crash can be read after the restart that repaired it."""
    part = component("print('first', flush=True)")
    run = started(part)
    assert wait(part.probe, 10, alive=lambda: run.process() is not None) == "it ended"
    process.stop(run, home)
    started(part)

    assert (home.log / "small.log.1").read_text() == "first\n"


def test_a_run_file_that_is_not_ours_is_named(home: Home) -> None:
    """The message names the file and says what to do."""
    (home.run / "odd.json").write_text("{}")

    with pytest.raises(DamagedState, match=r"odd\.json is not a run file.*remove it"):
        process.run_files(home)
