"""The collector's settings and its README."""

from pathlib import Path

import pytest
from collector.settings import Settings
from servicekit.settings import load_settings, settings_table


def test_the_readme_has_the_settings_table() -> None:
    """The README is what the class says."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()

    assert settings_table(Settings) in readme


def test_a_wrong_setting_ends_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the variable's name, and no half start."""
    monkeypatch.setenv("MILLRACE_MAX_IN_FLIGHT", "0")
    monkeypatch.setenv("MILLRACE_VALKEY", "127.0.0.1:6379")

    with pytest.raises(SystemExit) as exit_:
        load_settings(Settings)

    told = capsys.readouterr().err
    assert 2 == exit_.value.code
    assert "MILLRACE_MAX_IN_FLIGHT: " in told
    assert "MILLRACE_VALKEY: " in told
