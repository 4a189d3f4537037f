"""Candidates out of a bundle: item vectors with their user tower, item-item neighbours, what is popular somewhere.

Search is exact: numpy over the whole catalogue, meant for up to 100,000 items.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from bundle.admission import check_graph
from bundle.errors import AdmissionError, GoldenError, IntegrityError, ScoringError
from bundle.inputs import Ids, Ints, dense_codes
from bundle.scorer import open_graph

ITEM_IDS: Final = "item_ids.npy"
ITEM_VECTORS: Final = "item_vectors.npy"
USER_TOWER: Final = "user_tower.onnx"
TOWER_GOLDEN: Final = "tower_golden.npz"
NEIGHBOURS: Final = "neighbours.npz"
POPULAR: Final = "popular.npz"
HISTORY: Final = "history"
USER_VECTOR: Final = "user_vector"
INDEX: Final = "millrace.index"  # key in the tower's metadata: the `index_hash` that it belongs to

_TOLERANCE: Final = 1e-5  # as of golden scores
_SMALLEST_WINDOW: Final = 64
_SORT_BEYOND: Final = 64

Vectors = npt.NDArray[np.float32]
Eligible = Callable[[Ids], npt.NDArray[np.bool_]]
"""uint64 (n,) item ids -> bool (n,): which of them the user may be shown."""


@dataclass(frozen=True, eq=False)
class Found:
    """`item_ids` uint64 (n,), best first, with their `scores` float32 (n,)."""

    item_ids: Ids
    scores: Vectors


def index_hash(item_ids: Ids, vectors: Vectors) -> str:
    """sha256 in hex of ids and vectors: the version that a tower and its index share."""
    digest = hashlib.sha256(f"{vectors.shape}".encode())
    digest.update(np.ascontiguousarray(item_ids).tobytes())
    digest.update(np.ascontiguousarray(vectors).tobytes())
    return digest.hexdigest()


class UserTower:
    """`user_tower.onnx`: `history` int64 [n, K], codes of a user's newest items -> `user_vector` float32 [n, width].

    Raises:
        AdmissionError: not a graph that we serve, or other inputs and outputs.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        check_graph(path)
        self._session = open_graph(path, threads)
        inputs = [(i.name, i.type, len(i.shape)) for i in self._session.get_inputs()]
        outputs = [(o.name, o.type, len(o.shape)) for o in self._session.get_outputs()]
        if inputs != [(HISTORY, "tensor(int64)", 2)] or outputs != [(USER_VECTOR, "tensor(float)", 2)]:
            raise AdmissionError(
                f"{path.name}: takes {inputs} and gives {outputs}; expected `{HISTORY}` int64 [n, K] and "
                f"`{USER_VECTOR}` float32 [n, width]"
            )
        sizes = self._session.get_inputs()[0].shape[1], self._session.get_outputs()[0].shape[1]
        if not all(isinstance(size, int) for size in sizes):
            raise AdmissionError(f"{path.name}: [n, {sizes[0]}] -> [n, {sizes[1]}] must say its second dimensions")
        self.newest, self.width = int(sizes[0]), int(sizes[1])
        self.index: str = self._session.get_modelmeta().custom_metadata_map.get(INDEX, "")

    def vectors(self, history: Ints) -> Vectors:
        """float32 (n, width) of int64 (n, K) codes, 0 = none or unknown.

        Raises:
            ScoringError: another shape, or ONNX Runtime failed.
        """
        if history.ndim != 2 or history.shape[1] != self.newest or history.dtype != np.int64:
            raise ScoringError(
                f"{USER_TOWER}: history is {history.dtype} {history.shape}, expected int64 (n, {self.newest})"
            )
        try:
            return np.asarray(self._session.run([USER_VECTOR], {HISTORY: history})[0])
        except Exception as exc:  # ONNX Runtime raises a dozen unrelated types
            raise ScoringError(f"{USER_TOWER}: ONNX Runtime failed ({exc})") from exc


