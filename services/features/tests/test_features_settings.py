"""The README's settings table is the settings class's, and wrong settings are refused together."""

from pathlib import Path

import pytest
from features.settings import Settings
from servicekit.settings import load_settings, settings_table


def test_the_readme_lists_every_setting() -> None:
    """A setting that is undocumented, or documented and gone, fails here."""
    readme = Path(__file__).parents[1] / "README.md"

    assert settings_table(Settings) in readme.read_text()


def test_a_replica_that_is_none_of_the_replicas_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replica 2 of 2 would own nothing, and partition 0 or 1 nobody."""
    monkeypatch.setenv("MILLRACE_REPLICA", "2")
    monkeypatch.setenv("MILLRACE_REPLICAS", "2")

    with pytest.raises(SystemExit, match="2"):
        load_settings(Settings)

    assert "MILLRACE_REPLICA is 2" in capsys.readouterr().err
