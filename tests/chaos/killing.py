"""Kills at named places and zombies: what happens to the processes. What it did to the data, `chaos.checks` says."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.world import NAME, Failed, Worker, World, until
from local_stack import process
from servicekit.failpoints import POINTS
from stores.offline import Lake

Tell = Callable[[str], None]

PART_WRITTEN: Final = "archiver.part_written"
"""A part of a commit lies in the table, no log entry names it: inside delta-rs, so cut when the file is seen."""
NAMES: Final = (*POINTS, PART_WRITTEN)

# The latest of the times that a process comes to a place in which it is killed. A life comes to some only a few times.
_LATEST: Final = {
    "features.leased": 4,
    "features.restored": 4,
    "features.polled": 25,
    "features.folded": 25,
    "features.rows_checked": 20,
    "features.items_checked": 6,
    "features.items_sent": 6,
    "features.emitted": 3,
    "features.checkpoint_written": 6,
    "features.checkpoint_renamed": 6,
    "features.users_evicted": 6,
    "archiver.polled": 12,
    "archiver.before_dead_letters": 3,
    "archiver.dead_letters_sent": 3,
    "archiver.before_commit": 6,
    "archiver.committed": 6,
    "archiver.compacted": 1,
}
_PAUSES: Final = {
    "features": ("features.items_checked", "features.rows_checked", "features.checkpoint_written", "features.folded"),
    "archiver": ("archiver.before_commit", "archiver.dead_letters_sent", "archiver.polled"),
}
_TRIES: Final = 12  # to kill between a part and its log entry
_LOST_THE_LEASE: Final = 3  # their exit code


@dataclass
class Kills:
    """Which places processes were killed at, how often, and what could not be killed there."""

    hits: Counter[str] = field(default_factory=Counter)
    others: int = 0  # killed, but not at the named place
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        """All SIGKILLs."""
        return self.hits.total() + self.others

    def count(self, name: str | None) -> None:
        """One more."""
        with self._lock:
            if name is None:
                self.others += 1
            else:
                self.hits[name] += 1


def kill_at_all(world: World, wanted: int, chance: random.Random, tell: Tell) -> Kills:
    """At least `wanted` kills, shared out over all places, while events flow: one life after the other of each service.

    Raises:
        Failed: a process did not come to its place, or ended otherwise.
    """
    kills = Kills()
    names = _schedule(wanted, chance)
    drawn = random.Random(chance.random())  # noqa: S311  a schedule
    problems: list[BaseException] = []

    def lives(service: str) -> None:
        try:
            for name in [each for each in names if each.startswith(f"{service}.")]:
                if problems:
                    return
                began = time.monotonic()
                if name == PART_WRITTEN:
                    how = _kill_at_part(world, kills)
                else:
                    how = _kill(world, name, drawn.randint(1, _LATEST[name]), kills)
                tell(f"kill {kills.total}/{wanted} {how} ({time.monotonic() - began:.1f} s)")
        except BaseException as exc:  # noqa: BLE001  raised again by the thread that waits
            problems.append(exc)

    threads = [threading.Thread(target=lives, args=(service,), name=service) for service in ("features", "archiver")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return kills


def _schedule(wanted: int, chance: random.Random) -> list[str]:
    names: list[str] = []
    while len(names) < wanted:
        names += chance.sample(NAMES, len(NAMES))
    return names[:wanted]


def _kill(world: World, name: str, count: int, kills: Kills) -> str:
    failpoint = f"{name}:{count}:kill"
    if name == "archiver.compacted":
        until(lambda: Lake(world.home.root / "lake", NAME).version("interactions") is not None, "a table to compact")
        worker = Worker(world, "archiver.compaction", failpoint=failpoint)
    else:
        worker = Worker(world, name.split(".")[0], failpoint=failpoint)
    if (code := worker.await_end()) != -signal.SIGKILL:
        raise Failed(f"{worker} ended with {code}: {worker.run.tail()}")
    kills.count(name)
    return failpoint


def _kill_at_part(world: World, kills: Kills) -> str:
    """Kill the archiver when a new file of a table is seen; it counts if no log entry names a part."""
    for _ in range(_TRIES):
        worker = Worker(world, "archiver")
        worker.await_ready()
        table = world.home.root / "lake" / NAME / "interactions"
        until(table.exists, "a table")
        before = set(_parts(table))
        due = time.monotonic() + 30
        while not set(_parts(table)) - before and time.monotonic() < due:
            time.sleep(0.0005)  # from the first file to the log entry it takes milliseconds
        worker.send(signal.SIGKILL)
        if (code := worker.await_end()) != -signal.SIGKILL:
            raise Failed(f"{worker} ended with {code}: {worker.run.tail()}")
        named = "".join(path.read_text() for path in (table / "_delta_log").glob("*.json"))
        if any(Path(part).name.split("#")[0] not in named for part in set(_parts(table)) - before):
            kills.count(PART_WRITTEN)
            return PART_WRITTEN
        kills.count(None)
    raise Failed(f"the archiver was killed {_TRIES} times when a part was seen, and each commit was whole already")


def _parts(table: Path) -> Iterator[str]:
    for folder in os.scandir(table):
        if folder.is_dir() and folder.name != "_delta_log":
            yield from (entry.path for entry in os.scandir(folder.path) if ".parquet" in entry.name)


@dataclass
class Zombie:
    """A process that was stopped at a place, and replaced."""

    worker: Worker
    stopped_at: float
    slept_s: float = 0.0
    exit_code: int | None = None

    @property
    def is_clean(self) -> bool:
        """It ended by itself, because another owns what it owned."""
        return self.exit_code == _LOST_THE_LEASE


def zombies(
    world: World, wanted: int, stop_s: float, chance: random.Random, tell: Tell
) -> tuple[list[Zombie], Sequence[Worker]]:
    """Stop `wanted` owners one after the other, each replaced by the next, and continue each after `stop_s`.

    All sleep at the same time; each one's successor has its lease before it wakes. The last owners, one a service,
    are returned and run on.
    """
    stopped: dict[str, list[Zombie]] = {"features": [], "archiver": []}
    for number in range(wanted):
        service = "archiver" if number % 3 == 2 else "features"
        places = _PAUSES[service]
        name = places[len(stopped[service]) % len(places)]
        worker = Worker(world, service, failpoint=f"{name}:{chance.randint(1, min(6, _LATEST[name]))}:pause")
        worker.await_stopped()
        stopped[service].append(Zombie(worker, time.monotonic()))
        tell(f"zombie {number + 1}/{wanted} stopped: {worker}")
    owners = [Worker(world, service) for service in stopped]
    for owner in owners:
        owner.await_ready()
        owner.flush()  # an archiver owns what it has written: the first commit after the sleep would decide otherwise
    found = sorted([*stopped["features"], *stopped["archiver"]], key=lambda each: each.stopped_at)
    for zombie in found:
        until(lambda zombie=zombie: time.monotonic() - zombie.stopped_at >= stop_s, "its sleep", stop_s + 10)  # type: ignore[misc]
        if not process.is_stopped(zombie.worker.run):
            raise Failed(f"{zombie.worker} did not stay stopped")
        zombie.slept_s = time.monotonic() - zombie.stopped_at
        zombie.worker.send(signal.SIGCONT)
    for number, zombie in enumerate(found):
        zombie.exit_code = zombie.worker.await_end(60)
        tell(
            f"zombie {number + 1}/{wanted} slept {zombie.slept_s:.1f} s, ended with {zombie.exit_code}: {zombie.worker}"
        )
    return found, owners
