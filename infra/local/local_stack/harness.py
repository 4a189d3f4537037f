"""The whole stack as tests drive it: by the command that people type, in a home and at a port offset of its own."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_stack import process
from local_stack.home import Home
from local_stack.ports import SPARE_OFFSETS, Ports, is_free
from local_stack.process import run_files


@dataclass(frozen=True)
class NativeStack:
    """A stack that was brought up: where its state lies, where it listens, and `millrace` to command it.

    `usecases`: names or paths of what it serves; empty means what a stack serves by itself.
    """

    home: Path
    offset: int
    usecases: tuple[str, ...] = ()

    @property
    def environ(self) -> dict[str, str]:
        """Environment in which commands and settings mean this stack."""
        outer = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
        own = {"MILLRACE_HOME": str(self.home), "MILLRACE_PORT_OFFSET": str(self.offset)}
        return {**outer, **own, **({"MILLRACE_USECASES": ",".join(self.usecases)} if self.usecases else {})}

    @property
    def ports(self) -> Ports:
        """Every port of it."""
        return Ports.at(self.offset)

    def address(self, service: str) -> str:
        """`host:port` of a service's gRPC endpoint."""
        return f"127.0.0.1:{self.ports.all()[service]}"

    def metrics(self, service: str) -> str:
        """`host:port` of a service's /live, /ready, /metrics and, of some, /flush."""
        return f"127.0.0.1:{self.ports.all()[f'{service}_metrics']}"

    def flush(self, service: str) -> dict[str, Any]:
        """Have `archiver` or `features` save all that is on the log now; what it answers."""
        asked = urllib.request.Request(f"http://{self.metrics(service)}/flush", method="POST")
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310  our own address
            found: dict[str, Any] = json.load(answer)
            return found

    def millrace(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run `millrace ... --json`; the object on its last line. AssertionError unless it exits with `code`."""
        answer: dict[str, Any] = json.loads(self.said(*arguments, "--json", code=code).splitlines()[-1])
        return answer

    def said(self, *arguments: str, code: int = 0) -> str:
        """Run `millrace ...`; what it prints to people. AssertionError unless it exits with `code`."""
        with self.begun(*arguments) as process:
            stdout, stderr = process.communicate()
        if process.returncode != code:
            raise AssertionError(f"millrace {' '.join(arguments)} exits {process.returncode}: {stdout}{stderr}")
        return stdout

    def begun(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `millrace ...` and return while it runs; stdout and stderr are pipes."""
        program = Path(sys.executable).parent / "millrace"
        return subprocess.Popen(
            [program, *arguments], env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def pids(self) -> dict[str, int | None]:
        """Part to pid, as `status` says; None for what is dead."""
        return {part["name"]: part["pid"] for part in json.loads(self._status())["parts"]}

    def kill(self, name: str) -> None:
        """Kill a part with SIGKILL and wait until it has ended."""
        run = run_files(Home(self.home))[name]
        process.send(run, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while run.process() is not None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} outlived SIGKILL")
            time.sleep(0.01)

    def _status(self) -> str:
        program = Path(sys.executable).parent / "millrace"
        done = subprocess.run([program, "status", "--json"], env=self.environ, capture_output=True, text=True)
        return done.stdout.splitlines()[-1]


@contextmanager
def free_offset() -> Iterator[int]:
    """A port offset that nobody uses, and that no other test session takes while we hold it."""
    for offset in SPARE_OFFSETS:
        with (Path(tempfile.gettempdir()) / f"millrace-offset-{offset}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if all(is_free(port) for port in Ports.at(offset).all().values()):
                yield offset
                return
    raise RuntimeError(f"every port offset of spare stacks, from {SPARE_OFFSETS[0]} on, is taken on this machine")
