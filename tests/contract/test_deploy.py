"""Deploy and rollback on a real Triton and a real Kafka: what serves changes only when everything held."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle import Bundle
from pipelines.decisions import serving_state
from pipelines.deploy import deploy, rollback
from pipelines.errors import DeployError, UnavailableError
from pipelines.triton_client import Triton, triton_scores
from pipelines.triton_repository import Repository
from servicekit.settings import checkout_root

pytestmark = pytest.mark.real

MakeBundle = Callable[[Path, str, int], Bundle]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model and use case of the test's own: the servers are shared."""
    test = str(request.node.name)
    return "m" + test.removeprefix("test_").replace("_", "-")[:40]


def test_the_second_version_serves_beside_the_first_and_a_rollback_returns(
    triton: str, log: str, repository: Repository, tmp_path: Path, name: str, make_bundle: MakeBundle
) -> None:
    """Both versions answer with their own scores; the state names the one that serves and the one before."""
    first, second = (make_bundle(tmp_path, name, version) for version in (1, 2))
    servers: dict[str, Any] = {"kafka": log, "triton": triton, "repository": repository}

    assert deploy(first.folder, **servers).previous_version is None
    result = deploy(second.folder, digest=second.digest, **servers)

    assert (2, 1) == (result.version, result.previous_version)
    assert result.triton_max_abs is not None
    assert result.triton_max_abs <= 1e-5
    state = serving_state(log, name)
    assert (2, second.digest, 1) == (state.pin.version, state.pin.digest, state.previous.version)
    for bundle in (first, second):
        scores = triton_scores(
            triton, bundle.manifest, bundle.manifest.version, bundle.golden.features, bundle.golden.ints,
            name=repository.name_of(bundle.manifest),
        )  # fmt: skip
        np.testing.assert_allclose(bundle.golden.scores, scores, atol=1e-5)

    back = rollback(name, bundles=tmp_path / "bundles", **servers)

    assert (1, 2) == (back.version, back.previous_version)
    assert serving_state(log, name).pin.digest == first.digest
    assert 2 == rollback(name, bundles=tmp_path / "bundles", **servers).version


def test_a_third_version_lets_the_first_go(
    triton: str, log: str, repository: Repository, tmp_path: Path, name: str, make_bundle: MakeBundle
) -> None:
    """Triton holds what serves and what a rollback returns to, no more."""
    for version in (1, 2, 3):
        deploy(make_bundle(tmp_path, name, version).folder, kafka=log, triton=triton, repository=repository)

    with Triton(triton) as client:
        names = (name, f"{name}.2", f"{name}.3")
        ready = {(each, v) for each in names for v, (state, _) in client.states(each).items() if state == "READY"}
    assert {(name, 3), (f"{name}.2", 2)} == ready


def test_a_version_that_triton_refuses_leaves_everything_as_it_was(
    triton: str, log: str, repository: Repository, tmp_path: Path, name: str, make_bundle: MakeBundle
) -> None:
    """The graph of version 2 cannot be loaded there: its files go, version 1 still answers and is still pinned."""
    first = make_bundle(tmp_path, name, 1)
    deploy(first.folder, kafka=log, triton=triton, repository=repository)
    templates = tmp_path / "templates"
    templates.mkdir()
    for each in ("config.pbtxt.template", "model.py"):
        (templates / each).write_text((repository.templates / each).read_text())
    (templates / "model.py").write_text("raise RuntimeError('no such model')\n")
    config = repository.read_config(name)

    with pytest.raises(DeployError, match=name):
        deploy(
            make_bundle(tmp_path, name, 2).folder,
            kafka=log,
            triton=triton,
            repository=replace(repository, templates=templates),
        )

    assert [1] == repository.versions(name)
    assert config == repository.read_config(name)
    assert serving_state(log, name).pin.version == 1
    scores = triton_scores(triton, first.manifest, 1, first.golden.features, first.golden.ints)
    np.testing.assert_allclose(first.golden.scores, scores, atol=1e-5)


def test_a_version_whose_scores_differ_is_taken_back(
    triton: str, log: str, repository: Repository, tmp_path: Path, name: str, make_bundle: MakeBundle
) -> None:
    """A wrapper that changes scores is found by the golden rows, before anything is announced."""
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "config.pbtxt.template").write_text((repository.templates / "config.pbtxt.template").read_text())
    wrapper = (repository.templates / "model.py").read_text()
    spoil = "lambda self, *args: [np.float32(0.999) * each for each in _run(self, *args)]"
    (templates / "model.py").write_text(
        f"{wrapper}\n\n_run = ort.InferenceSession.run\nort.InferenceSession.run = {spoil}\n"
    )

    with pytest.raises(DeployError, match="golden rows"):
        deploy(
            make_bundle(tmp_path, name, 1).folder,
            kafka=log,
            triton=triton,
            repository=replace(repository, templates=templates),
        )

    assert [] == repository.versions(name)
    assert not serving_state(log, name).HasField("pin")


def test_a_changed_bundle_is_refused_before_triton_sees_it(
    triton: str, log: str, repository: Repository, tmp_path: Path, name: str, make_bundle: MakeBundle
) -> None:
    """One byte of the graph."""
    bundle = make_bundle(tmp_path, name, 1)
    raw = bytearray(bundle.model_path.read_bytes())
    raw[-20] ^= 1
    bundle.model_path.write_bytes(raw)

    with pytest.raises(DeployError, match="changed since it was written"):
        deploy(bundle.folder, kafka=log, triton=triton, repository=repository)
    assert [] == repository.versions(name)


def test_without_triton_the_decision_alone_serves(log: str, tmp_path: Path, name: str, make_bundle: MakeBundle) -> None:
    """The embedded profile: the gateway runs the bundle itself. A repeat keeps what a rollback returns to."""
    for version in (1, 2, 2):
        path = tmp_path / "bundles" / name / str(version)
        folder = path if path.exists() else make_bundle(tmp_path, name, version).folder
        result = deploy(folder, kafka=log, triton=None, repository=None)

    assert (2, 1, None) == (result.version, result.previous_version, result.triton_max_abs)
    assert 2 == serving_state(log, name).pin.version
    assert 1 == rollback(name, bundles=tmp_path / "bundles", kafka=log, triton=None, repository=None).version


def test_nothing_to_return_to_and_nobody_there(log: str, tmp_path: Path, name: str, make_bundle: MakeBundle) -> None:
    """Both say what to do, and change nothing."""
    with pytest.raises(DeployError, match="no former version"):
        rollback(name, bundles=tmp_path, kafka=log, triton=None, repository=None)
    folder = make_bundle(tmp_path, name, 1).folder
    absent = Repository(tmp_path / "models", checkout_root() / "infra" / "triton")
    with pytest.raises(UnavailableError, match="MILLRACE_TRITON"):
        deploy(folder, kafka=log, triton="127.0.0.1:1", repository=absent)
    assert [] == absent.versions(name)
