"""Starts and stops one process of the stack: own process group, output in a file, identity in `run/<name>.json`."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from local_stack.component import Component
from local_stack.errors import DamagedState, StartFailed
from local_stack.home import Home
from local_stack.probes import Probe, wait

STACK_FILE = "stack.json"  # in the same folder, but of the whole stack
_TAIL_LINES = 25
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class RunFile:
    """What is kept of a started process. Pid and start time must both match: pids are used again."""

    name: str
    pid: int
    started: str  # `start_mark` of the process
    started_at: float  # seconds since the epoch
    wave: int
    ports: dict[str, int]
    probe: Probe
    stop_s: float
    log: str
    fingerprint: str  # of the component that it was started from

    @classmethod
    def read(cls, path: Path) -> "RunFile":
        """The file's content; DamagedState if it is not one of ours."""
        try:
            content = json.loads(path.read_text())
            return cls(**{**content, "probe": Probe(**content["probe"])})
        except (TypeError, KeyError, ValueError) as exc:
            raise DamagedState(f"{path} is not a run file ({exc}): remove it") from exc

    def write(self, folder: Path) -> None:
        """Keep it as `<name>.json`, whole or not at all."""
        aside = folder / f".{self.name}.json.tmp"
        aside.write_text(json.dumps(asdict(self), indent=1))
        aside.rename(folder / f"{self.name}.json")

    def process(self) -> psutil.Process | None:
        """The living process, or None if it ended (or its pid is now another's)."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE or start_mark(self.pid) != self.started:
                return None
        except psutil.NoSuchProcess:
            return None
        return process

    def tail(self) -> str:
        """The last lines of its output."""
        path = Path(self.log)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-_TAIL_LINES:])


def start_mark(pid: int) -> str:
    """When the process started, in ticks of this boot: unlike a time of day, no adjusted clock moves it.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{_BOOT_ID.read_text().strip()}/{after_name[19]}"
    except (FileNotFoundError, ProcessLookupError):
        return str(psutil.Process(pid).create_time())  # no /proc here, or no such process


# By pid and start mark: ours to reap, when the process that starts also stops.
_children: dict[tuple[int, str], subprocess.Popen[bytes]] = {}


def start(component: Component, home: Home, inherited: Mapping[str, str]) -> RunFile:
    """Prepare and start `component`; it is not ready yet. Its earlier log is kept as `<name>.log.1`."""
    component.prepare()
    log = home.log / f"{component.name}.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with log.open("wb") as output:
        child = subprocess.Popen(
            component.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **component.environment()},
            start_new_session=True,
        )
    if component.nice:
        with contextlib.suppress(ProcessLookupError):  # it ended already, and its probe will say so
            stand_behind(child.pid, component.nice)
    started = start_mark(child.pid)
    _children[child.pid, started] = child
    run = RunFile(
        name=component.name,
        pid=child.pid,
        started=started,
        started_at=time.time(),
        wave=component.wave,
        ports=dict(component.ports),
        probe=component.probe,
        stop_s=component.stop_s,
        log=str(log),
        fingerprint=component.fingerprint(),
    )
    run.write(home.run)
    return run


def stand_behind(pid: int, nice: int) -> None:
    """Lower the priority of a process that leads its session, at once: the threads that it starts later inherit it."""
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    # Where Linux schedules by session (autogroup), a nice value counts within the session only, and each part has one
    # of its own: there the session's value is what orders the parts.
    with contextlib.suppress(OSError):  # not Linux, or a kernel without it
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def run_files(home: Home) -> dict[str, RunFile]:
    """Every run file of `home`, by name; the process of some may have ended."""
    files = [path for path in home.run.glob("*.json") if path.name != STACK_FILE]
    return {run.name: run for run in map(RunFile.read, files)}


def await_ready(run: RunFile, start_s: float, *, wanted: Callable[[], bool] = lambda: True) -> None:
    """Wait for the probe; StartFailed when the process ended or the time is up, with the tail of its log.

    The wait also ends, without a word, once `wanted` says no: another part has failed.
    """
    reason = wait(run.probe, start_s, alive=lambda: wanted() and run.process() is not None)
    if reason is not None and wanted():
        late = "" if reason == "it ended" else f" within {start_s:.0f} s"
        raise StartFailed(f"{run.name} is not ready{late}: {reason}. End of {run.log}:\n{run.tail()}")


def send(run: RunFile, signum: signal.Signals) -> bool:
    """Signal the process, which a test kills, stops or continues so; False if it has ended already."""
    if run.process() is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.pid, signum)
        return True
    return False


def is_stopped(run: RunFile) -> bool:
    """Whether a SIGSTOP holds the process."""
    found = run.process()
    return found is not None and found.status() == psutil.STATUS_STOPPED


def exit_code(run: RunFile) -> int | None:
    """How a process that this one started has ended, -9 for SIGKILL; None while it lives, and of another's."""
    child = _children.get((run.pid, run.started))
    return None if child is None else child.poll()


def stop(run: RunFile, home: Home) -> bool:
    """End the process and its whole group; True if it ended within its budget, False if it had to be killed."""
    in_time = True
    if (process := run.process()) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGTERM)
        in_time = _ended(run, run.stop_s)
        if not in_time:
            process.kill()
    _kill_group(run)
    _ended(run, 10.0)
    if (child := _children.pop((run.pid, run.started), None)) is not None:
        child.wait(timeout=10)
    (home.run / f"{run.name}.json").unlink(missing_ok=True)
    return in_time


def _ended(run: RunFile, budget_s: float) -> bool:
    deadline = time.monotonic() + budget_s
    while run.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def running(component: Component, home: Home, inherited: Mapping[str, str]) -> Iterator[RunFile]:
    """`component` alone, ready, its download fetched before if it is not there; it ends with the block.

    Raises:
        StackError: it cannot be fetched or started, or is not ready within its `start_s`.
    """
    home.make()
    if component.download and not component.download.exists():
        component.fetch()
    run = start(component, home, inherited)
    try:
        await_ready(run, component.start_s)
        yield run
    finally:
        stop(run, home)


def members(run: RunFile) -> list[psutil.Process]:
    """The living processes of the session that the process leads or led."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if start_mark(run.pid) != run.started:
            return []  # the pid is another process's now: it cannot be while a member of the old session lives
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == run.pid:
                found.append(process)
    return found


def _kill_group(run: RunFile) -> None:
    for process in members(run):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
