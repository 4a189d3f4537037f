"""Any graph is explained by its scores: probabilities on their logits, other scores as they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle import Manifest, OnnxScorer, load_bundle, write_bundle
from bundle.shapley import BlackBox
from onnx import helper


@pytest.mark.parametrize("probability", [True, False])
def test_contributions_add_up_to_what_the_graph_scores(
    probability: bool, tmp_path: Path, manifest: Manifest, files: dict[str, Path], linear: Callable[..., Path]
) -> None:
    """Of an additive model each column's share is its weight times its distance from the golden rows' mean."""
    write_bundle(tmp_path / "bundle", manifest, files)
    bundle = load_bundle(tmp_path / "bundle")
    weights = np.array([1.0, -1.0, 0.5])
    nodes = None if probability else [helper.make_node("Identity", ["logit"], ["score"])]
    graph = linear(tmp_path / "graph.onnx", weights.tolist(), nodes=nodes)
    scorer = OnnxScorer(graph)
    features = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    found = BlackBox(bundle, scorer.score).contributions(features, np.empty((7, 0), np.int64), permutations=1, rows=2)

    mean = bundle.golden.features.mean(axis=0)
    assert ("a", "b", "c") == found.names
    np.testing.assert_allclose(found.contributions, (features - mean) * weights, atol=2e-6)
    np.testing.assert_allclose(found.raw, features @ weights, atol=2e-6)
