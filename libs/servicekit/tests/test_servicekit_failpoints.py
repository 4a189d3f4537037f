"""Failpoints: a place that a test names ends, stops or fails the process, at the time that it asked for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from servicekit.errors import FailpointReached
from servicekit.failpoints import POINTS, Failpoint, arm, fp
from servicekit.settings import ProcessSettings, problems

NAME = "archiver.before_commit"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No test leaves one armed."""
    yield
    arm(None)


def test_only_the_nth_time_at_the_named_place_counts() -> None:
    """Other places, and the same one earlier and later, pass."""
    arm(Failpoint.parse(f"{NAME}:2:raise"))

    fp("archiver.polled")
    fp(NAME)
    with pytest.raises(FailpointReached, match=f"{NAME}:2:raise"):
        fp(NAME)
    fp(NAME)


def test_unarmed_every_place_passes() -> None:
    """As in production."""
    for name in POINTS:
        fp(name)


@pytest.mark.parametrize(
    "text", ["", NAME, f"{NAME}:0:kill", f"{NAME}:1:stop", "archiver.nowhere:1:kill", f"{NAME}:x:kill"]
)
def test_what_can_never_be_reached_is_refused(text: str) -> None:
    """A kill that never comes would pass for a kill survived."""
    with pytest.raises(ValueError, match=r"failpoint|must be name:N:"):
        Failpoint.parse(text)


def test_it_is_a_setting_that_production_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An armed process ends: no production does that on purpose."""
    monkeypatch.setenv("MILLRACE_FAILPOINT", f"{NAME}:3:kill")
    assert Failpoint(NAME, 3, "kill") == ProcessSettings().failpoint

    monkeypatch.setenv("MILLRACE_ENV", "production")
    (told,) = problems(ProcessSettings)
    assert told.startswith("MILLRACE_FAILPOINT: refused in production")


@pytest.mark.parametrize(("action", "ended_by"), [("kill", signal.SIGKILL), ("pause", signal.SIGSTOP)])
def test_a_process_is_killed_or_stopped(action: str, ended_by: signal.Signals) -> None:
    """By signals that no handler sees."""
    code = f"from servicekit.failpoints import *; arm(Failpoint.parse('{NAME}:1:{action}')); fp('{NAME}')"
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    stopped = os.WIFSTOPPED(status)
    found = os.WSTOPSIG(status) if stopped else os.WTERMSIG(status)
    if stopped:
        os.kill(process.pid, signal.SIGCONT)
        _, status = os.waitpid(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0  # continued, it goes on
    process.returncode = 0

    assert ended_by == found