class TowerRetrieval:
    """The catalogue's vectors and their own user tower, one object: whoever swaps it swaps both.

    Raises:
        IntegrityError: tower and vectors are of different versions, or ids are not sorted and distinct.
    """

    def __init__(self, item_ids: Ids, vectors: Vectors, tower: UserTower) -> None:
        _check_ids(ITEM_IDS, item_ids)
        if vectors.dtype != np.float32 or vectors.shape != (len(item_ids), tower.width):
            raise IntegrityError(
                f"{ITEM_VECTORS}: is {vectors.dtype} {vectors.shape}, expected float32 {(len(item_ids), tower.width)}; "
                "train again"
            )
        if tower.index != (found := index_hash(item_ids, vectors)):
            raise IntegrityError(
                f"{USER_TOWER}: belongs to the index {tower.index[:12] or 'of no version'}, not to {found[:12]} of "
                f"{ITEM_VECTORS}; towers of different versions find nothing, take both from one training"
            )
        self.item_ids, self._vectors, self._tower = item_ids, vectors, tower
        length = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        self._directions = np.zeros((len(vectors) + 1, vectors.shape[1]), np.float32)  # the first: of unknown items
        np.divide(vectors, length, out=self._directions[1:], where=length > 0)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of a bundle's folder; its recorded user vectors must come out again.

        Raises:
            AdmissionError, IntegrityError, GoldenError: it cannot be served.
        """
        self = cls(_load(folder / ITEM_IDS), _load(folder / ITEM_VECTORS), UserTower(folder / USER_TOWER))
        try:
            with np.load(folder / TOWER_GOLDEN, allow_pickle=False) as arrays:
                history, expected = arrays[HISTORY], arrays[USER_VECTOR]
        except (OSError, ValueError, KeyError) as exc:
            raise GoldenError(f"{folder / TOWER_GOLDEN}: cannot be read ({exc}); train again") from exc
        found = self._tower.vectors(history)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=_TOLERANCE):
            raise GoldenError(f"{USER_TOWER}: golden histories give other vectors; train again")
        return self

    @property
    def newest(self) -> int:
        """Items of a history that the tower reads."""
        return self._tower.newest

    def retrieve(self, history: Ids, limit: int, eligible: Eligible | None = None) -> Found:
        """The `limit` eligible items whose vectors have the largest product with the user's.

        Args:
            history: uint64 (k,) item ids, newest first; 0 and unknown ids are nothing. Users without are all alike.
            limit: at most so many.
            eligible: None = all are.
        """
        newest = np.zeros((1, self.newest), np.int64)
        ids = np.ascontiguousarray(history[: self.newest]).view(np.int64)
        newest[0, : len(ids)] = dense_codes(ids, self.item_ids)
        return _best(self.item_ids, self._vectors @ self._tower.vectors(newest)[0], limit, eligible)

    def directions(self, item_ids: Ids) -> Vectors:
        """Vectors of length 1 of uint64 (n,) items, float32 (n, width): products are cosines. Zeros where unknown."""
        codes = dense_codes(np.ascontiguousarray(item_ids).view(np.int64), self.item_ids)
        return self._directions.take(codes, axis=0)


class NeighbourRetrieval:
    """Nearest items of each item, summed over the user's newest: what ItemKNN and EASE serve.

    Args:
        item_ids: uint64 (m,), sorted.
        places: int32 (m, N): neighbours as places in `item_ids`, -1 = none.
        weights: float32 (m, N), 0 where there is none.

    Raises:
        IntegrityError: shapes or places do not fit together.
    """

    def __init__(self, item_ids: Ids, places: npt.NDArray[np.int32], weights: Vectors) -> None:
        _check_ids(NEIGHBOURS, item_ids)
        if (
            places.dtype != np.int32
            or weights.dtype != np.float32
            or places.shape != weights.shape
            or places.shape[:1] != item_ids.shape
        ):
            raise IntegrityError(
                f"{NEIGHBOURS}: places {places.dtype} {places.shape} and weights {weights.dtype} {weights.shape} for "
                f"{len(item_ids)} items; train again"
            )
        if places.size and not (places.min() >= -1 and places.max() < len(item_ids)):
            raise IntegrityError(f"{NEIGHBOURS}: a neighbour is no item of this catalogue; train again")
        self.item_ids, self._places, self._weights = item_ids, places, weights

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of a bundle's folder."""
        return cls(*_load_named(folder / NEIGHBOURS, "item_ids", "places", "weights"))

    def retrieve(self, history: Ids, limit: int, eligible: Eligible | None = None) -> Found:
        """The `limit` eligible items that are nearest to the history; only items that are near to any of it.

        Args:
            history: uint64 (k,) item ids; 0 and unknown ids are nothing.
            limit: at most so many.
            eligible: None = all are.
        """
        codes = dense_codes(np.ascontiguousarray(history).view(np.int64), self.item_ids)
        known = codes[codes > 0] - 1
        places, weights = self._places[known].ravel(), self._weights[known].ravel()
        near, slot = _distinct(places[places >= 0], len(self.item_ids))
        scores = np.bincount(slot, weights[places >= 0], len(near)).astype(np.float32)
        return _best(self.item_ids[near], scores, limit, eligible)


