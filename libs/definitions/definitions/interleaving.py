"""Two rankings as one list, and whose items people took: team-draft interleaving. Pure, the same at every call."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from definitions.rerank import Ordered

Ids = npt.NDArray[np.uint64]
Teams = npt.NDArray[np.int8]

_STREAM = 1  # of the request's own draws; exploration has 0


@dataclass(frozen=True, slots=True)
class Draft:
    """`items` uint64 (k,), best first; `teams` int8 (k,): 0 whose ranking was `one`, 1 `other`.

    `propensities` float32 (k,): that this item got this place, given the draft above it.
    """

    items: Ids
    teams: Teams
    propensities: npt.NDArray[np.float32]


def team_draft(one: Ids, other: Ids, limit: int, request_id: int) -> Draft:
    """Both rankings' best, drafted as captains pick players: who has fewer is next, a coin where both have as many.

    Each team's pick is its best item that the list does not have yet, so neither ranking is at an advantage (Radlinski,
    Kurup, Joachims, How Does Clickthrough Data Reflect Retrieval Quality?, CIKM 2008).

    Args:
        one, other: uint64 (n,), (m,): items best first, each once.
        limit: length of the list; 0 = all.
        request_id: seed of the coins.
    """
    rankings = one.tolist(), other.tolist()
    most = len(set(rankings[0]) | set(rankings[1]))
    wanted = min(limit or most, most)
    coins = np.random.Generator(np.random.Philox(key=np.array([request_id, _STREAM], np.uint64))).random(wanted) < 0.5
    at, picks = [0, 0], [0, 0]
    items: dict[int, int] = {}
    propensities: list[float] = []
    while len(items) < wanted:
        best = [_next(rankings[side], at, side, items) for side in (0, 1)]
        tossed = picks[0] == picks[1] and None not in best
        team = int(coins[len(items)]) if tossed else int(picks[1] < picks[0])
        if best[team] is None:  # this ranking has no more: the other one goes on alone
            team = 1 - team
        propensities.append(0.5 if tossed and best[0] != best[1] else 1.0)
        items[best[team]] = team  # type: ignore[index]  # one of both has an item, or the list would be complete
        picks[team] += 1
    return Draft(
        np.fromiter(items, np.uint64, len(items)),
        np.fromiter(items.values(), np.int8, len(items)),
        np.array(propensities, np.float32),
    )


def interleaved(
    item_ids: Ids, own: Ordered, other: Ordered, request_id: int, names: tuple[str, str]
) -> tuple[Ordered, tuple[str, ...]]:
    """What the lists of two orders of the same items, uint64 (n,), draft; and the name of each shown item's team."""
    lists = item_ids[own.order[: own.shown]], item_ids[other.order[: other.shown]]
    draft = team_draft(*lists, own.shown, request_id)
    place = dict(zip(item_ids.tolist(), range(len(item_ids)), strict=True))
    chosen = np.fromiter((place[item] for item in draft.items.tolist()), np.intp, len(draft.items))
    rest = np.ones(len(item_ids), np.bool_)
    rest[chosen] = False
    propensities = np.zeros(len(item_ids), np.float32)
    propensities[: len(chosen)] = draft.propensities
    order = np.concatenate([chosen, own.order[rest[own.order]]])
    return Ordered(order, len(chosen), propensities), tuple(names[team] for team in draft.teams.tolist())


def _next(ranking: list[int], at: list[int], side: int, taken: dict[int, int]) -> int | None:
    """The side's best item that the list does not have; `at[side]` moves on to it."""
    while at[side] < len(ranking) and ranking[at[side]] in taken:
        at[side] += 1
    return ranking[at[side]] if at[side] < len(ranking) else None
