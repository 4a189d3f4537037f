"""Versions take turns under a model's names in Triton: what serves is never under the name that is loaded."""

from pathlib import Path

import pytest
from bundle import Manifest, TrainingWindow
from pipelines.triton_repository import Repository
from servicekit.settings import checkout_root


def manifest(version: int) -> Manifest:
    return Manifest(
        name="films", version=version, usecase="films", revision=1, layout_hash=1, feature_names=("a", "b"),
        int_names=(), window=TrainingWindow(from_us=0, to_us=1), commit="unknown", seeds=(0,), dataset="none",
        data_hash="00", metrics={}, parity={}, created_us=1,
    )  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """In which versions 1 and 2 lie, and a neighbour's."""
    for folder in ("films/1", "films.2/2", "filmsx.2/3"):
        (tmp_path / folder).mkdir(parents=True)
    return Repository(tmp_path, checkout_root() / "infra" / "triton")


@pytest.mark.parametrize(
    ("version", "keep", "name"),
    [
        (1, [1, 2], "films"),  # where it lies
        (2, [1, 2], "films.2"),
        (3, [2], "films"),  # nobody wants version 1 any more
        (3, [1], "films.2"),
        (3, [1, 2], "films.3"),
        (3, [], "films"),
    ],
)
def test_a_version_goes_where_nothing_lies_that_serves(
    repository: Repository, version: int, keep: list[int], name: str
) -> None:
    """So that loading it touches no other."""
    assert name == repository.name_of(manifest(version), keep)


def test_the_configuration_bears_the_name(repository: Repository) -> None:
    """Triton refuses a folder whose configuration says another."""
    repository.configure(manifest(2), [2], "films.2")
    repository.configure(manifest(1), [1])
    assert b'name: "films.2"' in (repository.read_config("films.2") or b"")
    assert b'name: "films"' in (repository.read_config("films") or b"")


def test_only_further_names_that_nobody_wants_are_idle(repository: Repository, tmp_path: Path) -> None:
    """The own name stays, since readiness is asked of it; neighbours' names are not ours."""
    assert ["films.2"] == repository.idle("films", {4, 3})
    assert [] == repository.idle("films", {2, 4})

    repository.drop("films.2")

    assert ["films", "filmsx.2"] == sorted(path.name for path in tmp_path.iterdir())
