"""Checkpoints of one partition and the lease on it: `<root>/<epoch>/checkpoint`, each epoch's folder made exclusively.

A full one may be followed by `increment-<serial>-<number>` files, each with what has changed since the one before;
`serial` is the full one's. The state is the full one and every whole increment after it, up to the first that is not.

The folder with the highest epoch names the owner. A checkpoint is whole or absent: temporary file, fsync, rename.
"""

import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import xxhash
from servicekit.failpoints import fp

from features.errors import CheckpointUnusable, CheckpointUnwritable, LeaseLost

_MAGIC: Final = b"MRCP0001"
_PREFIX: Final = struct.Struct("<8s16s")  # magic, xxh3_128 of all that follows
_LENGTH: Final = struct.Struct("<I")  # of the JSON head; then the sections
_FILE: Final = "checkpoint"
_KNOWN: Final = "item-features"  # beside the epochs' folders
_KEPT: Final = 2  # checkpoints that stay readable: the newest, and the one before in case it is damaged


@dataclass(frozen=True)
class Checkpoint:
    """State of one partition after every record below `offsets`.

    Attributes:
        epoch: of the worker that wrote it.
        layout_hash: of the layout that gives `sections` their meaning.
        offsets: next offset by topic kind (`interactions`, `users`).
        store_id: identity of the online store that has this state's rows.
        sections: the state's parts, opaque here; of an increment, what has changed in them.
        serial: number of the full one among its epoch's.
        increment: 0 for a full one, else its place among those that follow it, from 1.
    """

    epoch: int
    layout_hash: int
    offsets: Mapping[str, int]
    store_id: str
    sections: Mapping[str, bytes]
    serial: int = 1
    increment: int = 0

    @property
    def file(self) -> str:
        """Its name in the epoch's folder."""
        return f"increment-{self.serial}-{self.increment}" if self.increment else _FILE

    def encode(self) -> list[bytes]:
        """The file's bytes in parts, checksum included."""
        head = json.dumps(
            {
                "epoch": self.epoch,
                "layout_hash": self.layout_hash,
                "offsets": dict(self.offsets),
                "store_id": self.store_id,
                "place": [self.serial, self.increment],
                "sections": [[name, len(section)] for name, section in self.sections.items()],
            },
        ).encode()
        body = [_LENGTH.pack(len(head)), head, *self.sections.values()]
        checksum = xxhash.xxh3_128()
        for part in body:
            checksum.update(part)
        return [_PREFIX.pack(_MAGIC, checksum.digest()), *body]

    @classmethod
    def decode(cls, raw: bytes) -> "Checkpoint":
        """The checkpoint in a file's bytes; CheckpointUnusable if they are cut short or damaged."""
        if len(raw) < _PREFIX.size + _LENGTH.size:
            raise CheckpointUnusable("it is cut short")
        magic, checksum = _PREFIX.unpack_from(raw)
        if magic != _MAGIC:
            raise CheckpointUnusable("it is no checkpoint of this version")
        if xxhash.xxh3_128_digest(memoryview(raw)[_PREFIX.size :]) != checksum:
            raise CheckpointUnusable("its checksum does not match")
        at = _PREFIX.size + _LENGTH.size
        (head_length,) = _LENGTH.unpack_from(raw, _PREFIX.size)
        head = json.loads(raw[at : at + head_length])
        at += head_length
        sections = {}
        for name, length in head["sections"]:
            sections[name] = raw[at : at + length]
            at += length
        return cls(head["epoch"], head["layout_hash"], head["offsets"], head["store_id"], sections, *head["place"])


