"""The integer columns that a graph takes, out of the layout's, as the dense codes that it was trained on."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from definitions.codes import compiled, fill_codes
from definitions.layout import Layout

from bundle.errors import AdmissionError

if TYPE_CHECKING:  # `folder` reads candidates through this module
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
        self._width = len(wanted)
        used = sorted(vocabularies)
        keys = [name if name in vocabularies else _SLOT.sub("", name) for name in wanted]
        self._plan = np.array(
            [
                (
                    place >= len(users),
                    place - len(users) * (place >= len(users)),
                    used.index(key) if key in used else -1,
                )
                for place, key in zip(map(names.index, wanted), keys, strict=True)
            ],
            np.int64,
        ).reshape(-1, 3)
        self._bounds = np.cumsum([0, *(len(vocabularies[key]) for key in used)], dtype=np.int64)
        self._vocabularies = np.concatenate([np.zeros(0, np.uint64), *(vocabularies[key] for key in used)])
        compiled()

    @classmethod
    def of(cls, bundle: "Bundle", layout: Layout) -> Self:
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
        if self._width == 0:
            return None
        users = user_ints.reshape(-1, user_ints.shape[-1])
        return fill_codes(users, item_ints, self._plan, self._bounds, self._vocabularies)


def dense_codes(values: Ints, vocabulary: Ids) -> Ints:
    """Place + 1 of each value in the sorted `vocabulary` uint64 (m,), 0 where it is unknown; the shape of `values`.

    Ids are uint64 whose bits lie in int64 columns.
    """
    if len(vocabulary) == 0:
        return np.zeros_like(values)
    bits = np.ascontiguousarray(values).view(np.uint64)
    at = np.minimum(np.searchsorted(vocabulary, bits), len(vocabulary) - 1)
    return np.where(vocabulary[at] == bits, at + 1, 0).astype(np.int64)
