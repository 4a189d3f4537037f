"""The embedded profile on a machine without Java: chosen by itself, ready, and gone without a trace."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_stack.harness import NativeStack, free_offset
from local_stack.ports import is_free

pytestmark = pytest.mark.real


@pytest.fixture
def without_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NativeStack]:
    """A stack whose PATH has nothing of this machine; not up yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with free_offset() as offset:
        stack = NativeStack(tmp_path / "home", offset)
        yield stack
        stack.millrace("down")


def test_it_is_taken_where_java_is_missing_and_leaves_nothing(without_java: NativeStack) -> None:
    """It says why; afterwards no port is held."""
    answer = without_java.millrace("up")
    ready = {part["name"]: part["state"] for part in without_java.millrace("status")["parts"]}
    without_java.millrace("down")

    assert answer["profile"] == "embedded"
    assert answer["why"].startswith("Java 17 is not installed")
    assert ready == dict.fromkeys(("kafka", "collector", "features", "archiver", "gateway"), "ready")
    assert [port for port in without_java.ports.all().values() if not is_free(port)] == []
    assert not without_java.millrace("status")["up"]


def test_the_real_profile_is_the_environments_fault_there(without_java: NativeStack) -> None:
    """Exit 3: an installation and a retry help."""
    assert "Java 17 is not installed" in without_java.millrace("up", "--profile", "real", code=3)["error"]
