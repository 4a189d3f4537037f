"""The integer columns that a graph takes, out of the layout's, as the dense codes that it was trained on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
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
        self._user = _Side.of(wanted, users, vocabularies)
        self._item = _Side.of(wanted, items, vocabularies)

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
        out = np.empty((len(item_ints), self._width), np.int64)
        out[:, self._user.targets] = self._user.read(user_ints)  # of one request: mapped once, then repeated
        out[:, self._item.targets] = self._item.read(item_ints)
        return out


@dataclass(frozen=True, eq=False)
class _Side:
    """The wanted columns of the user, or of the candidates: `sources` among theirs, `targets` among the graph's, and
    for each vocabulary the places among the sources that it maps.
    """

    sources: npt.NDArray[np.intp]
    targets: npt.NDArray[np.intp]
    coded: tuple[tuple[npt.NDArray[np.intp], Ids], ...]

    @classmethod
    def of(cls, wanted: Sequence[str], names: Sequence[str], vocabularies: Mapping[str, Ids]) -> Self:
        places = {name: place for place, name in enumerate(names)}
        targets = [target for target, name in enumerate(wanted) if name in places]
        coded: dict[str, list[int]] = {}
        for source, target in enumerate(targets):
            name = wanted[target]
            key = name if name in vocabularies else _SLOT.sub("", name)
            if key in vocabularies:
                coded.setdefault(key, []).append(source)
        return cls(
            np.array([places[wanted[target]] for target in targets], np.intp),
            np.array(targets, np.intp),
            tuple((np.array(sources, np.intp), vocabularies[key]) for key, sources in coded.items()),
        )

    def read(self, values: Ints) -> Ints:
        """int64 (..., targets) of (..., names)."""
        found = values[..., self.sources]
        for places, vocabulary in self.coded:
            found[..., places] = dense_codes(found[..., places], vocabulary)
        return found


def dense_codes(values: Ints, vocabulary: Ids) -> Ints:
    """Place + 1 of each value in the sorted `vocabulary` uint64 (m,), 0 where it is unknown; the shape of `values`.

    Ids are uint64 whose bits lie in int64 columns.
    """
    if len(vocabulary) == 0:
        return np.zeros_like(values)
    bits = np.ascontiguousarray(values).view(np.uint64)
    at = np.minimum(np.searchsorted(vocabulary, bits), len(vocabulary) - 1)
    return np.where(vocabulary[at] == bits, at + 1, 0).astype(np.int64)
