"""The command as people and scripts meet it: help, exit codes, the last line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from millrace_cli import output
from millrace_cli.errors import CommandError
from millrace_cli.main import COMMANDS, Commands

Run = Callable[..., Any]


def test_help_lists_every_command_and_imports_none() -> None:
    """Typing `millrace` must answer at once, however heavy the commands become."""
    code = "import sys, millrace_cli.main as m; m.main(['--help'])"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)

    assert done.returncode == 0
    assert [name for name in COMMANDS if name not in done.stdout] == []
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported & {"grpc", "kafka", "numpy", "polars", "pydantic", "mlflow", "millrace_cli.stack"} == set()


def test_what_most_commands_begin_with_imports_no_model_library() -> None:
    """Settings, the loaded data's note and a failing command's words: these alone would take seconds."""
    code = "import millrace_cli.settings, millrace_cli.ask, millrace_cli.environment, pipelines.journal, sys"
    heavy = {"onnxruntime", "numba", "polars", "lightgbm", "mlflow", "bundle"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*({heavy} & set(sys.modules)))"], capture_output=True, text=True
    )

    assert ("\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_registered_command_can_be_imported(name: str) -> None:
    """A line of the list that names nothing would fail only when typed."""
    command = Commands().get_command(None, name)

    assert command is not None
    assert command.name == name


def test_an_unknown_command_is_bad_input(run: Run) -> None:
    """Exit 2, and the way to the list."""
    done = run("nonsense")

    assert done.code == 2
    assert "nonsense" in done.stderr


def test_a_wrong_profile_is_bad_input(run: Run) -> None:
    """The message names what may be given."""
    done = run("up", "--profile", "imaginary")

    assert done.code == 2
    assert "--profile imaginary: take embedded or real" in done.stderr


def test_a_misspelt_setting_is_refused_with_the_right_one(run: Run) -> None:
    """A setting that nobody reads would be silently without effect."""
    done = run("status", MILLRACE_PORT_OFSET="100")

    assert done.code == 2
    assert "MILLRACE_PORT_OFSET" in done.stderr
    assert "MILLRACE_PORT_OFFSET" in done.stderr


def test_a_setting_of_a_service_may_be_set(run: Run, tmp_path: Path) -> None:
    """The command passes on what it does not read itself."""
    assert run("status", MILLRACE_HOME=str(tmp_path), MILLRACE_RANK_CEILING_S="0.3").code == 0


def test_status_of_nothing_says_how_to_start(run: Run, tmp_path: Path) -> None:
    """A stack that was never started has nothing dead."""
    done = run("status", MILLRACE_HOME=str(tmp_path))

    assert done.code == 0
    assert "no stack is up: `millrace up` starts one" in done.stdout


def test_the_last_line_of_json_says_what_it_ran_on(run: Run, tmp_path: Path) -> None:
    """A figure without its machine and versions is worth nothing."""
    answer = json.loads(run("status", "--json", MILLRACE_HOME=str(tmp_path)).stdout.splitlines()[-1])

    assert answer["up"] is False
    assert answer["parts"] == []
    assert {"profile", "cores", "memory_gib", "platform", "commit", "versions"} == set(answer["ran_on"])
    assert answer["ran_on"]["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_failure_is_an_object_too(run: Run) -> None:
    """A script that reads the last line must never find something else there."""
    done = run("up", "--profile", "imaginary", "--json")

    assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 2


def test_errors_have_the_documented_exit_codes() -> None:
    """0 done, 1 a gate said no, 2 bad input, 3 the environment."""
    assert sorted(error.exit_code for error in CommandError.__subclasses__()) == [1, 2, 3]


def test_progress_without_a_terminal_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A log of CI shows how far the work is, and how fast."""
    with output.progress("reading", total=10, unit="rows") as advance:
        for _ in range(10):
            advance(1)

    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:-1]] == [f"reading: {tenth}0 %" for tenth in range(1, 11)]
    assert lines[-1].startswith("reading: 10 rows in ")
