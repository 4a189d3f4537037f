"""Data-parallel training, and a search for hyper-parameters, on many machines by Ray.

Ray is a dependency group of its own (`ray`), since only this module and `training.on_ray` need it. The caller has
connected (`ray.init`).
"""

import socket
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import ray

from pipelines.deep.heads import Head
from pipelines.deep.inputs import Columns
from pipelines.deep.parallel import Place, world
from pipelines.deep.rankers import DeepRanker, Plan, fit_network
from pipelines.deep.sharding import SHARD_BYTES
from pipelines.deep.trainer import Arrays


def fit_on_ray(
    name: str,
    columns: Columns,
    fit: Arrays,
    valid: Arrays,
    heads: Sequence[Head],
    *,
    processes: int,
    gpus: float = 0,
    plan: Plan | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> DeepRanker:
    """What `rankers.fit_network` gives, trained by `processes` actors that share each batch, `gpus` of each.

    The rows go into Ray's object store once; actors of one machine read the same memory.

    Raises:
        ray.exceptions.RayError: an actor died; without a checkpoint folder that all machines see, nothing is kept.
    """
    actor = ray.remote(_Member).options(num_gpus=gpus)
    members = [actor.remote() for _ in range(processes)]
    address = ray.get(members[0].address.remote())
    what = [ray.put(part) for part in (columns, fit, valid)]
    options = {"plan": plan, "seed": seed, "shard_bytes": shard_bytes}
    trained = [
        member.train.remote(Place(address, rank, processes), name, *what, heads, options)
        for rank, member in enumerate(members)
    ]
    found: DeepRanker = ray.get(trained)[0]
    for member in members:
        ray.kill(member)
    return found


class _Member:
    """One process of the group."""

    def address(self) -> str:
        """host:port where the others meet this one."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def train(
        self,
        place: Place,
        name: str,
        columns: Columns,
        fit: Arrays,
        valid: Arrays,
        heads: Sequence[Head],
        options: dict[str, Any],
    ) -> DeepRanker:
        """The same ranker in each."""
        with world(place) as here:
            return fit_network(name, columns, fit, valid, heads, world=here, **options)


def search_on_ray(
    evaluate: Callable[[dict[str, Any]], float],
    suggest: Callable[[optuna.Trial], dict[str, Any]],
    *,
    trials: int,
    at_once: int,
    seed: int = 0,
) -> optuna.Study:
    """A search for the least `evaluate(settings)`, a loss of validation rows, `at_once` tasks at a time.

    Tried in rounds, told in order: the same seed and `at_once` give the same study, whichever task ends first.

    Args:
        evaluate: runs in a task; must be importable there.
        suggest: settings of a trial.
        trials: how many.
        at_once: of a round.
        seed: of the sampler (TPE).

    Raises:
        ray.exceptions.RayError: an evaluation failed.
    """
    task = ray.remote(evaluate)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    while (left := trials - len(study.trials)) > 0:
        asked = [study.ask() for _ in range(min(left, at_once))]
        losses = ray.get([task.remote(suggest(trial)) for trial in asked])
        for trial, loss in zip(asked, losses, strict=True):
            study.tell(trial, loss)
    return study
