"""The catalogue in order of popularity: what the lowest rung answers from, and where candidates come from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.query import Floats, Ids


@dataclass(frozen=True)
class Popularity:
    """Every catalogue item, most popular first: `item_ids` uint64 (m,), `scores` float32 (m,)."""

    item_ids: Ids
    scores: Floats

    def __post_init__(self) -> None:
        by_id = np.argsort(self.item_ids)
        object.__setattr__(self, "_sorted_ids", self.item_ids[by_id])
        object.__setattr__(self, "_sorted_scores", self.scores[by_id])

    def __len__(self) -> int:
        return len(self.item_ids)

    def scores_of(self, item_ids: Ids) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Scores float32 (n,), 0 where unknown, and known bool (n,)."""
        return lookup(self._sorted_ids, self._sorted_scores, item_ids)  # type: ignore[attr-defined]


def lookup(sorted_ids: Ids, values: Floats, wanted: Ids) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Values float32 (n,) of `wanted` uint64 (n,) in ascending `sorted_ids` (m,), 0 where absent; found bool (n,)."""
    if len(sorted_ids) == 0:
        return np.zeros(len(wanted), np.float32), np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
    found = sorted_ids[at] == wanted
    return np.where(found, values[at], np.float32(0)), found
