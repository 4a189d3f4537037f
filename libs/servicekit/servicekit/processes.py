"""Several processes of one server on one port: started, watched, started anew, and drained together.

A Python process uses little more than one core. The kernel spreads connections, not calls, over all who listen
(SO_REUSEPORT), so servers let go of old connections.
"""

import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from prometheus_client import Counter, Gauge

from servicekit.kit import Kit
from servicekit.settings import EXIT_BAD_INPUT

_LOOK_S: Final = 0.1
_PROBE_S: Final = 1.0
_PAUSE_S: Final = (0.1, 10.0)  # before a process that ended is started again: first, doubled up to
_LATER_S: Final = 2.0  # than its own drain a process may end, before it is killed
_SET_PARENT_DEATH_SIGNAL: Final = 1  # prctl(2)
_LIBC: Final = ctypes.CDLL(None)


def supervise(kit: Kit, command: Sequence[str], environments: Mapping[str, Mapping[str, str]], drain_s: float) -> int:
    """Run `command` once in each of `environments`, until `kit.stop`; `kit` is ready while all of them are.

    One that ends is started again, after a pause that grows while it does not become ready. SIGTERM reaches all of
    them at once; each drains in `drain_s`. They end with this process, however it ends.

    Args:
        kit: of the supervisor.
        command: of each process.
        environments: by the host:port where a process answers /ready, its whole environment.
        drain_s: seconds.

    Returns:
        0 if all drained; 2 if the settings are wrong, which no restart mends; else what the first that did not drain
        ended with.
    """
    restarts = Counter(f"{kit.name}_process_restarts", "Processes that ended unasked.", registry=kit.registry)
    ready = Gauge(f"{kit.name}_processes_ready", "Processes that want traffic.", registry=kit.registry)
    kit.ready.expect("processes")
    children = [_Child(command, environment, address) for address, environment in environments.items()]
    while not kit.stop.wait(_LOOK_S):
        for number, child in enumerate(children):
            if (code := child.ended()) is None:
                continue
            if code == EXIT_BAD_INPUT:
                kit.request_stop(f"process {number + 1} ended with {code}")
                _drain(kit, children, drain_s)
                return EXIT_BAD_INPUT
            kit.log.warning("process ended", number=number + 1, code=code)
            restarts.inc()
        count = sum(child.is_ready() for child in children)
        ready.set(count)
        kit.ready.set("processes", count == len(children))
    return next((code for code in _drain(kit, children, drain_s) if code), 0)


def port_is_taken(host: str, port: int) -> bool:
    """Whether anybody listens there; those who share a port would not notice a stranger."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _drain(kit: Kit, children: "Sequence[_Child]", drain_s: float) -> list[int]:
    budget = kit.drain(drain_s + _LATER_S)
    for child in children:
        child.ask_to_end()
    return [child.end(budget.left_s()) for child in children]


class _Child:
    """One process, which is started when its time has come."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        address: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._environment, self._clock = command, environment, clock
        self._page = f"http://{address}/ready"
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s, self._due = _PAUSE_S[0], clock()

    def ended(self) -> int | None:
        """The exit code, once, if it has ended since it was last asked; starts it when it is due."""
        if self._process is None:
            if self._clock() >= self._due:
                self._process = subprocess.Popen(self._command, env=self._environment, preexec_fn=_end_with_us)
            return None
        if (code := self._process.poll()) is None:
            return None
        self._process = None
        self._due = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _PAUSE_S[1])
        return code

    def is_ready(self) -> bool:
        """Whether it says so."""
        if self._process is None:
            return False
        try:
            with urllib.request.urlopen(self._page, timeout=_PROBE_S):  # noqa: S310  our own page
                self._pause_s = _PAUSE_S[0]
                return True
        except (OSError, urllib.error.URLError):
            return False

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def end(self, seconds: float) -> int:
        """Its exit code, if need be after SIGKILL."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _end_with_us() -> None:
    """In the new process: SIGTERM when the supervisor's main thread ends."""
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    os.setpgid(0, 0)  # a Ctrl-C is the supervisor's, which asks everybody
