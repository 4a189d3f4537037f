"""A model with other inputs is deployed, and rolled back from, on a real Triton: both answer meanwhile."""

from pathlib import Path

import numpy as np
import pytest
from bundle import Bundle
from local_stack.topics import create_topics, declared_topics
from pipelines.bench.planted import linear_bundle
from pipelines.decisions import serving_state
from pipelines.deploy import deploy, rollback
from pipelines.triton_client import Triton, triton_scores
from pipelines.triton_repository import Repository
from servicekit.settings import checkout_root

pytestmark = pytest.mark.real

NAME = "widths"


def make_bundle(folder: Path, version: int, columns: int) -> Bundle:
    """A linear model of so many columns."""
    target = folder / "bundles" / NAME / str(version)
    return linear_bundle(target, [f"c{n}" for n in range(columns)], np.full(columns, 0.1 * version))


def test_other_inputs_are_served_beside_and_returned_from(
    triton: str, kafka: str, repository: Repository, tmp_path: Path
) -> None:
    """Both versions score under the names that the state says; the third deploy takes the place of the second."""
    create_topics(kafka, declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", [NAME]))
    first, wider, widest = (make_bundle(tmp_path, version, columns) for version, columns in ((1, 2), (2, 3), (3, 4)))

    def scores_of(bundle: Bundle, name: str) -> None:
        golden = bundle.golden
        found = triton_scores(triton, bundle.manifest, bundle.manifest.version, golden.features, name=name)
        np.testing.assert_allclose(golden.scores, found, atol=1e-5)

    deploy(first.folder, kafka=kafka, triton=triton, repository=repository)
    deploy(wider.folder, kafka=kafka, triton=triton, repository=repository)

    state = serving_state(kafka, NAME)
    assert ("widths.2", "widths") == (state.pin.triton_name, state.previous.triton_name)
    scores_of(first, "widths")
    scores_of(wider, "widths.2")

    assert 1 == rollback(NAME, bundles=tmp_path / "bundles", kafka=kafka, triton=triton, repository=repository).version
    state = serving_state(kafka, NAME)
    assert ("widths", "widths.2") == (state.pin.triton_name, state.previous.triton_name)
    scores_of(wider, "widths.2")

    deploy(widest.folder, kafka=kafka, triton=triton, repository=repository)

    scores_of(first, "widths")
    scores_of(widest, "widths.2")
    assert [3] == repository.versions("widths.2")
    with Triton(triton) as client:
        assert {3} == {version for version, (state, _) in client.states("widths.2").items() if state == "READY"}
