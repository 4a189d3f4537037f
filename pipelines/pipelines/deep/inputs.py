"""What a network reads of the bundle's inputs: numbers scaled, codes turned into rows of one table, the history."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from definitions.events import UNITS_PER_VALUE
from torch import Tensor, nn

Matrix = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

_LONG_TAIL = 10  # largest value over median: above it the logarithm is the better scale
_FAR = 4.0  # standard deviations: beyond it a value says no more than "far"


@dataclass(frozen=True)
class Field:
    """One category: columns `places` of `int_features`, dense codes 1 to `size` - 1; 0 is unknown, or absent.

    Fields of one `table` have one vocabulary and share embeddings. Several places are the values of one set.
    """

    name: str
    places: tuple[int, ...]
    size: int
    table: str


@dataclass(frozen=True)
class History:
    """The user's last k items, newest first: `ids`, a field of k places; `values`, as many columns in 1e-6 units."""

    ids: Field
    values: tuple[int, ...]


@dataclass(frozen=True)
class Columns:
    """The inputs: `features` float columns, of which `numbers` are read, and `ints` integer columns, of which `fields`
    and `history` are. `candidate`: name of the field that holds the candidate's own id, in the table of the history's.
    """

    features: int
    ints: int
    numbers: tuple[int, ...]
    fields: tuple[Field, ...] = ()
    history: History | None = None
    candidate: str | None = None

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if self.candidate is not None and self.candidate not in names:
            raise ValueError(f"candidate: there is no field {self.candidate!r} among {names}")

    @property
    def all_fields(self) -> tuple[Field, ...]:
        """The fields, and the history's ids behind them."""
        return self.fields + ((self.history.ids,) if self.history else ())

    @property
    def widths(self) -> tuple[int, ...]:
        """Places of each field."""
        return tuple(len(field.places) for field in self.fields)

    @property
    def rows(self) -> int:
        """Of the one table that holds all embeddings."""
        return sum(self._tables().values())

    def _tables(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for field in self.all_fields:
            if sizes.setdefault(field.table, field.size) != field.size:
                raise ValueError(f"{field.name}: table {field.table!r} has {sizes[field.table]} rows, not {field.size}")
        return sizes

    def offsets(self) -> dict[str, int]:
        """First row of each table; it is the one of code 0."""
        starts, start = {}, 0
        for name, size in self._tables().items():
            starts[name] = start
            start += size
        return starts


@dataclass(frozen=True)
class Batch:
    """What a body reads of n candidates.

    `numbers` float32 (n, numbers) scaled; `rows` int64 (n, K) of the table, the history's k last; `known` bool (n, K):
    the code is not 0; `values` float32 (n, k), the history's, 0 where absent.
    """

    numbers: Tensor
    rows: Tensor
    known: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Tensor | slice) -> "Batch":
        """Some of the candidates."""
        return Batch(self.numbers[rows], self.rows[rows], self.known[rows], self.values[rows])

    def to(self, device: torch.device) -> "Batch":
        """On another device."""
        return Batch(*(part.to(device) for part in (self.numbers, self.rows, self.known, self.values)))


class Inputs(nn.Module):
    """`features` (n, F) and `int_features` (n, K) -> `Batch`; constants of the fit rows, nothing trained.

    NaN reads as the column's mean, a code outside its vocabulary as 0: no row can fail its batch.
    """

    def __init__(self, columns: Columns, features: Matrix) -> None:
        super().__init__()
        self.columns = columns
        logged, center, scale = _scaling(features[:, list(columns.numbers)])
        self.register_buffer("numbers", torch.tensor(columns.numbers, dtype=torch.int64))
        self.register_buffer("logged", torch.from_numpy(logged))
        self.register_buffer("center", torch.from_numpy(center))
        self.register_buffer("scale", torch.from_numpy(scale))
        starts = columns.offsets()
        spread = [(place, field) for field in columns.all_fields for place in field.places]
        self.register_buffer("places", torch.tensor([place for place, _ in spread], dtype=torch.int64))
        self.register_buffer("sizes", torch.tensor([field.size for _, field in spread], dtype=torch.int64))
        self.register_buffer("starts", torch.tensor([starts[field.table] for _, field in spread], dtype=torch.int64))
        values = columns.history.values if columns.history else ()
        self.register_buffer("values", torch.tensor(values, dtype=torch.int64))

    def forward(self, features: Tensor, ints: Tensor) -> Batch:
        """See `Batch`."""
        features = features[:, self.numbers]
        bent = torch.where(self.logged, torch.log1p(torch.clamp(features, min=0)), features)
        standard = torch.clamp((bent - self.center) * self.scale, -_FAR, _FAR)
        numbers = torch.where(torch.isnan(features), 0.0, standard)
        codes = ints[:, self.places]
        codes = torch.where((codes > 0) & (codes < self.sizes), codes, 0)
        values = ints[:, self.values].to(torch.float32) / UNITS_PER_VALUE
        return Batch(numbers, codes + self.starts, codes != 0, values)

    def dropped(self, batch: Batch, share: float, random: torch.Generator) -> Batch:
        """`batch` with a `share` of its codes read as unknown, so that the rows of code 0 are trained."""
        kept = torch.rand(batch.rows.shape, generator=random) >= share
        return Batch(batch.numbers, torch.where(kept, batch.rows, self.starts.cpu()), batch.known & kept, batch.values)


def _scaling(features: Matrix) -> tuple[npt.NDArray[np.bool_], Matrix, Matrix]:
    """(logged, center, scale) of each column: long-tailed ones by log1p, then mean 0 and deviation 1."""
    raw = features.astype(np.float64)
    with np.errstate(all="ignore"):
        largest, middle, least = (
            np.nan_to_num(f(raw, axis=0)) if len(raw) else np.zeros(raw.shape[1])
            for f in (np.nanmax, np.nanmedian, np.nanmin)
        )
        logged = (least >= 0) & (largest > _LONG_TAIL * np.maximum(middle, 0.1))
        bent = np.where(logged, np.log1p(np.maximum(raw, 0)), raw)
        center, spread = np.nan_to_num(np.nanmean(bent, axis=0)), np.nan_to_num(np.nanstd(bent, axis=0))
    scale = np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0)
    return logged, center.astype(np.float32), scale.astype(np.float32)
