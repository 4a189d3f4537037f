"""The generator's process, as far as it goes without a gateway."""

import json
import subprocess
import sys

import pytest
from loadtest.__main__ import main


def test_a_wrong_rate_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 before anything is sent, as data for the process that reads it."""
    assert 2 == main(["--rate", "0", "--json"])
    assert {"kind": "bad_input", "message": "rate must be 0.1 to 5000, not 0.0"} == json.loads(capsys.readouterr().out)[
        "error"
    ]


def test_an_unknown_suite_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """In words on stderr where nobody asked for JSON."""
    assert 2 == main(["--suite", "best"])
    assert "default" in capsys.readouterr().err


def test_importing_the_package_patches_nothing() -> None:
    """The command line and the demo import it beside asyncio and threads. A process, so about a second."""
    code = "import loadtest, sys; assert not {'locust', 'gevent', 'grpc'} & set(sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
