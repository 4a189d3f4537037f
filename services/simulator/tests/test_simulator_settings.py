"""The process: what it reads, and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"MILLRACE_USECASES": "cooking"}, "cooking"),
        ({"MILLRACE_PROFILE": "/nowhere.yaml"}, "give the path of a profile"),
        ({"MILLRACE_CALL": "guess"}, "MILLRACE_CALL"),
    ],
)
def test_bad_input_ends_the_process_with_2_and_its_name(tmp_path: Path, extra: dict[str, str], named: str) -> None:
    """As every process of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    environ = {**clean, "MILLRACE_HOME": str(tmp_path), "MILLRACE_METRICS_PORT": "0", **extra}
    done = subprocess.run([sys.executable, "-m", "simulator"], env=environ, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2, done.stderr
    assert named in done.stdout + done.stderr