class CheckpointFolder:
    """The epochs of one partition under `root` (`<log id>/<usecase>.<revision>/<partition>`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.damaged: list[str] = []  # what `newest` had to step over, for the log

    def epochs(self) -> list[int]:
        """Epochs ever leased and not yet cleaned up, ascending."""
        try:
            return sorted(int(entry.name) for entry in os.scandir(self.root) if entry.name.isdecimal())
        except FileNotFoundError:
            return []

    def lease(self, above: int = 0) -> int:
        """Take the partition: the new epoch, higher than `above` and than every epoch before it."""
        self.root.mkdir(parents=True, exist_ok=True)
        while True:
            epoch = max([above, *self.epochs()]) + 1
            try:
                (self.root / str(epoch)).mkdir()
            except FileExistsError:
                continue  # another worker was faster: above it, then
            _sync(self.root)
            return epoch

    def known(self) -> int:
        """The offset of `item-features` that `note_known` gave last; 0 where none was given."""
        try:
            return int((self.root / _KNOWN).read_text())
        except (FileNotFoundError, ValueError):  # a file that a crash left empty: look from the beginning
            return 0

    def note_known(self, offset: int) -> None:
        """Below it, nothing on `item-features` is another's. Not synced: an older offset only means more to look at."""
        aside = self.root / f"{_KNOWN}.tmp"
        try:
            aside.write_text(str(offset))
            aside.replace(self.root / _KNOWN)
        except OSError as exc:
            raise CheckpointUnwritable(f"{self.root}: {exc.strerror}; free space or repair the disk") from exc

    def check(self, epoch: int) -> None:
        """LeaseLost if `epoch` is not the newest any more."""
        epochs = self.epochs()
        newest = epochs[-1] if epochs else 0
        if newest != epoch:
            raise LeaseLost(
                f"{self.root}: this worker has epoch {epoch}, the folder {newest or 'none'}; "
                "another worker owns the partition"
            )

    def newest(self, layout_hash: int) -> list[Checkpoint]:
        """The newest whole checkpoint and the increments after it; nothing where none was ever finished.

        Raises:
            CheckpointUnusable: there are checkpoints, but none is whole; or the newest is of another layout.
        """
        self.damaged = []
        for epoch in reversed(self.epochs()):
            path = self.root / str(epoch) / _FILE
            try:
                checkpoint = Checkpoint.decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except CheckpointUnusable as exc:
                self.damaged.append(f"{path}: {exc}")
                continue
            if checkpoint.layout_hash != layout_hash:
                raise CheckpointUnusable(
                    f"{path} holds layout {checkpoint.layout_hash:#010x}, the use case now has {layout_hash:#010x}: "
                    "give it back its file, and roll the change out: millrace rebuild features --revision"
                )
            return [checkpoint, *self._increments(checkpoint)]
        if self.damaged:
            raise CheckpointUnusable(
                f"no whole checkpoint is left ({'; '.join(self.damaged)}): remove {self.root} to rebuild from the log"
            )
        return []

    def _increments(self, full: Checkpoint) -> Iterator[Checkpoint]:
        """Those that follow it, in order; the log has again what a damaged one held."""
        follower = replace(full, increment=1)
        while True:
            path = self.root / str(full.epoch) / follower.file
            try:
                found = Checkpoint.decode(path.read_bytes())
            except FileNotFoundError:
                return
            except CheckpointUnusable as exc:
                self.damaged.append(f"{path}: {exc}")
                return
            yield found
            follower = replace(full, increment=follower.increment + 1)

    def save(self, checkpoint: Checkpoint) -> int:
        """Write it durably, and drop what nothing needs any more; its size in bytes.

        A full one replaces the epoch's, and the increments of that; an increment stands beside it.

        Raises:
            LeaseLost: a higher epoch exists.
            CheckpointUnwritable: the disk does not take it; the old checkpoint stays.
        """
        self.check(checkpoint.epoch)
        folder = self.root / str(checkpoint.epoch)
        temporary = folder / f"{_FILE}.tmp"
        parts = checkpoint.encode()
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            fp("features.checkpoint_written")
            temporary.replace(folder / checkpoint.file)
            fp("features.checkpoint_renamed")
            _sync(folder)
        except FileNotFoundError as exc:  # cleaned up by a newer owner between the check and the write
            raise LeaseLost(f"{folder} is gone; another worker owns the partition") from exc
        except OSError as exc:
            raise CheckpointUnwritable(f"{folder}: {exc.strerror}; free space or repair the disk") from exc
        if not checkpoint.increment:
            for old in folder.glob("increment-*"):
                if not old.name.startswith(f"increment-{checkpoint.serial}-"):
                    old.unlink(missing_ok=True)
        self._clean_up()
        return sum(map(len, parts))

    def _clean_up(self) -> None:
        finished = [epoch for epoch in self.epochs() if (self.root / str(epoch) / _FILE).exists()]
        if len(finished) >= _KEPT:
            for epoch in self.epochs():
                if epoch < finished[-_KEPT]:
                    shutil.rmtree(self.root / str(epoch), ignore_errors=True)


def _sync(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
