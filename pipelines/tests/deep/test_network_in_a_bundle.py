"""A use case whose ladder ends with a network, from the file to the bundle."""

from pathlib import Path

import numpy as np
import pytest
from definitions.learning import Models
from definitions.usecase import find_usecase
from pipelines.datasets import build_dataset
from pipelines.datasets.synthetic import synthetic_world
from pipelines.training.run import train
from servicekit.settings import checkout_root

pytestmark = pytest.mark.deep


def test_a_ladder_that_ends_with_a_network_gives_a_bundle_that_serves_it(tmp_path: Path) -> None:
    """Its graph is `model.onnx`, equal to the framework, and the card says so; LR is the rung below."""
    usecase = find_usecase("movies", checkout_root() / "usecases")
    usecase = usecase.model_copy(update={"models": Models(ladder=("lr", "dcn_v2"))})
    dataset = build_dataset(usecase, synthetic_world(users=80, items=80, events=2000, seed=1))

    result = train(usecase, dataset, bundles=tmp_path)

    manifest = result.bundle.manifest
    assert ("dcn_v2", "lr") == (manifest.model, manifest.fallback)
    assert {"constant", "item_mean", "lr", "dcn_v2"} == result.metrics.keys()
    assert result.parity.max_abs <= 1e-5
    golden = result.bundle.golden
    np.testing.assert_allclose(
        golden.scores, result.bundle.model().score(golden.features, golden.ints), rtol=0, atol=1e-6
    )
    assert "`model.onnx` is DCN-v2" in (result.bundle.folder / "model_card.md").read_text()
