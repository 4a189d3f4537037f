"""What serves one use case at the moment: one frozen object, swapped as one reference."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gateway.query import Floats, Ids, Ints

_SLOT = re.compile(r"_\d+$")  # u_recent_ids_0 ... u_recent_ids_63 share one vocabulary


class Scorer(Protocol):
    """One model version behind one way of running it."""

    async def score(self, features: Floats, ints: Ints | None, budget_s: float) -> Floats:
        """Scores float32 (n,), all finite, of features float32 (n, F) and ints int64 (n, K).

        Waits at most `budget_s`.

        Raises:
            Unavailable: with the reason.
        """
        ...


class IntInputs:
    """The integer columns that a graph takes, out of the layout's, mapped to the model's dense codes.

    `vocabularies` maps a column (or a history without its slot number) to its sorted known values uint64 (m,);
    code = place + 1, 0 = unknown. Columns without one pass unchanged.

    Raises:
        KeyError: a name is no integer column of the layout.
    """

    def __init__(
        self,
        wanted: Sequence[str],
        user_names: Sequence[str],
        item_names: Sequence[str],
        vocabularies: Mapping[str, Ids],
    ) -> None:
        self._width = len(wanted)
        users = set(user_names)
        self._user = _Columns(wanted, [n for n in wanted if n in users], user_names, vocabularies)
        self._item = _Columns(wanted, [n for n in wanted if n not in users], item_names, vocabularies)

    def __call__(self, user_ints: Ints, item_ints: Ints) -> Ints | None:
        """int64 (n, K) of user columns int64 (U,) and item columns int64 (n, I); None for a graph without any."""
        if self._width == 0:
            return None
        columns = np.empty((len(item_ints), self._width), np.int64)
        columns[:, self._user.places] = self._user.take(user_ints[None, :])
        columns[:, self._item.places] = self._item.take(item_ints)
        return columns


class _Columns:
    """Some of the wanted columns, from one source, coded with one search per vocabulary."""

    def __init__(
        self, wanted: Sequence[str], names: Sequence[str], source: Sequence[str], vocabularies: Mapping[str, Ids]
    ) -> None:
        places, columns = {n: k for k, n in enumerate(wanted)}, {n: k for k, n in enumerate(source)}
        self.places = np.array([places[n] for n in names], np.intp)
        self._source = np.array([columns[n] for n in names], np.intp)
        groups: dict[str, list[int]] = {}
        for k, name in enumerate(names):
            for key in (name, _SLOT.sub("", name)):
                if key in vocabularies:
                    groups.setdefault(key, []).append(k)
                    break
        self._groups = [(np.array(group, np.intp), vocabularies[key]) for key, group in groups.items()]

    def take(self, values: Ints) -> Ints:
        """int64 (n, k) of int64 (n, source columns)."""
        chosen = values[:, self._source]
        for group, vocabulary in self._groups:
            known = codes(chosen[:, group].astype(np.uint64).ravel(), vocabulary)
            chosen[:, group] = known.reshape(-1, len(group))
        return chosen


def codes(values: Ids, vocabulary: Ids) -> Ints:
    """Dense codes int64 (n,) of `values` uint64 (n,) in a sorted `vocabulary` (m,): place + 1, 0 = unknown."""
    if len(vocabulary) == 0:
        return np.zeros(len(values), np.int64)
    at = np.minimum(np.searchsorted(vocabulary, values), len(vocabulary) - 1)
    return np.where(vocabulary[at] == values, at + 1, 0).astype(np.int64, copy=False)


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The pinned model: rung MODEL by `model`, rung LOCAL_MODEL by `local`. Requests keep the one they began with."""

    name: str
    version: int
    digest: str
    model: Scorer
    local: Scorer | None
    ints: IntInputs


def finite(scores: npt.NDArray[np.float32]) -> bool:
    """Whether no score is NaN or infinite."""
    return bool(np.isfinite(scores).all())
