"""Runs a world against a policy in process and keeps what was shown and done, in an order of its own."""

import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from simulator.errors import BadWorld
from simulator.policies import Serving
from simulator.reacting import Happened, Outcomes, Slates, chances, react
from simulator.world import Floats, Ints, Requests, State, World, WorldSpec

Columns = TypeVar("Columns", Requests, Slates, Happened)

_BATCH: Final = 512  # users at once: enough for numpy, small enough for the cache


@dataclass(frozen=True)
class Kept:
    """Requests with what was shown and what came of it; rows by user, then ordinal.

    Of n requests: `requests`, `slates` (n, L), `examined`, `click`, `utility` float64 (n, L), `clicked` bool (n, L),
    `happened`: events by user, time, event; its `row` is the place of the request here. Where the truth was asked for,
    `interests` float64 (n, D) of the user before the request and `attraction` float64 (n, K) of each candidate, for who
    looks at it; else both have no columns.
    """

    requests: Requests
    slates: Slates
    examined: Floats
    click: Floats
    utility: Floats
    clicked: npt.NDArray[np.bool_]
    interests: Floats
    attraction: Floats
    happened: Happened

    def __len__(self) -> int:
        return len(self.requests)

    def digest(self) -> str:
        """SHA-256 of every array, as hex: equal if and only if all bits are."""
        found = hashlib.sha256()
        for array in _arrays(self):
            found.update(str((array.dtype.str, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def run(
    spec: WorldSpec,
    policy: Serving,
    requests_each: int,
    *,
    users: range | None = None,
    batch: int = _BATCH,
    workers: int = 1,
    truth: bool = False,
) -> Kept:
    """Serve each user `requests_each` times. Batch and workers change how fast it is, and nothing else.

    Args:
        policy: asked in worker processes too, so it must be picklable where there are several.
        users: which, all if None.
        truth: keep each candidate's attraction and the users' interests too; half the speed.

    Raises:
        BadWorld: a number is out of range.
    """
    chosen = users if users is not None else range(spec.users)
    if requests_each < 1 or batch < 1 or workers < 1 or not chosen or chosen[-1] >= spec.users:
        raise BadWorld(f"run: requests_each, batch and workers from 1, users below {spec.users}, at least one")
    parts = [chosen[begin : begin + batch] for begin in range(0, len(chosen), batch)]
    if workers == 1:
        world = World(spec)
        return joined([simulate(world, world.begin(), policy, part, requests_each, truth=truth) for part in parts])
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads' locks
    with ProcessPoolExecutor(workers, context) as pool:
        shares = [
            pool.submit(_serve_all, spec, policy, parts[n::workers], requests_each, truth) for n in range(workers)
        ]
        return joined([part for share in shares for part in share.result()])


def simulate(
    world: World,
    state: State,
    policy: Serving,
    users: range,
    requests_each: int,
    *,
    truth: bool,
) -> Kept:
    """Serve these users together, `requests_each` times each; `state` goes on with them."""
    chosen = np.arange(users.start, users.stop, users.step)
    rounds = []
    for _ in range(requests_each):
        requests = world.requests(state, chosen)
        interests = attraction = np.empty((len(requests), 0))
        if truth:
            interests = state.interests[chosen].copy()
            attraction = chances(world, state, requests, requests.candidates, np.ones(1, np.int64)).attraction
        slates = policy.serve(requests)
        rounds.append(_kept(requests, slates, react(world, state, requests, slates), interests, attraction))
    return joined(rounds)


def joined(parts: list[Kept]) -> Kept:
    """One log of several, in the order that `Kept` promises."""
    shifts = np.cumsum([0, *(len(part) for part in parts)])
    requests = _stacked([part.requests for part in parts])
    order = np.lexsort((requests.ordinal, requests.user))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    events = _stacked([part.happened for part in parts])
    row = place[np.concatenate([part.happened.row + shift for part, shift in zip(parts, shifts[:-1], strict=True)])]
    by_time = np.lexsort((events.event_id, events.time_us, events.user))
    columns = {each.name: getattr(events, each.name)[by_time] for each in fields(Happened)}
    plain = ("examined", "click", "utility", "clicked", "interests", "attraction")
    return Kept(
        requests=_taken(requests, order),
        slates=_taken(_stacked([part.slates for part in parts]), order),
        **{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in plain},
        happened=Happened(**{**columns, "row": row[by_time]}),
    )


def _kept(requests: Requests, slates: Slates, outcomes: Outcomes, interests: Floats, attraction: Floats) -> Kept:
    truth = outcomes.chances
    return Kept(
        requests, slates, truth.examined, truth.click, truth.utility, outcomes.clicked, interests, attraction,
        outcomes.happened,
    )  # fmt: skip


def _stacked(parts: list[Columns]) -> Columns:
    first = parts[0]
    return type(first)(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(first)))


def _taken(columns: Columns, rows: Ints) -> Columns:
    return type(columns)(*(getattr(columns, each.name)[rows] for each in fields(columns)))


def _arrays(columns: object) -> list[npt.NDArray[np.generic]]:
    found: list[npt.NDArray[np.generic]] = []
    for each in fields(columns):  # type: ignore[arg-type]  # a dataclass, as all that is kept
        value = getattr(columns, each.name)
        found += [value] if isinstance(value, np.ndarray) else _arrays(value)
    return found


def _serve_all(spec: WorldSpec, policy: Serving, parts: list[range], requests_each: int, truth: bool) -> list[Kept]:
    """What a worker process does: one world, several parts."""
    world = World(spec)
    return [simulate(world, world.begin(), policy, part, requests_each, truth=truth) for part in parts]