class PopularRetrieval:
    """What was popular on a surface, in a country, or both.

    Args:
        places: uint32 (s, 2), sorted and distinct: surface and country, 0 = any.
        ends: int64 (s,), ascending: where the items of each end.
        item_ids: uint64 (ends[-1],), of each place the most popular first.

    Raises:
        IntegrityError: they do not fit together.
    """

    def __init__(self, places: npt.NDArray[np.uint32], ends: Ints, item_ids: Ids) -> None:
        keys = places[:, 0].astype(np.uint64) << np.uint64(32) | places[:, 1] if places.ndim == 2 else places
        fits = places.dtype == np.uint32 and places.shape == (len(ends), 2) and bool((keys[1:] > keys[:-1]).all())
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        if not fits or item_ids.dtype != np.uint64 or (np.diff(starts) < 0).any() or starts[-1] != len(item_ids):
            raise IntegrityError(f"{POPULAR}: places, ends and items do not fit together; train again")
        self._lists = {
            (surface, country): item_ids[start:end]
            for (surface, country), start, end in zip(places.tolist(), starts[:-1], starts[1:], strict=True)
        }

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of a bundle's folder."""
        return cls(*_load_named(folder / POPULAR, "places", "ends", "item_ids"))

    def retrieve(self, surface: int, country: int, limit: int, eligible: Eligible | None = None) -> Ids:
        """At most `limit` eligible items of the narrowest place that has a list: both, the surface, the country.

        0 = any. No item where none of them has one.
        """
        for place in ((surface, country), (surface, 0), (0, country)):
            found = self._lists.get(place)
            if found is not None:
                return (found if eligible is None else found[eligible(found)])[:limit]
        return np.empty(0, np.uint64)


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What a bundle can retrieve with; None for what it does not hold."""

    towers: TowerRetrieval | None = None
    neighbours: NeighbourRetrieval | None = None
    popular: PopularRetrieval | None = None


def load_retrieval(folder: Path) -> Retrieval:
    """The candidate sources of a bundle's folder.

    Raises:
        AdmissionError, IntegrityError, GoldenError: one is there and cannot be served; half of one counts so.
    """
    parts = (ITEM_IDS, ITEM_VECTORS, USER_TOWER, TOWER_GOLDEN)
    present = [name for name in parts if (folder / name).exists()]
    if present and len(present) < len(parts):
        raise IntegrityError(f"{folder}: {', '.join(set(parts) - set(present))} missing beside {present[0]}")
    return Retrieval(
        TowerRetrieval.of(folder) if present else None,
        NeighbourRetrieval.of(folder) if (folder / NEIGHBOURS).exists() else None,
        PopularRetrieval.of(folder) if (folder / POPULAR).exists() else None,
    )


def _distinct(places: npt.NDArray[np.int32], items: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The distinct places, ascending, and for each place its index among them. Without a sort, which takes ten times as
    long for a few thousand places of as many items, unless the catalogue is far larger.
    """
    if items > _SORT_BEYOND * len(places):
        distinct, slot = np.unique(places, return_inverse=True)
        return distinct.astype(np.intp), slot
    there = np.zeros(items, np.bool_)
    there[places] = True
    near = np.flatnonzero(there)
    index = np.empty(items, np.intp)
    index[near] = np.arange(len(near))
    return near, index[places]


def _best(item_ids: Ids, scores: Vectors, limit: int, eligible: Eligible | None) -> Found:
    """The `limit` best eligible, equal scores by id. Looks at a window of the best, twice as large each time."""
    window = limit if eligible is None else max(2 * limit, _SMALLEST_WINDOW)
    while True:
        if window < len(scores):
            best = np.argpartition(-scores, window - 1)[:window] if window else np.empty(0, np.intp)
        else:
            best = np.arange(len(scores))
        best = best[np.lexsort((item_ids[best], -scores[best]))]
        chosen = best if eligible is None else best[eligible(item_ids[best])]
        if len(chosen) >= limit or window >= len(scores):
            return Found(item_ids[chosen[:limit]], scores[chosen[:limit]])
        window *= 4


def _load(path: Path) -> Any:
    """An array; what uses it checks its type."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise IntegrityError(f"{path}: cannot be read ({exc}); train again") from exc


def _load_named(path: Path, *names: str) -> list[Any]:
    """The arrays of those names in an npz file, in their order; what uses them checks their types."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError) as exc:
        raise IntegrityError(f"{path}: cannot be read ({exc}); train again") from exc


def _check_ids(name: str, item_ids: Ids) -> None:
    if item_ids.dtype != np.uint64 or item_ids.ndim != 1 or not (item_ids[1:] > item_ids[:-1]).all():
        raise IntegrityError(f"{name}: item ids are not sorted distinct uint64; train again")
