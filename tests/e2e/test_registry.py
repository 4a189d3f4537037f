"""MLflow's aliases: what is trained challenges, what the gate says yes to is champion; both checked by bytes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle import Bundle, load_bundle
from definitions.serving_state import without
from millrace.decisions.v1 import decisions_pb2 as pb
from pipelines.bench.planted import linear_bundle
from pipelines.deploy import pin_of
from pipelines.errors import RegistryError
from pipelines.progress import Silent
from pipelines.registry import CHALLENGER, CHAMPION, champion_version, crown, mirror, register

pytestmark = pytest.mark.real  # MLflow makes its database in seconds

NAMES = tuple(f"f{i}" for i in range(300))
Write = Callable[[int], Bundle]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One registry for all tests: making its database is most of the time."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes version v of a model whose weights are all v percent, once."""

    def written(version: int) -> Bundle:
        target = folder / "bundles" / "tiny" / str(version)
        return load_bundle(target) if target.exists() else linear_bundle(target, NAMES, np.full(300, version * 0.01))

    return written


def test_a_second_registration_keeps_its_weights_too(folder: Path, write: Write) -> None:
    """`mlflow.onnx` loses them in the second `log_model` of a process; ours gives both back, and scores both."""
    first, second = register(folder, write(1), {"seed": 0}), register(folder, write(2), {"seed": 0})

    assert (CHALLENGER, CHALLENGER, first.version + 1) == (first.alias, second.alias, second.version)


def test_promotion_and_rollback_move_the_champion(folder: Path, write: Write) -> None:
    """Nothing is champion by being trained; a rollback points at the former version again."""
    for version in (1, 2):
        register(folder, write(version), {})
    assert champion_version(folder, "other") is None

    assert CHAMPION == crown(folder, write(1)).alias
    crown(folder, write(2))
    assert 2 == champion_version(folder, "tiny")
    crown(folder, write(1))
    assert 1 == champion_version(folder, "tiny")


class Notes(Silent):
    """What the user was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_the_alias_follows_a_rollback_that_no_command_made(folder: Path, write: Write) -> None:
    """A gateway takes the champion back by a decision; the next command has the alias name what people get."""
    notes = Notes()
    for version in (1, 2):
        register(folder, write(version), {})
    crown(folder, write(2))
    serves = pb.ServingState(pin=pin_of(write(2)), previous=pin_of(write(1)), champion=pin_of(write(2)))
    found = without(serves, serves.pin)
    assert found is not None
    for state, champion in ((pb.ServingState(), 2), (serves, 2), (found[0], 1), (found[0], 1)):
        mirror(folder, folder / "bundles", state, notes)
        assert champion == champion_version(folder, "tiny")
    assert [] == notes.texts


def test_a_champion_whose_bundle_is_gone_leaves_the_alias(folder: Path, write: Write) -> None:
    """It is said, and stops nobody: what serves does not depend on the registry."""
    notes = Notes()
    register(folder, write(1), {})
    crown(folder, write(1))
    gone = pb.ServingState(champion=pb.ModelPin(name="tiny", version=8, digest="8"))
    mirror(folder, folder / "bundles", gone, notes)
    assert 1 == champion_version(folder, "tiny")
    assert "the registry could not be told who is champion" in notes.texts[0]


def test_what_nobody_registered_is_no_champion(folder: Path, write: Write) -> None:
    """By its digest, not by its name and version."""
    register(folder, write(1), {})

    with pytest.raises(RegistryError, match="trained elsewhere"):
        crown(folder, write(9))


def test_an_artifact_that_changed_in_the_registry_is_found(folder: Path, write: Write) -> None:
    """Before the alias moves: the former champion stays."""
    register(folder, write(1), {})
    crown(folder, write(1))
    register(folder, write(3), {})
    for path in (folder / "artifacts").rglob("manifest.json"):
        if '"version": 3,' in path.read_text():
            (path.parent / "model.onnx").write_bytes(b"something else")

    with pytest.raises(RegistryError, match=r"model\.onnx: changed"):
        crown(folder, write(3))
    assert 1 == champion_version(folder, "tiny")
