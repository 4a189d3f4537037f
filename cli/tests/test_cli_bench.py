"""What every bench prints, and how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from millrace_cli import bench
from millrace_cli.errors import GateSaidNo
from millrace_cli.settings import Settings
from pipelines.bench import at_least, at_most


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of an empty home."""
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    return Settings()


def result(ratio: float) -> dict[str, Any]:
    """A measurement of two ways."""
    keys = {"ratio": ratio, "p99_ms": 2.0}
    table = [{"who": "ours", "events_per_s": 3.0}, {"who": "another's", "events_per_s": 1.0}]
    return {
        **keys,
        "what": "3 events",
        "table": table,
        "bars": [at_least(keys, "ratio", 2), at_most(keys, "p99_ms", 2)],
    }


def test_keys_table_and_machine_are_the_last_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """What a script reads, below what a person reads."""
    bench.report("stream", result(2.0), settings, as_json=True)

    *shown, last = capsys.readouterr().out.splitlines()
    assert any("another's" in line for line in shown)
    answer = json.loads(last)
    assert (2.0, [], "3 events") == (answer["ratio"], answer["missed"], answer["what"])
    assert {"key": "ratio", "limit": 2, "measured": 2.0, "held": True} in answer["bars"]
    assert "cores" in answer["ran_on"]


def test_a_missed_promise_is_a_no(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, and with JSON the object stays the last line."""
    with pytest.raises(GateSaidNo, match="missed ratio"):
        bench.report("stream", result(1.9), settings, as_json=False)
    with pytest.raises(typer.Exit) as ended:
        bench.report("stream", result(1.9), settings, as_json=True)

    assert GateSaidNo.exit_code == ended.value.exit_code
    assert ["ratio"] == json.loads(capsys.readouterr().out.splitlines()[-1])["missed"]
