"""Brings the stack up, takes it down, says how it is. Not resident: processes outlive the command that starts them."""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from threading import Event

import psutil

from local_stack import identity, process
from local_stack.component import Component
from local_stack.errors import AnotherAtWork, PortBusy
from local_stack.home import Home
from local_stack.plan import Options, Plan, after_cassandra, after_kafka, make_plan
from local_stack.ports import holder, is_free
from local_stack.probes import Probe
from local_stack.process import RunFile
from local_stack.service import without_settings
from local_stack.state import StackState

Tell = Callable[[str, str], None]  # name of the part, what happens to it


@dataclass(frozen=True)
class Up:
    """What `up` did: seconds from its start until each part was ready, and what was running before."""

    plan: Plan
    seconds: float
    ready_s: dict[str, float]
    kept: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Part:
    """One row of `status`. `state` is "ready", "not ready", "dead" or, for what somebody else runs, "given"."""

    name: str
    state: str
    detail: str
    pid: int | None
    ports: dict[str, int]
    uptime_s: float | None
    rss_bytes: int | None


@dataclass(frozen=True)
class Status:
    """The stack as it is; `healthy` if every part works. `profile` is None when no stack is up."""

    profile: str | None
    healthy: bool
    parts: list[Part]


def up(options: Options, tell: Tell) -> Up:
    """Start what is missing, in waves, and wait until everything works.

    Raises:
        StackError: names the part and the remedy. What has started stays: a repeat continues, `down` removes it.
    """
    begun = time.monotonic()
    home = options.home
    home.make()
    with _lock(home):
        state = _living(StackState.read(home))
        plan = make_plan(options, state)
        runs = state.runs if state else process.run_files(home)
        _refuse_busy_ports([part for part in plan.components if not _lives(runs, part)])
        _fetch(plan.components, tell)
        notes = list(plan.notes)
        changed = {name for name, run in runs.items() if run.fingerprint != _fingerprints(plan).get(name)}
        if foreign := identity.is_foreign(home, plan.log_id):
            changed |= {run.name for run in runs.values() if run.wave > 1} | ({"valkey"} & set(runs))
        dead = {name for name, run in runs.items() if run.process() is None}
        _stop_all([runs[name] for name in changed | dead], home, tell)
        if foreign:
            notes += _set_aside(options)
        identity.adopt(home, plan.log_id)
        kept = sorted(set(runs) - changed - dead)
        _write_state(home, options, plan, notes)
        ready_s = _start_waves(options, plan, {name: runs[name] for name in kept}, tell, begun)
    return Up(plan, time.monotonic() - begun, ready_s, kept, notes)


def down(home: Home, tell: Tell) -> list[str]:
    """Stop every process of `home`, last wave first; returns the names of those that had to be killed."""
    home.make()
    with _lock(home):
        killed = _stop_all(list(process.run_files(home).values()), home, tell)
        (home.run / process.STACK_FILE).unlink(missing_ok=True)
    return killed


def stop(home: Home, name: str, tell: Tell) -> None:
    """Stop one part of the stack, which the next `up` brings back; nothing if it does not run."""
    home.make()
    with _lock(home):
        _stop_all([run for run in process.run_files(home).values() if run.name == name], home, tell)


def status(home: Home) -> Status:
    """Ask every part that `up` promised."""
    state = StackState.read(home)
    if state is None:
        return Status(profile=None, healthy=False, parts=[])
    with ThreadPoolExecutor(max_workers=8) as pool:
        own = pool.map(lambda name: _part(name, state.runs.get(name)), state.parts)
        given = pool.map(lambda item: _given_part(item[0], Probe(**item[1])), state.given.items())
        parts = [*given, *own]
    return Status(state.profile, all(part.state in ("ready", "given") for part in parts), parts)


