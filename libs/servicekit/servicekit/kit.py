"""What a process gets in one call: JSON logs, one metrics registry, /live /ready /metrics, signals, a drain budget."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector

from servicekit import failpoints, ports
from servicekit.http import Endpoint, HttpServer
from servicekit.logs import configure_logs
from servicekit.security.settings import EdgeSettings
from servicekit.settings import ProcessSettings

if TYPE_CHECKING:
    from servicekit.security.tls import HandshakeWatch


class Readiness:
    """Named conditions: ready when there is at least one, all hold, and the process is not draining. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conditions: dict[str, bool] = {}
        self._closed = False
        self._watchers: list[Callable[[bool], object]] = []

    def expect(self, *names: str) -> None:
        """Name conditions that do not hold yet, so that the first to hold is not taken for all."""
        with self._lock:
            for name in names:
                self._conditions.setdefault(name, False)

    def set(self, name: str, holds: bool) -> None:
        """Say whether a condition holds."""
        with self._lock:
            self._conditions[name] = holds
        self._tell()

    def close(self) -> None:
        """Not ready from now on, whatever is set later."""
        with self._lock:
            self._closed = True
        self._tell()

    def watch(self, callback: Callable[[bool], object]) -> None:
        """Call `callback(is_ready)` now and after each change, from whichever thread made it."""
        with self._lock:
            self._watchers.append(callback)
        callback(self.is_ready)

    @property
    def is_ready(self) -> bool:
        """Whether the process wants traffic."""
        with self._lock:
            return not self._closed and bool(self._conditions) and all(self._conditions.values())

    def conditions(self) -> Mapping[str, bool]:
        """A copy of what is known, for /ready."""
        with self._lock:
            return dict(self._conditions) | ({"not draining": False} if self._closed else {})

    def _tell(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher(self.is_ready)


class Budget:
    """One monotonic budget for all steps of a shutdown."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = clock() + seconds

    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._ends - self._clock())


class Kit:
    """The running process's shared parts. Made by `start`, ended by `close` (or as a context manager)."""

    def __init__(self, name: str, settings: ProcessSettings, http_port: int) -> None:
        self.name = name
        self.settings = settings
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(name)
        self.registry = CollectorRegistry()
        self.stop = threading.Event()
        self.ready = Readiness()
        self._on_stop: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        Gauge(f"{name}_ready", "1 while the process wants traffic.", registry=self.registry).set_function(
            lambda: float(self.ready.is_ready)
        )
        self._http = HttpServer(settings.bind, http_port, self)
        self.http_port = self._http.port

    def post(self, path: str, handler: Endpoint) -> None:
        """Answer POST `path` with the JSON object that `handler()` returns; an error of its is 500 with its text.

        Handlers run in the HTTP server's threads, one call of all handlers at a time.
        """
        self._http.post(path, handler)

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Call `callback` (from another thread) when the process is asked to stop; at once if it already was."""
        with self._lock:
            if not self.stop.is_set():
                self._on_stop.append(callback)
                return
        callback()

    def request_stop(self, why: str) -> None:
        """Ask the process to drain and end. Repeats change nothing."""
        with self._lock:
            if self.stop.is_set():
                return
            self.stop.set()
            callbacks = list(self._on_stop)
        self.log.info("stopping", why=why)
        for callback in callbacks:
            callback()

    def drain(self, budget_s: float) -> Budget:
        """Begin to drain: not ready from now on. All steps that follow share the returned budget."""
        self.ready.close()
        self.log.info("draining", budget_s=budget_s)
        return Budget(budget_s)

    def close(self) -> None:
        """Stop the HTTP server, last of all. Idempotent."""
        self._http.close()

    def __enter__(self) -> "Kit":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def start(name: str, settings: ProcessSettings, *, signals: bool = True) -> Kit:
    """Logs, metrics, HTTP endpoints and signal handling of the process `name`.

    The HTTP port is `settings.metrics_port`, else the process's own of `servicekit.ports` plus the offset.
    SIGTERM and SIGINT set `kit.stop`; a second one ends the process at once. `signals=False` leaves them and
    stderr alone (tests).

    Raises:
        OSError: the port is taken; the message names it.
    """
    failed_handshakes = _handshake_watch(settings) if signals else None
    configure_logs(name, settings.log_level)
    failpoints.arm(settings.failpoint)
    http_port = settings.metrics_port if settings.metrics_port is not None else settings.port(ports.METRICS[name])
    kit = Kit(name, settings, http_port)
    if failed_handshakes is not None:
        counter = Counter(f"{name}_failed_handshakes", "TLS handshakes that failed.", ["reason"], registry=kit.registry)
        failed_handshakes.start(lambda reason: counter.labels(reason).inc())
    if signals:
        _handle_signals(kit)
    kit.log.info("started", http_port=kit.http_port, env=settings.env, pid=os.getpid())
    return kit


def _handshake_watch(settings: ProcessSettings) -> "HandshakeWatch | None":
    """Takes stderr over where failed handshakes are to be counted; before logs are written there."""
    if not isinstance(settings, EdgeSettings) or settings.tls_certificate is None:
        return None
    from servicekit.security.tls import HandshakeWatch

    return HandshakeWatch()


def _handle_signals(kit: Kit) -> None:
    """Set `kit.stop` from a thread of its own.

    The handler itself only writes a byte: `Event.set` takes a lock that the interrupted main thread may hold in
    `Event.wait`, and would wait for itself.
    """
    read_end, write_end = os.pipe()

    def handle(signum: int, _frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second one ends the process at once
        with contextlib.suppress(OSError):
            os.write(write_end, bytes([signum]))

    def watch() -> None:
        while signum := os.read(read_end, 1):
            kit.request_stop(signal.Signals(signum[0]).name)

    threading.Thread(target=watch, name="signals", daemon=True).start()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, handle)
