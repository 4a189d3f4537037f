"""What the classic rankers share: a model of numbers, and the encoder that makes them of a bundle's inputs."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.training.encoding import Encoder
from pipelines.training.ranker import Rows


class Model(Protocol):
    """A fitted model of encoded rows."""

    def score(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Probabilities, float64 (n,), of float32 (n, M)."""
        ...


M = TypeVar("M", bound=Model)


@dataclass(frozen=True, eq=False)
class EncodedRanker(Generic[M]):
    """A `Ranker` but for `export`, which each kind of model has of its own."""

    encoder: Encoder
    model: M
    name: str

    def score(self, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Probabilities, float64 (n,)."""
        return self.model.score(self.encoder.expand(features, ints))

    def score_rows(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Of training rows, item-item scores by each row's past."""
        return self.model.score(self.encoder.rows(rows))
