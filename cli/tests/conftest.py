"""The command in this process, with an environment of the test's own."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from millrace_cli import settings
from millrace_cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command with the given settings as its only ones."""

    def call(*arguments: str, **environ: str) -> Done:
        for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        settings.load.cache_clear()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return call
