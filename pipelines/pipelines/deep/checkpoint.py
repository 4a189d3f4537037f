"""A training's whole state on disk: written aside and renamed, so that a kill at any line leaves the last one whole."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.deep.parallel import World
from pipelines.errors import TrainingError

KEPT = 2  # the newest, and the one before it


@dataclass(frozen=True)
class Checkpoints:
    """Folder of a training's checkpoints, one folder a step with one file a process, every `every` steps.

    `plan`: what the training is (data, network, recipe, seed) in words; another plan's checkpoints are refused.
    """

    folder: Path
    every: int
    plan: str

    def save(self, step: int, state: dict[str, Any], world: World) -> None:
        """Write `state` of this process; when every process has, the step is there."""
        aside = self.folder / f".{step:010d}"
        aside.mkdir(parents=True, exist_ok=True)
        with (aside / f"{world.rank}.pt").open("wb") as file:
            torch.save({"plan": self.plan, "world": world.size, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        _wait(world)
        if world.first:
            whole = self._at(step)
            shutil.rmtree(whole, ignore_errors=True)  # a training that was killed here and started over
            aside.rename(whole)
            for old in self._steps()[:-KEPT]:
                shutil.rmtree(self._at(old))
        _wait(world)

    def load(self, world: World) -> dict[str, Any] | None:
        """The newest state of this process, or None if there is none.

        Raises:
            TrainingError: of another plan or another number of processes.
        """
        _wait(world)
        steps = self._steps()
        if not steps:
            return None
        path = self._at(steps[-1]) / f"{world.rank}.pt"
        if not path.exists() or len(list(path.parent.iterdir())) != world.size:
            raise TrainingError(f"{path.parent}: is of another number of processes than {world.size}; start as many")
        state: dict[str, Any] = torch.load(path, map_location=world.device, weights_only=True)  # runs no code
        if state["plan"] != self.plan:
            raise TrainingError(f"{path.parent}: is of another training ({state['plan']}); use an empty folder")
        return state

    def _at(self, step: int) -> Path:
        return self.folder / f"{step:010d}"

    def _steps(self) -> list[int]:
        return sorted(int(each.name) for each in self.folder.glob("[0-9]*"))


def _wait(world: World) -> None:
    if world.size > 1:
        dist.barrier()