@contextmanager
def _lock(home: Home) -> Iterator[None]:
    with (home.run / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherAtWork(f"another `millrace up` or `down` works on {home.root}: wait until it ends") from None
        yield


def _living(state: StackState | None) -> StackState | None:
    """The state, unless nothing of it lives any more (a reboot, say): then the next start decides everything anew."""
    return state if state and any(state.alive(name) for name in state.runs) else None


def _lives(runs: dict[str, RunFile], part: Component) -> bool:
    run = runs.get(part.name)
    return run is not None and run.process() is not None


def _refuse_busy_ports(parts: Sequence[Component]) -> None:
    """PortBusy naming every port that is held, by whom, and what needs it."""
    busy = [
        f"port {port} ({part.name} {label}) is held by {holder(port)}"
        for part in parts
        for label, port in part.ports.items()
        if not is_free(port)
    ]
    if busy:
        raise PortBusy("; ".join(busy) + ". End that process, or set MILLRACE_PORT_OFFSET to another multiple of 100")


def _fetch(parts: Sequence[Component], tell: Tell) -> None:
    def fetch(part: Component) -> None:
        tell(part.name, "fetching")
        part.fetch()
        tell(part.name, "fetched")

    absent = [part for part in parts if part.download and not part.download.exists()]
    _all_at_once([lambda part=part: fetch(part) for part in absent])  # type: ignore[misc]


def _fingerprints(plan: Plan) -> dict[str, str]:
    return {part.name: part.fingerprint() for part in plan.components}


def _set_aside(options: Options) -> list[str]:
    """Move what another log left, and say so; nothing if there was none."""
    former = identity.state_log_id(options.home) or "unknown"
    folder = identity.set_aside(options.home)
    address = options.given("valkey")
    renamed = identity.set_aside_rows(address, former) if address else 0
    what = [f"its rows and checkpoints are in {folder}"] if folder else []
    what += [f"{renamed} rows are renamed in Valkey"] if renamed else []
    return [f"the log is another one than before: {', '.join(what)}; Delta is kept"] if what else []


def _write_state(home: Home, options: Options, plan: Plan, notes: list[str]) -> None:
    StackState(
        profile=plan.profile,
        why=plan.why,
        log_id=plan.log_id,
        offset=options.offset,
        parts=[part.name for part in plan.components],
        given={name: {"kind": probe.kind, "target": probe.target} for name, probe in plan.given.items()},
        notes=notes,
        runs={},
    ).write(home)


def _start_waves(options: Options, plan: Plan, kept: dict[str, RunFile], tell: Tell, begun: float) -> dict[str, float]:
    """Start each wave side by side, the next one when all of it works. Returns seconds until each part was ready."""
    home = options.home
    inherited = without_settings(options.environ)
    failed = Event()
    ready_s: dict[str, float] = {}

    def bring(part: Component) -> None:
        try:
            run = kept.get(part.name)
            if run is None:
                tell(part.name, "starting")
                run = process.start(part, home, inherited)
            process.await_ready(run, part.start_s, wanted=lambda: not failed.is_set())
            if not failed.is_set():
                part.after()
                ready_s[part.name] = round(time.monotonic() - begun, 2)
                tell(part.name, "ready")
        except Exception:
            failed.set()  # the others need not wait to their deadlines
            tell(part.name, "failed")
            raise

    hooks = {"kafka": lambda: after_kafka(options, str(options.given("kafka")))}
    hooks["cassandra"] = lambda: after_cassandra(str(options.given("cassandra")))
    _all_at_once([hooks[name] for name in plan.given if name in hooks])
    for _, wave in groupby(sorted(plan.components, key=lambda part: part.wave), key=lambda part: part.wave):
        _all_at_once([lambda part=part: bring(part) for part in wave], interrupted=failed)  # type: ignore[misc]
    return ready_s


def _stop_all(runs: Sequence[RunFile], home: Home, tell: Tell) -> list[str]:
    """Stop, last wave first, each wave side by side; returns those that had to be killed."""
    killed: list[str] = []

    def stop(run: RunFile) -> None:
        tell(run.name, "stopping")
        if not process.stop(run, home):
            killed.append(run.name)
        tell(run.name, "killed" if run.name in killed else "stopped")

    for _, wave in groupby(sorted(runs, key=lambda run: -run.wave), key=lambda run: run.wave):
        _all_at_once([lambda run=run: stop(run) for run in wave])  # type: ignore[misc]
    return sorted(killed)


def _all_at_once(tasks: Sequence[Callable[[], object]], *, interrupted: Event | None = None) -> None:
    """Run all side by side, then raise the first failure. Ctrl-C sets `interrupted`, which ends their waits."""
    if not tasks:
        return
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        futures: list[Future[object]] = [pool.submit(task) for task in tasks]
        try:
            wait(futures)
        except KeyboardInterrupt:
            if interrupted:
                interrupted.set()
            raise
    for future in futures:
        future.result()


def _part(name: str, run: RunFile | None) -> Part:
    reason = run.probe.ask() if run and run.process() else None
    if run is None or run.process() is None:  # asked after the probe: it may have ended meanwhile
        detail = (
            f"it ended: see {run.log}; `millrace up` brings it back" if run else "it was not started: `millrace up`"
        )
        return Part(name, "dead", detail, None, run.ports if run else {}, None, None)
    rss = 0
    for member in process.members(run):
        try:
            rss += member.memory_info().rss
        except psutil.NoSuchProcess:  # it ended while we looked
            continue
    uptime_s = max(0.0, time.time() - run.started_at)
    return Part(name, "not ready" if reason else "ready", reason or "", run.pid, run.ports, uptime_s, rss)


def _given_part(name: str, probe: Probe) -> Part:
    reason = probe.ask()
    return Part(name, "dead" if reason else "given", reason or probe.target, None, {}, None, None)
