"""The gateway's side of the process that writes its impressions."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Self

import structlog

from gateway.ring import Ring

LOOK_S: Final = 0.5  # whether it lives, and what it has lost

log = structlog.get_logger(__name__)


class ImpressionProcess:
    """A ring, and the process that writes its records; `lost` is told how many it could not hand on.

    `command` gets the ring's file descriptor as its last argument.
    """

    def __init__(self, command: Sequence[str], lost: Callable[[int], None]) -> None:
        self._fd = Ring.made()
        self.ring = Ring(self._fd)
        self._command = [*command, "--ring", str(self._fd)]
        self._lost = lost
        self._told = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="impressions", daemon=True)

    @classmethod
    def of(cls, kafka: str, usecases: Sequence[str], log_level: str, lost: Callable[[int], None]) -> Self:
        """One that writes to Kafka; sources are the use cases' numbers."""
        module = [sys.executable, "-m", "gateway.impression_writer"]
        return cls([*module, "--kafka", kafka, "--usecases", ",".join(usecases), "--log-level", log_level], lost)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Begin to write."""
        self._begin()
        self._watcher.start()

    def close(self, timeout_s: float) -> None:
        """Have it write and flush what there is, for at most `timeout_s`."""
        if self._child is None:
            return
        ends = time.monotonic() + timeout_s
        self._closing.set()
        self._watcher.join(timeout_s)
        self.ring.close(timeout_s)
        try:
            self._child.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("impressions not written in time", bytes=self.ring.waiting)
            self._child.kill()
        self._end(self._child)
        self._child = None
        os.close(self._fd)
        self._tell()

    def _begin(self) -> None:
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, pass_fds=(self._fd,))

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_S):
            self._tell()
            if self._child is not None and (code := self._child.poll()) is not None:
                log.error("the writer of impressions has ended, and is started again", exit=code)
                self._end(self._child)
                self._begin()

    @staticmethod
    def _end(child: "subprocess.Popen[bytes]") -> None:
        child.wait()
        if child.stdin is not None:
            child.stdin.close()

    def _tell(self) -> None:
        lost = self.ring.lost
        if lost > self._told:
            self._lost(lost - self._told)
            self._told = lost
