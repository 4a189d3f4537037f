"""The kit: HTTP endpoints, readiness, signals, logs, the drain budget."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Counter
from servicekit.kit import Budget, Kit, start
from servicekit.settings import ProcessSettings


@pytest.fixture
def settings(tmp_path: Path) -> ProcessSettings:
    """Settings of a process on free ports."""
    return ProcessSettings(home=tmp_path, metrics_port=0)


@pytest.fixture
def kit(settings: ProcessSettings) -> Iterator[Kit]:
    """A started kit that leaves this process's signals alone."""
    with start("example", settings, signals=False) as started:
        yield started


def ask(kit: Kit, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", kit.http_port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_process_is_alive_before_it_is_ready(kit: Kit) -> None:
    """Ready needs at least one condition, and all of them to hold."""
    assert 200 == ask(kit, "GET", "/live")[0]
    assert 503 == ask(kit, "GET", "/ready")[0]

    kit.ready.expect("catalogue", "broker")
    kit.ready.set("catalogue", True)

    status, body = ask(kit, "GET", "/ready")
    assert (503, {"ready": False, "conditions": {"catalogue": True, "broker": False}}) == (status, json.loads(body))

    kit.ready.set("broker", True)

    assert 200 == ask(kit, "GET", "/ready")[0]


def test_a_draining_process_is_not_ready_whatever_is_set_later(kit: Kit) -> None:
    """A late condition must not bring traffic back to a process that is ending."""
    kit.ready.set("all", True)
    kit.drain(1.0)
    kit.ready.set("all", True)

    assert 503 == ask(kit, "GET", "/ready")[0]


def test_metrics_are_of_this_process(kit: Kit) -> None:
    """One registry a process, with its own metrics and the interpreter's."""
    Counter("example_things", "Things.", registry=kit.registry).inc(3)

    status, body = ask(kit, "GET", "/metrics")

    assert 200 == status
    assert "example_things_total 3.0" in body
    assert "process_resident_memory_bytes" in body
    assert "example_ready 0.0" in body


def test_a_post_answers_what_its_handler_returns(kit: Kit) -> None:
    """Endpoints of a process are its own; their errors are told and do not end the server."""
    kit.post("/flush", lambda: {"offsets": [1, 2]})
    kit.post("/broken", lambda: {"never": 1 // 0})

    assert (200, '{"offsets": [1, 2]}\n') == ask(kit, "POST", "/flush")
    status, body = ask(kit, "POST", "/broken")
    assert (500, True) == (status, "ZeroDivisionError" in body)
    assert 404 == ask(kit, "POST", "/nothing")[0]
    assert 404 == ask(kit, "GET", "/nothing")[0]


def test_a_taken_port_is_named(kit: Kit, tmp_path: Path) -> None:
    """The message says which port and what to do."""
    with pytest.raises(OSError, match=rf"{kit.http_port}.*MILLRACE_PORT_OFFSET"):
        start("example", ProcessSettings(home=tmp_path, metrics_port=kit.http_port), signals=False)


def test_callbacks_run_once_when_the_process_is_asked_to_stop(kit: Kit) -> None:
    """Also those that are added too late."""
    called: list[str] = []
    kit.on_stop(lambda: called.append("early"))

    kit.request_stop("test")
    kit.request_stop("again")
    kit.on_stop(lambda: called.append("late"))

    assert ["early", "late"] == called
    assert kit.stop.is_set()


def test_all_steps_of_a_shutdown_share_one_budget() -> None:
    """What one step takes, the next does not have; it never goes below zero."""
    now = 100.0
    budget = Budget(5.0, clock=lambda: now)

    now = 103.0
    assert 2.0 == budget.left_s()
    now = 109.0
    assert 0.0 == budget.left_s()


PROCESS = """
import sys, logging
from servicekit.kit import start
from servicekit.settings import load_settings, ProcessSettings
kit = start("features", load_settings(ProcessSettings))
logging.getLogger("library").warning("from the standard library")
sys.stdout.write("up\\n"); sys.stdout.flush()
while not kit.stop.wait(0.001): pass
kit.drain(1.0)
kit.close()
"""


def test_a_signal_drains_and_every_log_line_is_json(tmp_path: Path) -> None:
    """SIGTERM ends a process that waits in `stop.wait` with 0; its log is a JSON object a line, naming the service."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        env=environment | {"MILLRACE_METRICS_PORT": "0", "MILLRACE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "up\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
    finally:
        process.kill()

    lines = [json.loads(line) for line in log.splitlines()]
    assert 0 == process.returncode
    assert {"features"} == {line["service"] for line in lines}
    assert ["started", "from the standard library", "stopping", "draining"] == [line["event"] for line in lines]
    assert "SIGTERM" == lines[2]["why"]
