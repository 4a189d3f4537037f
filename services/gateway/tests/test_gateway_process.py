"""Settings, README and imports of the process."""

import subprocess
import sys
from pathlib import Path

import gateway
import pytest
from gateway.settings import Settings
from servicekit.settings import load_settings, settings_table

CORE = ("query", "ranking", "ladder", "rows", "retrieval", "popularity", "model", "breaker", "admission")
FOREIGN = ("grpc", "kafka", "tritonclient", "onnxruntime", "redis", "cassandra", "lmdb")


def test_the_readme_shows_the_settings_as_they_are() -> None:
    """The table is generated; this says how, when it fails."""
    readme = (Path(gateway.__file__).parents[1] / "README.md").read_text()
    assert settings_table(Settings) in readme


def test_production_refuses_the_callers_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A development convenience, named with the way out."""
    monkeypatch.setenv("MILLRACE_ENV", "production")
    monkeypatch.setenv("MILLRACE_ALLOW_REQUEST_TIME", "true")
    with pytest.raises(SystemExit) as caught:
        load_settings(Settings)
    assert 2 == caught.value.code
    assert "MILLRACE_ALLOW_REQUEST_TIME" in capsys.readouterr().err


def test_the_core_knows_no_network_library() -> None:
    """Importing it loads none of them. Slow: only a fresh interpreter can tell."""
    code = f"import sys; {'; '.join(f'import gateway.{name}' for name in CORE)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert [] == [name for name in FOREIGN if name in loaded]
