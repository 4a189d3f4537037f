"""State that another log made is set aside, never used and never lost."""

import pytest
from local_stack import identity
from local_stack.home import Home


@pytest.fixture
def with_state(home: Home) -> Home:
    """A home whose rows and checkpoints are of log `a`."""
    identity.adopt(home, "a")
    for name in ("online", "checkpoints"):
        (home.data / name).mkdir()
        (home.data / name / "file").write_text(f"{name} of a")
    (home.root / "lake").mkdir()
    return home


def test_the_same_log_keeps_its_state(with_state: Home) -> None:
    """A restart is no new log."""
    assert not identity.is_foreign(with_state, "a")


def test_state_without_a_log_is_nobodys(home: Home) -> None:
    """A first start has nothing to set aside."""
    assert not identity.is_foreign(home, "a")
    assert identity.set_aside(home) is None


def test_another_log_finds_rows_and_checkpoints_gone_and_delta_kept(with_state: Home) -> None:
    """Their offsets would make the archiver and the store drop fresh events as old."""
    assert identity.is_foreign(with_state, "b")

    folder = identity.set_aside(with_state)
    identity.adopt(with_state, "b")

    assert folder == with_state.data / "foreign" / "a"
    assert not (with_state.data / "online").exists()
    assert not (with_state.data / "checkpoints").exists()
    assert (with_state.root / "lake").exists()
    assert not identity.is_foreign(with_state, "b")


def test_the_first_log_finds_its_state_again(with_state: Home) -> None:
    """Trying the embedded profile once costs the real one nothing."""
    identity.set_aside(with_state)
    identity.adopt(with_state, "b")
    (with_state.data / "online").mkdir()
    identity.set_aside(with_state)
    identity.adopt(with_state, "a")

    assert (with_state.data / "online" / "file").read_text() == "online of a"
    assert (with_state.data / "checkpoints" / "file").read_text() == "checkpoints of a"
    assert (with_state.data / "foreign" / "b" / "online").exists()
