"""Up, status and down over the embedded broker and a small service: real processes, within a second."""

import dataclasses
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_stack.errors import AnotherAtWork, PortBusy, StackError, StartFailed
from local_stack.home import Home
from local_stack.plan import Options
from local_stack.ports import Ports
from local_stack.process import run_files
from local_stack.service import ServiceSpec
from local_stack.supervisor import Up, down, status, up

_SERVICE = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({k: v for k, v in os.environ.items() if k.startswith("MILLRACE_")}).encode())
    def log_message(self, *said):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["MILLRACE_METRICS"])), Handler).serve_forever()
"""


def quiet(name: str, what: str) -> None:
    """Tell nobody."""


@pytest.fixture
def options(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    """An embedded stack on free ports with one service, `small_service`."""
    free = Ports.free()
    monkeypatch.setattr(Ports, "at", classmethod(lambda *_: free))
    (tmp_path / "small_service.py").write_text(_SERVICE)
    declared = {"MILLRACE_HOME", "MILLRACE_KAFKA", "MILLRACE_LOG_ID", "MILLRACE_METRICS", "MILLRACE_EXTRA"}
    spec = ServiceSpec("small", "small_service", frozenset(declared), 3, {"metrics": free.features_metrics})
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "MILLRACE_METRICS": str(free.features_metrics)}
    yield Options(
        home=home,
        offset=0,
        environ=environ,
        services=[spec],
        topic_usecases=["m"],
        models=home.root / "models",
        profile="embedded",
    )
    down(home, quiet)


def with_setting(options: Options, **settings: str) -> Options:
    """The same stack, asked for from another environment."""
    return dataclasses.replace(options, environ={**options.environ, **settings})


def states(home: Home) -> dict[str, str]:
    """Part to its state."""
    return {part.name: part.state for part in status(home).parts}


def pids(home: Home) -> dict[str, int]:
    """Part to its pid."""
    return {name: run.pid for name, run in run_files(home).items()}


def kill(home: Home, name: str) -> None:
    """Kill a part from outside, and wait until it has ended: on a busy machine a signal takes its time."""
    run = run_files(home)[name]
    os.kill(run.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while run.process() is not None:
        assert time.monotonic() < deadline


def bring_up(options: Options) -> Up:
    """Up, silently."""
    return up(options, quiet)


def test_up_starts_everything_and_a_repeat_keeps_it(options: Options, home: Home) -> None:
    """`up` is idempotent: what answers stays as it is."""
    bring_up(options)
    before = pids(home)

    again = bring_up(options)

    assert states(home) == {"kafka": "ready", "small": "ready"}
    assert again.kept == ["kafka", "small"]
    assert pids(home) == before


def test_down_leaves_nothing(options: Options, home: Home) -> None:
    """No process, no port, no run file; a second `down` is as good."""
    bring_up(options)
    runs = run_files(home).values()

    down(home, quiet)
    down(home, quiet)

    assert [run.name for run in runs if run.process()] == []
    assert run_files(home) == {}
    assert status(home).profile is None
    for run in runs:
        for port in run.ports.values():
            socket.create_server(("127.0.0.1", port)).close()


def test_what_died_is_seen_and_comes_back_alone(options: Options, home: Home) -> None:
    """Nothing restarts by itself: a crash shows, and `up` mends it."""
    bring_up(options)
    before = pids(home)
    kill(home, "small")

    assert states(home) == {"kafka": "ready", "small": "dead"}
    assert not status(home).healthy
    bring_up(options)

    assert states(home) == {"kafka": "ready", "small": "ready"}
    assert pids(home)["kafka"] == before["kafka"]
    assert pids(home)["small"] != before["small"]


def test_a_new_log_sets_the_old_rows_aside_and_restarts_who_used_them(options: Options, home: Home) -> None:
    """The embedded log is in memory: offsets of the former one mean nothing."""
    bring_up(options)
    before = pids(home)
    (home.data / "checkpoints").mkdir()
    kill(home, "kafka")

    done = bring_up(options)

    assert not (home.data / "checkpoints").exists()
    assert [note for note in done.notes if "its rows and checkpoints are in" in note] != []
    assert pids(home)["small"] != before["small"]


def test_a_changed_setting_restarts_who_reads_it(options: Options, home: Home) -> None:
    """Else a new use case would be served by nobody until the next `down`."""
    bring_up(options)
    before = pids(home)

    bring_up(with_setting(options, MILLRACE_EXTRA="on"))

    assert pids(home)["kafka"] == before["kafka"]
    assert pids(home)["small"] != before["small"]


def test_a_setting_of_others_restarts_nobody(options: Options, home: Home) -> None:
    """A service gets what it declares, so the rest cannot concern it."""
    bring_up(options)
    before = pids(home)

    bring_up(with_setting(options, MILLRACE_UNKNOWN_TO_SMALL="1"))

    assert pids(home) == before


def test_a_busy_port_is_named_with_its_holder_before_anything_starts(options: Options, home: Home) -> None:
    """The remedy depends on who holds it."""
    port = options.services[0].ports["metrics"]
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(PortBusy, match=rf"port {port} \(small metrics\) is held by .*\(pid {os.getpid()}\)"),
    ):
        bring_up(options)

    assert run_files(home) == {}


def test_a_part_that_fails_shows_its_log_and_the_rest_stays(options: Options, home: Home, tmp_path: Path) -> None:
    """After the repair a repeat continues."""
    (tmp_path / "small_service.py").write_text("raise SystemExit('no such column')")
    with pytest.raises(StartFailed, match=r"(?s)small is not ready: it ended.*no such column"):
        bring_up(options)
    kafka = pids(home)["kafka"]
    (tmp_path / "small_service.py").write_text(_SERVICE)

    bring_up(options)

    assert states(home) == {"kafka": "ready", "small": "ready"}
    assert pids(home)["kafka"] == kafka


def test_two_at_once_are_one_too_many(options: Options, home: Home) -> None:
    """The second one says so at once and touches nothing."""
    with (home.run / "lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AnotherAtWork, match=f"works on {home.root}"):
            bring_up(options)


def test_the_other_profile_is_refused_while_one_is_up(options: Options, home: Home) -> None:
    """Two profiles in one home would share its state."""
    bring_up(options)

    with pytest.raises(StackError, match="a stack of profile embedded is up: run `millrace down` first"):
        bring_up(dataclasses.replace(options, profile="real"))


def test_a_given_server_is_used_and_never_stopped(options: Options, home: Home) -> None:
    """Somebody else's Kafka is probed, gets our topics, and survives `down`."""
    bring_up(options)
    address = f"127.0.0.1:{run_files(home)['kafka'].ports['kafka']}"
    other = Home(home.root.parent / "other")
    given = with_setting(dataclasses.replace(options, home=other, services=[]), MILLRACE_KAFKA=address)

    bring_up(given)

    assert states(other) == {"kafka": "given"}
    down(other, quiet)
    assert states(home)["kafka"] == "ready"


def test_a_given_server_that_is_silent_is_named(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable, since that is what is wrong."""
    monkeypatch.setattr("local_stack.probes.GIVEN_S", 0.0)
    port = Ports.free().kafka

    with pytest.raises(StackError, match=f"MILLRACE_KAFKA=127.0.0.1:{port} does not answer"):
        bring_up(with_setting(options, MILLRACE_KAFKA=f"127.0.0.1:{port}"))


def test_the_service_runs_in_this_interpreter(options: Options, home: Home) -> None:
    """No PATH decides which environment our services come from."""
    bring_up(options)

    assert run_files(home)["small"].process().exe() == os.path.realpath(sys.executable)  # type: ignore[union-attr]
