"""Downloads: whole or absent, once for all homes."""

from pathlib import Path

import pytest
from local_stack import dist
from local_stack.errors import FetchFailed, MissingProgram
from local_stack.home import Home


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven that notes its calls in `calls`, writes one jar, and fails while `broken` exists."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "mvn"
    program.write_text(
        "#!/bin/sh\n"
        f"echo called >>{folder}/calls\n"
        'for each in "$@"; do case "$each" in -DoutputDirectory=*) out="${each#*=}";; esac; done\n'
        'echo jar >"$out/a.jar"\n'
        f"if [ -e {folder}/broken ]; then echo 'no such artifact'; exit 1; fi\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def alone(tmp_path: Path) -> Home:
    """A home that finds nothing in the checkout's: its `dist/` has no jars of that name yet."""
    return Home(tmp_path / "alone")


@pytest.fixture(autouse=True)
def no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout's own downloads must not answer for the home under test."""
    monkeypatch.setattr("local_stack.home.checkout_root", lambda: tmp_path / "checkout")


def test_jars_are_fetched_once(maven: Path, alone: Home) -> None:
    """The second start needs no network."""
    first = dist.fetch_jars(alone, "kafka")
    second = dist.fetch_jars(alone, "kafka")

    assert first == second
    assert [path.name for path in first.iterdir()] == ["a.jar"]
    assert (maven / "calls").read_text().splitlines() == ["called"]


def test_a_failed_fetch_leaves_nothing_and_is_retried_once(maven: Path, alone: Home) -> None:
    """Half a folder of jars would start half a server."""
    (maven / "broken").touch()

    with pytest.raises(FetchFailed, match="no such artifact"):
        dist.fetch_jars(alone, "kafka")

    assert (maven / "calls").read_text().splitlines() == ["called", "called"]
    assert not dist.jars_folder(alone, "kafka").exists()
    assert [path for path in alone.dist.iterdir() if path.is_dir()] == []


def test_another_home_uses_the_checkouts_jars(maven: Path, alone: Home, tmp_path: Path) -> None:
    """A second stack downloads nothing again."""
    own = Home(tmp_path / "checkout" / ".millrace")
    fetched = dist.fetch_jars(own, "kafka")

    assert dist.fetch_jars(alone, "kafka") == fetched


def test_without_maven_the_remedy_is_named(alone: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One sentence says what to install, or what to do without."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingProgram, match="install it, or use --profile embedded"):
        dist.fetch_jars(alone, "kafka")
