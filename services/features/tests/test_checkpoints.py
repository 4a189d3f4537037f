"""Leases are exclusive, checkpoints are whole or absent, and nothing readable is removed too early."""

from dataclasses import replace
from pathlib import Path

import pytest
from features.checkpoints import Checkpoint, CheckpointFolder
from features.errors import CheckpointUnusable, LeaseLost


def checkpoint(epoch: int, offset: int = 5) -> Checkpoint:
    return Checkpoint(epoch, 0xABCD, {"interactions": offset, "users": 1}, "store", {"users": b"uu", "items": b""})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Offsets, epoch and every section come back."""
    folder = CheckpointFolder(tmp_path / "movies.1" / "0")
    saved = checkpoint(folder.lease())

    assert folder.save(saved) == sum(map(len, saved.encode()))
    assert folder.newest(0xABCD) == [saved]


def test_every_lease_is_higher_than_all_before(tmp_path: Path) -> None:
    """Also above what the online store has seen."""
    folder = CheckpointFolder(tmp_path)

    assert [folder.lease(), folder.lease(), folder.lease(above=9), folder.lease()] == [1, 2, 10, 11]


def test_an_older_owner_can_neither_check_nor_save(tmp_path: Path) -> None:
    """It learns of the newer one at its next step, and the newest checkpoint stays."""
    folder = CheckpointFolder(tmp_path)
    old = folder.lease()
    folder.save(checkpoint(old))
    new = folder.lease()

    with pytest.raises(LeaseLost, match="another worker"):
        folder.check(old)
    with pytest.raises(LeaseLost):
        folder.save(checkpoint(old, 99))
    assert folder.newest(0xABCD) == [checkpoint(old)]
    folder.check(new)


def test_a_cut_temporary_file_is_no_checkpoint(tmp_path: Path) -> None:
    """A kill between write and rename leaves the older checkpoint in force."""
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(folder.lease()))
    epoch = folder.lease()
    (tmp_path / str(epoch) / "checkpoint.tmp").write_bytes(b"".join(checkpoint(epoch).encode())[:20])

    assert folder.newest(0xABCD) == [checkpoint(1)]


@pytest.mark.parametrize("position", [0, 9, 30, 60, -1])
def test_one_flipped_bit_makes_the_checkpoint_before_it_count(tmp_path: Path, position: int) -> None:
    """The damaged file is stepped over, and named for the log."""
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(folder.lease()))
    folder.save(checkpoint(folder.lease(), 8))
    raw = bytearray((tmp_path / "2" / "checkpoint").read_bytes())
    raw[position] ^= 1
    (tmp_path / "2" / "checkpoint").write_bytes(raw)

    assert folder.newest(0xABCD) == [checkpoint(1)]
    assert len(folder.damaged) == 1
    assert "2/checkpoint" in folder.damaged[0]


def test_only_damaged_checkpoints_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    """Starting from nothing must be somebody's decision."""
    folder = CheckpointFolder(tmp_path)
    folder.lease()
    (tmp_path / "1" / "checkpoint").write_bytes(b"short")

    with pytest.raises(CheckpointUnusable, match="remove"):
        folder.newest(0xABCD)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    """A changed layout is a rollout under the next revision, never a reinterpretation of bytes."""
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(folder.lease()))

    with pytest.raises(CheckpointUnusable, match="rebuild features --revision"):
        folder.newest(0x1234)


def test_old_epochs_go_but_two_checkpoints_stay(tmp_path: Path) -> None:
    """Leases without a checkpoint between them go as well, once nothing needs them."""
    folder = CheckpointFolder(tmp_path)
    for _ in range(4):
        folder.lease()
        folder.save(checkpoint(folder.lease()))

    assert folder.epochs() == [6, 7, 8]
    assert folder.newest(0xABCD) == [checkpoint(8)]


def increment(epoch: int, serial: int, number: int) -> Checkpoint:
    return replace(checkpoint(epoch, 5 + number), serial=serial, increment=number)


def test_increments_follow_their_full_checkpoint(tmp_path: Path) -> None:
    """In order; those of an older full one never count, and go."""
    folder = CheckpointFolder(tmp_path)
    epoch = folder.lease()
    for saved in (checkpoint(epoch), increment(epoch, 1, 1), increment(epoch, 1, 2)):
        folder.save(saved)
    assert [found.increment for found in folder.newest(0xABCD)] == [0, 1, 2]

    second = replace(checkpoint(epoch, 9), serial=2)
    (tmp_path / "1" / "checkpoint").write_bytes(b"".join(second.encode()))  # killed before the older ones' end
    assert folder.newest(0xABCD) == [second]

    folder.save(second)
    folder.save(increment(epoch, 2, 1))
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["checkpoint", "increment-2-1"]


def test_a_damaged_increment_ends_the_state_there(tmp_path: Path) -> None:
    """What the ones before it hold stays; the log has the rest."""
    folder = CheckpointFolder(tmp_path)
    epoch = folder.lease()
    for saved in (checkpoint(epoch), increment(epoch, 1, 1), increment(epoch, 1, 2), increment(epoch, 1, 3)):
        folder.save(saved)
    raw = bytearray((tmp_path / "1" / "increment-1-2").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "1" / "increment-1-2").write_bytes(raw)

    assert [found.increment for found in folder.newest(0xABCD)] == [0, 1]
    assert len(folder.damaged) == 1
