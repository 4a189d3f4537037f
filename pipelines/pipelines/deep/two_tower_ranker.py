"""The two-tower model as a ranker: trained on recorded histories, calibrated, scoring a request's own candidates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pipelines.deep.two_tower import RECIPE, Pairs, Places, train_towers
from pipelines.errors import TrainingError
from pipelines.progress import Progress
from pipelines.retrieval.export import export_scorer
from pipelines.retrieval.towers import TwoTower
from pipelines.training.inputs import Inputs
from pipelines.training.linear import fit_calibration, sigmoid
from pipelines.training.ranker import TrainData


@dataclass(frozen=True, eq=False)
class TwoTowerRanker:
    """score = sigmoid(`slope` x user . item + `shift`); items of an unknown code have product 0."""

    model: TwoTower
    inputs: Inputs
    slope: float = 1.0
    shift: float = 0.0
    name: str = "two_tower"

    def products(self, ints: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """user . item, float64 (n,) of int64 (n, K)."""
        history, item = _places(self.inputs)
        code = ints[:, item]
        vectors = np.where(code[:, None] > 0, self.model.items[np.maximum(code - 1, 0)], 0)
        return np.einsum("nw,nw->n", self.model.users_of(ints[:, history]), vectors).astype(np.float64)

    def score(
        self,
        features: npt.NDArray[np.float32],  # noqa: ARG002  a ranker's signature; the towers read codes only
        ints: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float64]:
        """Probabilities, float64 (n,)."""
        return sigmoid(self.slope * self.products(ints) + self.shift)

    def export(self, path: Path) -> None:
        """Write the graph to `path`: `features` (not read), `int_features` -> `score`."""
        history, item = _places(self.inputs)
        export_scorer(
            self.model,
            path,
            features=len(self.inputs.feature_names),
            ints=len(self.inputs.int_names),
            history=history,
            item=item,
            slope=self.slope,
            shift=self.shift,
        )


def fit(
    data: TrainData,
    *,
    seed: int,
    threads: int,  # noqa: ARG001  one thread, so that the same seed gives the same bits
    progress: Progress,
) -> TwoTowerRanker:
    """Towers of the positive fit rows and their histories at that time; calibrated on the valid rows.

    Raises:
        TrainingError: the use case has no history of items (a `history_score` feature), or there is too little data.
    """
    history, item = _places(data.inputs)
    ints = data.fit.ints[(data.fit.label > 0) & (data.fit.ints[:, item] > 0)]
    codes = ints[:, history]
    known = codes > 0
    assert data.inputs.item is not None, "_places has seen it"  # noqa: S101
    # Not by coordinates: those would add up what a history holds twice, and serving does not.
    contexts = csr_array(
        (np.ones(int(known.sum()), np.float32), codes[known] - 1, np.r_[0, np.cumsum(known.sum(axis=1))]),
        shape=(len(ints), data.inputs.item.size - 1),
    )
    progress.stage("train two-tower")
    model = train_towers(Pairs(contexts, np.arange(len(ints)), ints[:, item] - 1), RECIPE, seed=seed)
    raw = TwoTowerRanker(model, data.inputs)
    slope, shift = fit_calibration(raw.products(data.valid.ints), data.valid.label)
    return TwoTowerRanker(model, data.inputs, slope, shift)


def _places(inputs: Inputs) -> tuple[Places, int]:
    """Places of the history's codes and of the candidate's own."""
    if inputs.history is None or inputs.item is None:
        raise TrainingError("two_tower reads the user's newest items; give the use case a `history_score` feature")
    return inputs.history.ids, int(inputs.item.places[0])
