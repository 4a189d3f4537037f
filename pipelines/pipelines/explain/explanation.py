"""An explanation as data: of each item what moves its score most, and of two items what tells them apart."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from bundle.contributions import Contributions, Vector


@dataclass(frozen=True, eq=False)
class Explanation:
    """Of n items of one user: ids, scores float64 (n,), contributions by feature; `method` gave them.

    `known`: whether the user has a row; without one all columns of the user are at their defaults.
    """

    items: tuple[int, ...]
    scores: Vector
    found: Contributions
    method: str
    known: bool

    def as_dict(self, top: int, pair: tuple[int, int] | None = None) -> dict[str, Any]:
        """Per item its score, raw score, and the `top` features' value and contribution; and why the first of a `pair`
        of items lies above the second, or below: by default of the first two.
        """
        described = [
            {
                "item_id": item,
                "score": float(self.scores[place]),
                "raw": float(self.found.raw[place]),
                "features": [_plain(asdict(reason)) for reason in self.found.reasons(place, top)],
            }
            for place, item in enumerate(self.items)
        ]
        above = None
        if len(self.items) > 1:
            first, second = pair or self.items[:2]
            one, other = self.items.index(first), self.items.index(second)
            reasons = [_plain(asdict(reason)) for reason in self.found.versus(one, other, top)]
            gap = float(self.found.raw[one] - self.found.raw[other])
            above = {"item_id": first, "other_id": second, "gap": gap, "features": reasons}
        return {"method": self.method, "known_user": self.known, "base": float(self.found.base[0])} | {
            "items": described,
            "above": above,
        }


def _plain(reason: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: a column that is no single number has no value."""
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in reason.items()
        if value is not None
    }
