"""The integer columns that a graph takes, out of the layout's, as the dense codes that it was trained on."""

import re
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
from definitions.layout import Layout

from bundle.errors import AdmissionError
from bundle.folder import Bundle

VOCABULARIES = "vocab"
_SLOT = re.compile(r"_\d+$")

Ids = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


class IntInputs:
    """Picks and maps columns: `inputs(user_ints, item_ints)` is the graph's `int_features`.

    A column with a vocabulary (`vocab/<column>.npy`; one for all slots of a history, `vocab/u_recent_ids.npy`) becomes
    place + 1 in its sorted uint64 values, 0 = unknown. Columns without one pass unchanged.

    Raises:
        AdmissionError: the graph wants a column that the layout does not have.
    """

    def __init__(
        self, wanted: Sequence[str], users: Sequence[str], items: Sequence[str], vocabularies: Mapping[str, Ids]
    ) -> None:
        names = [*users, *items]
        if missing := [name for name in wanted if name not in names]:
            raise AdmissionError(f"int_names: the layout has no column {missing[0]!r}; train with this use case")
        self._users = len(users)
        self._picked = np.array([names.index(name) for name in wanted], np.intp)
        self._coded: dict[str, list[int]] = {}
        self._vocabularies = vocabularies
        for place, name in enumerate(wanted):
            key = name if name in vocabularies else _SLOT.sub("", name)
            if key in vocabularies:
                self._coded.setdefault(key, []).append(place)

    @classmethod
    def of(cls, bundle: Bundle, layout: Layout) -> Self:
        """For a bundle's graph under `layout`."""
        found = {
            path.stem: values
            for path in sorted((bundle.folder / VOCABULARIES).glob("*.npy"))
            if (values := np.load(path, allow_pickle=False)).dtype == np.uint64
        }
        return cls(bundle.manifest.int_names, layout.user_int_names, layout.item_int_names, found)

    def __call__(self, user_ints: Ints, item_ints: Ints) -> Ints | None:
        """int64 (n, K), or None for a graph that takes none.

        Args:
            user_ints: int64 (Ku,) of one request, or (n, Ku) row by row.
            item_ints: int64 (n, Ki).
        """
        if len(self._picked) == 0:
            return None
        n = len(item_ints)
        users = np.broadcast_to(user_ints, (n, self._users))
        is_user = self._picked < self._users
        out = np.empty((n, len(self._picked)), np.int64)
        out[:, is_user] = users[:, self._picked[is_user]]
        out[:, ~is_user] = item_ints[:, self._picked[~is_user] - self._users]
        for key, places in self._coded.items():
            out[:, places] = dense_codes(out[:, places], self._vocabularies[key])
        return out


def dense_codes(values: Ints, vocabulary: Ids) -> Ints:
    """Place + 1 of each value in the sorted `vocabulary` uint64 (m,), 0 where it is unknown; the shape of `values`.

    Ids are uint64 whose bits lie in int64 columns.
    """
    if len(vocabulary) == 0:
        return np.zeros_like(values)
    bits = np.ascontiguousarray(values).view(np.uint64)
    at = np.minimum(np.searchsorted(vocabulary, bits), len(vocabulary) - 1)
    return np.where(vocabulary[at] == bits, at + 1, 0).astype(np.int64)
