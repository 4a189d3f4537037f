"""Versions with other inputs are another model to Triton, which has one configuration for all versions of a name."""

from pathlib import Path

import pytest
from bundle import Manifest, TrainingWindow
from pipelines.triton_repository import Repository
from servicekit.settings import checkout_root


def manifest(version: int, columns: int, ints: int = 0) -> Manifest:
    return Manifest(
        name="films", version=version, usecase="films", revision=1, layout_hash=1,
        feature_names=tuple(f"c{n}" for n in range(columns)), int_names=tuple(f"k{n}" for n in range(ints)),
        window=TrainingWindow(from_us=0, to_us=1), commit="unknown", seeds=(0,), dataset="none", data_hash="00",
        metrics={}, parity={}, created_us=1,
    )  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """In which version 1, with 60 floats and 3 integers, was deployed first."""
    found = Repository(tmp_path, checkout_root() / "infra" / "triton")
    (tmp_path / "films" / "1").mkdir(parents=True)
    found.configure(manifest(1, 60, 3), [1])
    return found


@pytest.mark.parametrize(
    ("columns", "ints", "name"),
    [(60, 3, "films"), (61, 3, "films.f61i3"), (60, 0, "films.f60i0"), (60, 4, "films.f60i4"), (6, 3, "films.f6i3")],
)
def test_the_own_name_belongs_to_the_inputs_of_the_first_deploy(
    repository: Repository, columns: int, ints: int, name: str
) -> None:
    """Also a graph that leaves the integers out: its requests would lack an input."""
    assert name == repository.name_of(manifest(2, columns, ints))


def test_the_configuration_bears_the_name(repository: Repository, tmp_path: Path) -> None:
    """Triton refuses a folder whose configuration says another."""
    other = manifest(2, 61, 3)
    (tmp_path / "films.f61i3" / "2").mkdir(parents=True)
    repository.configure(other, [2])
    assert b'name: "films.f61i3"' in (repository.read_config("films.f61i3") or b"")
    assert b'name: "films"' in (repository.read_config("films") or b"")


def test_only_other_inputs_that_nobody_wants_are_idle(repository: Repository, tmp_path: Path) -> None:
    """The own name stays, since readiness is asked of it; neighbours' names are not ours."""
    for folder in ("films.f61i3/2", "films.f61i3/3", "films.f62i3/4", "filmsx.f9i9/5"):
        (tmp_path / folder).mkdir(parents=True)
    assert ["films.f61i3"] == repository.idle("films", {4, 1})
    assert [] == repository.idle("films", {2, 4})

    repository.drop("films.f61i3")

    assert ["films", "films.f62i3", "filmsx.f9i9"] == sorted(path.name for path in tmp_path.iterdir())
