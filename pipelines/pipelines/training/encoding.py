"""Category columns for models that take numbers: the frequent codes of each, as 0/1 columns behind the features."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from definitions.features import Attribute, ContextCode
from definitions.layout import Layout

MAX_CODES = 64  # of one attribute, the most frequent
MIN_ROWS = 50  # a rarer code says nothing that lasts


@dataclass(frozen=True)
class CodeGroup:
    """One attribute: which columns of the integer inputs hold it, and the codes that get a column of their own."""

    name: str
    places: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoder:
    """float32 (n, F) features and int64 (n, K) codes -> float32 (n, F + M), the inputs of every model here.

    `int_names`: the K integer columns, of the layout. Unknown and rare codes are all zeros.
    """

    int_names: tuple[str, ...]
    groups: tuple[CodeGroup, ...]
    feature_names: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the F + M columns."""
        return self.feature_names + tuple(f"{group.name}={code}" for group in self.groups for code in group.codes)

    def expand(self, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
        """The models' inputs."""
        parts = [features]
        for group in self.groups:
            if ints is None:
                raise ValueError(f"codes of {group.name} are absent")
            found = ints[:, group.places]
            parts.append((found[:, :, None] == group.codes).any(axis=1).astype(np.float32))
        return np.hstack(parts) if len(parts) > 1 else features


def fit_encoder(layout: Layout, user_ints: npt.NDArray[np.int64], item_ints: npt.NDArray[np.int64]) -> Encoder:
    """The codes worth a column.

    Args:
        layout: its category attributes and context codes are used; histories are not.
        user_ints, item_ints: int64 (n, Ku), (n, Ki) of the fit rows.
    """
    names = [*layout.user_int_names, *layout.item_int_names]
    values = np.hstack([user_ints, item_ints])
    int_names: list[str] = []
    groups = []
    for feature in layout.usecase.features:
        if not isinstance(feature, Attribute | ContextCode):
            continue
        columns = [name for name in names if name == feature.name or name in _slots(feature.name)]
        found = values[:, [names.index(name) for name in columns]]
        codes, counts = np.unique(found[found != 0], return_counts=True)
        kept = codes[np.argsort(-counts, kind="stable")[:MAX_CODES]]
        kept = np.sort(kept[np.isin(kept, codes[counts >= MIN_ROWS])])
        if len(kept) == 0:
            continue
        places = np.arange(len(int_names), len(int_names) + len(columns), dtype=np.int64)
        groups.append(CodeGroup(feature.name, places, kept.astype(np.int64)))
        int_names += columns
    return Encoder(tuple(int_names), tuple(groups), layout.feature_names)


def _slots(name: str) -> frozenset[str]:
    return frozenset(f"{name}_{i}" for i in range(MAX_CODES))
