"""The guard reads the header that `definitions.packed` writes."""

import itertools
import struct

import pytest
from definitions.row_header import read_header
from stores.errors import InvalidRow
from stores.online.guard import HEADER_BYTES, version_of, wins
from stores.online.interface import key_prefix, row_key


def test_the_guard_reads_the_packed_header() -> None:
    """The place of epoch and offsets is the row format's, declared there, used here and on Valkey's server."""
    row = struct.pack("<BIqIQQ", 1, 2, 3, 4, 5, 6) + b"columns"
    header = read_header(row)

    assert version_of(row) == (header.epoch, header.interactions_offset, header.users_offset) == (4, 5, 6)
    with pytest.raises(InvalidRow):
        version_of(row[: HEADER_BYTES - 1])


def test_of_two_different_versions_at_most_one_wins() -> None:
    """So two replicas that write in any order end at the same row, or at either of two that cannot be compared."""
    versions = list(itertools.product((0, 1), (0, 1, 2), (0, 1, 2)))
    for one, other in itertools.product(versions, versions):
        assert wins(one, one)
        assert one == other or not (wins(one, other) and wins(other, one))


def test_keys_sort_as_their_users() -> None:
    """Big-endian: a scan gives users in order; the revision is part of the name."""
    prefix = key_prefix("movies", 2)
    assert row_key(prefix, 258) == b"u:movies.2:\x00\x00\x00\x00\x00\x00\x01\x02"
    assert row_key(prefix, 255) < row_key(prefix, 256) < row_key(prefix, 2**64 - 1)
