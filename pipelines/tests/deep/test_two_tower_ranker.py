"""The two-tower model behind the interface of all rankers."""

from pathlib import Path

import numpy as np
import pytest
from bundle import OnnxScorer
from definitions.layout import layout_of
from definitions.usecase import UseCase
from pipelines.deep.two_tower_ranker import fit
from pipelines.errors import TrainingError
from pipelines.evaluation.metrics import auc
from pipelines.export.parity import unstable
from pipelines.progress import SILENT
from pipelines.training.inputs import CodeColumn, HistoryColumns, Inputs
from pipelines.training.ranker import Rows, TrainData

pytestmark = pytest.mark.deep

ITEMS, K = 30, 5


def rows(n: int, seed: int) -> Rows:
    """Users stay in one half of the catalogue: a candidate of the half of their history is liked."""
    rng = np.random.default_rng(seed)
    half = rng.integers(0, 2, n)
    history = rng.integers(1, ITEMS // 2 + 1, (n, K)) + (ITEMS // 2) * half[:, None]
    history[rng.random((n, K)) < 0.2] = 0
    item = rng.integers(0, ITEMS + 1, n)
    label = ((item > ITEMS // 2) == half) & (rng.random(n) < 0.9) & (item > 0)
    ints = np.column_stack([item, history]).astype(np.int64)
    zeros = np.zeros(n, np.int64)
    return Rows(
        features=np.zeros((n, 2), np.float32), ints=ints, history=np.empty((n, 0), np.float32),
        label=label.astype(np.int64), weight=np.ones(n, np.float32), value=label.astype(np.float32),
        heads=np.empty((n, 0), np.float32), user_id=np.ones(n, np.uint64),
        item_id=item.astype(np.uint64), time_us=zeros, session=zeros,
    )  # fmt: skip


def data(films: UseCase) -> TrainData:
    inputs = Inputs(
        feature_names=("a", "b"),
        floats=np.arange(2),
        int_names=("item", *(f"u_recent_ids_{k}" for k in range(K))),
        vocabularies={},
        codes=(),
        history=HistoryColumns("u_recent", np.arange(1, K + 1), np.arange(0), ITEMS + 1, "u_scores", ()),
        item=CodeColumn("item", np.array([0]), ITEMS + 1),
    )
    return TrainData(layout_of(films, 1), inputs, rows(3000, 0), rows(500, 1))


def test_it_learns_from_histories_and_its_graph_scores_alike(films: UseCase, tmp_path: Path) -> None:
    """Scores are calibrated; the graph reads the bundle's inputs, is at most 1e-6 off, and has the same bits whatever
    the batch.
    """
    found = fit(data(films), seed=0, threads=1, progress=SILENT)
    test = rows(1000, 2)
    scores = found.score(test.features, test.ints)
    found.export(tmp_path / "model.onnx")

    assert (auc(test.label, scores) or 0) > 0.85
    assert scores.mean() == pytest.approx(test.label.mean(), abs=0.03)
    scorer = OnnxScorer(tmp_path / "model.onnx")
    np.testing.assert_allclose(scorer.score(test.features, test.ints), scores, atol=1e-6)
    assert {} == unstable(scorer.score, test.features, test.ints)


def test_a_use_case_without_histories_is_told_what_to_add(films: UseCase) -> None:
    """Nothing stands in for the user's newest items."""
    without = data(films)
    bare = Inputs.of_names(("a", "b"), ("item",))

    with pytest.raises(TrainingError, match="history_score"):
        fit(TrainData(without.layout, bare, without.fit, without.valid), seed=0, threads=1, progress=SILENT)
