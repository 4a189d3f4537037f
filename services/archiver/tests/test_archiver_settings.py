"""The README's settings table is the settings class's."""

from pathlib import Path

import pytest
from archiver.metrics import Metrics
from archiver.settings import Settings
from prometheus_client import CollectorRegistry
from servicekit.settings import load_settings, settings_table

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_readme_lists_every_setting() -> None:
    """A setting that is undocumented, or documented and gone, fails here."""
    assert settings_table(Settings) in README


def test_the_readme_lists_every_metric() -> None:
    """The same for metrics."""
    registry = CollectorRegistry()
    Metrics(registry)
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in registry.collect()}

    assert {name for name in names if f"| `{name}" not in README} == set()


def test_a_replica_that_is_none_of_the_replicas_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replica 2 of 2 would own nothing."""
    monkeypatch.setenv("MILLRACE_REPLICA", "2")
    monkeypatch.setenv("MILLRACE_REPLICAS", "2")

    with pytest.raises(SystemExit, match="2"):
        load_settings(Settings)
    assert "MILLRACE_REPLICA is 2" in capsys.readouterr().err
