"""A run that can go on where it was: the users' state, the events whose time has not come, and the place in it."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from simulator.errors import BadWorld
from simulator.reacting import Happened
from simulator.world import State, WorldSpec

FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """How far a run is: requests `done`, events `published`, and the number of the next `part` of the truth's files."""

    done: int = 0
    published: int = 0
    part: int = 0


@dataclass
class Waiting:
    """Events that have happened in the world and are not known to be on the log.

    `columns`: as `Happened`, without its row and slot; `position` int64 from 1, `surface`, `device` int64, and the
    `request_id` uint64 that it answers.
    """

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["time_us"])

    def split(self, until_us: int) -> tuple["Waiting", "Waiting"]:
        """(those up to a time, in its order; the later ones)."""
        order = np.argsort(self.columns["time_us"], kind="stable")
        cut = int(np.searchsorted(self.columns["time_us"][order], until_us, side="right"))
        taken, left = order[:cut], order[cut:]
        return (
            Waiting({name: each[taken] for name, each in self.columns.items()}),
            Waiting({name: each[left] for name, each in self.columns.items()}),
        )

    def with_more(self, more: "Waiting") -> "Waiting":
        """Both."""
        return Waiting({name: np.concatenate([each, more.columns[name]]) for name, each in self.columns.items()})


NAMES = (*(each.name for each in fields(Happened) if each.name not in ("row", "slot")), "position", "surface", "device")
TYPES = {"value": np.float32, "event_id": np.uint64, "request_id": np.uint64}


def nothing_waiting() -> Waiting:
    """No events."""
    return Waiting({name: np.empty(0, TYPES.get(name, np.int64)) for name in (*NAMES, "request_id")})


def fingerprint(spec: WorldSpec) -> str:
    """Of everything that makes the world, but for the time at which it starts."""
    made = {**asdict(spec), "profile": spec.profile.model_dump(mode="json"), "start_us": 0}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def save(path: Path, spec: WorldSpec, state: State, waiting: Waiting, progress: Progress) -> None:
    """Replace the saved run; a kill at any moment leaves the former or this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    note = {"format": FORMAT, "world": fingerprint(spec), "start_us": spec.start_us, **asdict(progress)}
    with aside.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            note=np.array(json.dumps(note)),
            **{f"state_{each.name}": getattr(state, each.name) for each in fields(State)},
            **{f"waiting_{name}": column for name, column in waiting.columns.items()},
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def start_of(path: Path) -> int | None:
    """When the saved run's world began, us; None if there is no saved run.

    Raises:
        BadWorld: the file is damaged.
    """
    return int(str(_note(path)["start_us"])) if path.exists() else None


def load(path: Path, spec: WorldSpec) -> tuple[State, Waiting, Progress]:
    """The saved run of this very world.

    Raises:
        BadWorld: another world's, another version's, or damaged.
    """
    note = _note(path)
    if note["format"] != FORMAT or note["world"] != fingerprint(spec):
        raise BadWorld(f"{path}: is a run of another world; give its options again, another --seed, or --fresh")
    with np.load(path) as saved:
        state = State(**{each.name: saved[f"state_{each.name}"] for each in fields(State)})
        waiting = Waiting({name: saved[f"waiting_{name}"] for name in (*NAMES, "request_id")})
    return state, waiting, Progress(*(int(str(note[each.name])) for each in fields(Progress)))


def _note(path: Path) -> dict[str, int | str]:
    try:
        with np.load(path) as saved:
            found: dict[str, int | str] = json.loads(str(saved["note"]))
            return found
    except (OSError, ValueError, KeyError) as exc:
        raise BadWorld(f"{path}: is no saved run ({exc}); remove it, or give --fresh") from exc
