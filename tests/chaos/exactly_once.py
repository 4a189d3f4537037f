"""Features and archiver killed at every named place, stopped and replaced, on real Kafka: nothing lost, nothing double.

`make chaos-features SEED=n` runs it whole; `tests/chaos/test_exactly_once.py` runs it short.
"""

import argparse
import json
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chaos.checks import Verdict, Watcher, await_saved, check_archive, check_state
from chaos.killing import NAMES, Kills, Tell, kill_at_all, zombies
from chaos.world import NAME, Failed, World
from stores.online import open_online

_RATE: Final = 300.0  # a second while processes die: they and Kafka share two cores


@dataclass(frozen=True)
class Plan:
    """How much of it."""

    seed: int
    kills: int = 72  # each place four times
    events: int = 200_000
    zombies: int = 10
    stop_s: float = 60.0


def run(plan: Plan, folder: Path, tell: Tell) -> dict[str, Any]:
    """The whole run in an empty folder; what it found, with `kills lost duplicates state_mismatches zombie_clean seed`.

    Raises:
        Failed: a process did not do what its place in the run asks for.
    """
    began = time.monotonic()
    chance = random.Random(plan.seed)  # noqa: S311  a schedule
    verdict = Verdict()
    with World(folder, plan.seed) as world:
        tell(f"Kafka is up; seed {plan.seed}, in {folder}")
        store = open_online(NAME, 1, valkey=None, lmdb_path=folder / "data" / "online")
        watcher = Watcher(store)
        watcher.start()
        world.publish(_RATE)
        kills = kill_at_all(world, plan.kills, chance, tell)
        woken, (features, archiver) = zombies(world, plan.zombies, plan.stop_s, chance, tell)
        world.end_publishing(plan.events)
        tell(f"{world.acknowledged()} records acknowledged; both catch up")
        await_saved(world, features)
        archiver.flush()
        codes = {"features": features.stop(), "archiver": archiver.stop()}
        watcher.stop()
        tell("comparing with an undisturbed run, and with the batch oracle")
        check_archive(world, verdict)
        check_state(world, store, verdict)
        store.close()
        verdict.add("state_mismatches", len(watcher.steps_back), f"rows went back: {watcher.steps_back[:3]}")
        verdict.add(
            "state_mismatches", sum(code != 0 for code in codes.values()), f"the last owners ended with {codes}"
        )
        events = world.acknowledged()
    return {
        "kills": kills.total,
        "lost": verdict.lost,
        "duplicates": verdict.duplicates,
        "state_mismatches": verdict.state_mismatches + verdict.foreign,
        "zombie_clean": sum(zombie.is_clean for zombie in woken),
        "seed": plan.seed,
        "zombies": len(woken),
        "slept_s": round(min((zombie.slept_s for zombie in woken), default=0.0), 1),
        "events": events,
        "places": dict(sorted(kills.hits.items())),
        "not_reached": missing(kills),
        "details": verdict.details,
        "seconds": round(time.monotonic() - began, 1),
        "ran_on": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}",
    }


def missing(kills: Kills) -> list[str]:
    """Places at which nothing was killed."""
    return [name for name in NAMES if not kills.hits[name]]


def holds(plan: Plan, found: dict[str, Any]) -> bool:
    """Whether all that is promised held."""
    nothing = ("lost", "duplicates", "state_mismatches")
    enough = found["kills"] >= plan.kills and found["events"] >= plan.events and found["slept_s"] >= plan.stop_s
    return enough and found["zombie_clean"] == plan.zombies and not any(found[name] for name in nothing)


def main() -> int:
    """The command: progress on stderr, one JSON object as the last line; 1 if anything was lost, double or other."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("seed", int), ("kills", int), ("events", int), ("zombies", int), ("stop-s", float)):
        default = 1 if name == "seed" else getattr(Plan, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--folder", type=Path, help="keep everything here, instead of in a temporary folder")
    asked = parser.parse_args()
    plan = Plan(asked.seed, asked.kills, asked.events, asked.zombies, asked.stop_s)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="millrace-chaos-"))
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended with us

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} s  {line}\n")

    try:
        found = run(plan, folder, tell)
    except Failed as exc:
        tell(f"the run could not be finished (what it wrote is in {folder}): {exc}")
        return 3
    for detail in found["details"]:
        tell(detail)
    is_good = holds(plan, found) and not found["not_reached"]
    if is_good and asked.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        tell(f"what the run wrote is in {folder}")
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
