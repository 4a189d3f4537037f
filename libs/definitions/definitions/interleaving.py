"""Two rankings as one list, and whose items people took: team-draft interleaving. Pure, the same at every call."""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]
Teams = npt.NDArray[np.int8]

_STREAM = 1  # of the request's own draws; exploration has 0


def team_draft(one: Ids, other: Ids, limit: int, request_id: int) -> tuple[Ids, Teams]:
    """Both rankings' best, drafted as captains pick players: who has fewer is next, a coin where both have as many.

    Each team's pick is its best item that the list does not have yet, so neither ranking is at an advantage (Radlinski,
    Kurup, Joachims, How Does Clickthrough Data Reflect Retrieval Quality?, CIKM 2008).

    Args:
        one, other: uint64 (n,), (m,): items best first, each once.
        limit: length of the list; 0 = all.
        request_id: seed of the coins.

    Returns:
        Items uint64 (k,), best first, and the team of each, int8 (k,): 0 for `one`, 1 for `other`.
    """
    rankings = one.tolist(), other.tolist()
    most = len(set(rankings[0]) | set(rankings[1]))
    wanted = min(limit or most, most)
    coins = np.random.Generator(np.random.Philox(key=np.array([request_id, _STREAM], np.uint64))).random(wanted) < 0.5
    left = [iter(ranking) for ranking in rankings]
    items: dict[int, int] = {}
    picks = [0, 0]
    while len(items) < wanted:
        team = int(coins[len(items)]) if picks[0] == picks[1] else int(picks[1] < picks[0])
        item = next((each for each in left[team] if each not in items), None)
        if item is None:  # this ranking has no more: the other one goes on alone
            team = 1 - team
            item = next(each for each in left[team] if each not in items)
        items[item] = team
        picks[team] += 1
    return np.fromiter(items, np.uint64, len(items)), np.fromiter(items.values(), np.int8, len(items))
