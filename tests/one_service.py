"""One of our services as a process of a test, on free ports: started, killed, ended and started again."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from local_stack.ports import Ports
from local_stack.service import without_settings


class OneService:
    """The real process, one life at a time; its lives share a home, ports and a log.

    `address`: host:port of its gRPC endpoint, if it has one. `home`: also the folder of `<module>.log`.
    """

    def __init__(self, module: str, home: Path, **settings: str) -> None:
        """`settings` by their names without MILLRACE_, as `kafka="127.0.0.1:9092"`; home and ports are set."""
        self.module, self.home, ports = module, home, Ports.free().all()
        self._metrics = f"127.0.0.1:{ports[f'{module}_metrics']}"
        self.address = f"127.0.0.1:{ports[module]}" if module in ports else None
        own = {"home": str(home), "metrics_port": self._metrics.rpartition(":")[2], **settings}
        if self.address is not None:
            own["grpc_port"] = self.address.rpartition(":")[2]
        self._environment = without_settings(os.environ) | {f"MILLRACE_{name}".upper(): own[name] for name in own}
        self._log = (home / f"{module}.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a life; it is not ready yet."""
        self.process = subprocess.Popen([sys.executable, "-m", self.module], env=self._environment, stderr=self._log)

    def kill(self) -> None:
        """End it by SIGKILL; AssertionError with the end of its log if it had ended by itself."""
        self._lives().send_signal(signal.SIGKILL)
        self._lives(or_not=True).wait(10)

    def terminate(self) -> int:
        """Drain it; its exit code."""
        self._lives(or_not=True).terminate()
        return self._lives(or_not=True).wait(30)

    def is_ready(self) -> bool:
        """Whether it says so; AssertionError with the end of its log if it has ended."""
        self._lives()
        try:
            with urllib.request.urlopen(f"http://{self._metrics}/ready", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> list[str]:
        """The lines of /metrics."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=5) as answer:
            lines: list[str] = answer.read().decode().splitlines()
            return lines

    def flush(self) -> dict[str, Any]:
        """Have it save all that is on the log; what it answers."""
        asked = urllib.request.Request(f"http://{self._metrics}/flush", method="POST")
        with urllib.request.urlopen(asked, timeout=65) as answer:  # noqa: S310  our own address
            found: dict[str, Any] = json.load(answer)
            return found

    def log_tail(self) -> str:
        """The end of what it has written."""
        return (self.home / f"{self.module}.log").read_text()[-3000:]

    def close(self) -> None:
        """Whatever it does, it ends."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._log.close()

    def _lives(self, *, or_not: bool = False) -> subprocess.Popen[bytes]:
        assert self.process is not None
        assert or_not or self.process.poll() is None, self.log_tail()
        return self.process
