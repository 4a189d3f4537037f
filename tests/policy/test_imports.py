"""Who may import whom: the contracts of the root `pyproject.toml` hold, and refuse what they are there to refuse."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from local_stack.home import checkout_root

ROOT = checkout_root()

# folder of the package, a line to plant in it, the contract that must break
PLANTED = [
    ("services/gateway/gateway", "import pipelines", "services import libraries and protos"),
    ("services/gateway/gateway", "import simulator.truth", "no service imports another"),
    ("services/collector/collector", "import simulator.world", "no service imports another"),
    ("pipelines/pipelines", "import simulator.truth", "pipelines import libraries and protos"),
    ("services/gateway/gateway", "import pandas", "the gateway's closure holds no training library"),
    ("services/collector/collector", "import features.loop", "no service imports another"),
    ("libs/definitions/definitions", "import kafka", "definitions import protos only, and no I/O library"),
    ("libs/servicekit/servicekit", "import definitions", "servicekit imports protos only"),
    ("infra/local/local_stack", "import servicekit", "the local stack imports nothing of ours"),
]


def lint_imports(search_first: Path) -> dict[str, str]:
    """Contract to KEPT or BROKEN, with packages under `search_first` found before the checkout's own."""
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [program, "--config", ROOT / "pyproject.toml", "--no-cache"],
        cwd=search_first,
        env={**os.environ, "PYTHONPATH": str(search_first), "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )
    found = dict(re.findall(r"^(\S.*) (KEPT|BROKEN)", done.stdout, flags=re.MULTILINE))
    assert found, done.stdout + done.stderr
    assert done.returncode == int("BROKEN" in found.values())
    return found


def test_the_checkout_keeps_every_contract(tmp_path: Path) -> None:
    """The column "may import" of the architecture holds."""
    assert {name for name, state in lint_imports(tmp_path).items() if state == "BROKEN"} == set()


@pytest.fixture(scope="module")
def with_violations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the linter says of copies of our packages, each with a forbidden import."""
    copies = tmp_path_factory.mktemp("planted")
    for number, (folder, line, _) in enumerate(PLANTED):
        copy = copies / Path(folder).name
        if not copy.exists():
            shutil.copytree(ROOT / folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / f"planted_{number}.py").write_text(line + "\n")
    return lint_imports(copies)


@pytest.mark.parametrize(("folder", "line", "contract"), PLANTED)
def test_a_planted_violation_is_refused(with_violations: dict[str, str], folder: str, line: str, contract: str) -> None:
    """A contract that nothing can break protects nothing."""
    states = {state for name, state in with_violations.items() if name.startswith(contract)}

    assert states == {"BROKEN"}, f"{line} in {folder}"
