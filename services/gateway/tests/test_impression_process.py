"""Records across processes: in order, whole, none of them twice or lost, whoever dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gateway.impression_process import ImpressionProcess
from gateway.ring import Ring
from hypothesis import given
from hypothesis import strategies as st

READER = """
import argparse, sys, pathlib
from gateway.writing import Writer, orphaned
from gateway.ring import Ring

class File:
    def __init__(self, path): self.path = path
    def send(self, records, on_lost):
        with open(self.path, "ab") as out:
            for user, value in records:
                if value == b"lost": on_lost(OSError())
                else: out.write(b"%d %s\\n" % (user, value))
    def close(self, timeout_s): pathlib.Path(self.path + ".closed").touch()

parser = argparse.ArgumentParser(); parser.add_argument("--ring", type=int); parser.add_argument("path")
asked = parser.parse_args()
Writer(Ring(asked.ring), [File(asked.path)], lambda exc: None).run(orphaned)
"""


@given(
    st.lists(st.tuples(st.lists(st.binary(max_size=40), max_size=3), st.integers(0, 3)), max_size=60),
    st.sampled_from([64, 136, 512]),
)
def test_a_ring_gives_back_what_was_put_in(steps: list[tuple[list[bytes], int]], capacity: int) -> None:
    """In order and whole, however often it wraps; what does not fit is refused, and leaves no trace."""
    fd = Ring.made(capacity)
    ours, theirs = Ring(fd, capacity), Ring(fd, capacity)
    os.close(fd)
    held: list[tuple[int, int, bytes]] = []
    for number, (parts, taken) in enumerate(steps):
        record = (number % 3, 2**64 - 1 - number, b"".join(parts))
        if ours.push(record[0], record[1], parts):
            held.append(record)
        else:
            assert held or 2 * (16 + len(record[2])) > capacity - 16  # the room may lie at both ends
        found, place = theirs.peek(taken)
        assert held[:taken] == found == theirs.peek(taken)[0]
        theirs.release(place)
        held = held[taken:]
    assert held == theirs.peek(100)[0]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "written"


@pytest.fixture
def process(written: Path) -> Iterator[ImpressionProcess]:
    """Its records go to a file; those that say so are lost."""
    process = ImpressionProcess([sys.executable, "-c", READER, str(written)], LOST.append)
    LOST.clear()
    process.start()
    yield process
    process.close(30.0)


LOST: list[int] = []


def holds(condition: Callable[[], bool]) -> bool:
    """Whether it comes to hold within thirty seconds."""
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def test_all_is_written_before_the_end(process: ImpressionProcess, written: Path) -> None:
    """What was queued when the gateway drains; the lost ones are told."""
    for user in range(500):
        assert process.ring.push(0, user, [b"lost" if user % 100 == 7 else b"value"])
    process.close(30.0)

    assert [b"%d value" % user for user in range(500) if user % 100 != 7] == written.read_bytes().splitlines()
    assert (5, True) == (sum(LOST), written.with_name("written.closed").exists())


def test_a_writer_that_dies_is_started_again(process: ImpressionProcess, written: Path) -> None:
    """Requests do not notice, and the next one goes on where it ended."""
    process.ring.push(0, 1, [b"before"])
    assert holds(lambda: written.exists() and process.ring.waiting == 0)
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    process.ring.push(0, 2, [b"after"])

    assert holds(lambda: process.ring.waiting == 0)
    assert [b"1 before", b"2 after"] == written.read_bytes().splitlines()
    assert first != process.pid


def test_what_a_dead_gateway_left_is_written(written: Path) -> None:
    """The gateway is killed with records queued: its writer takes them, flushes, and ends."""
    code = (
        "import os, signal, sys\nfrom gateway.impression_process import ImpressionProcess\n"
        "process = ImpressionProcess([sys.executable, '-c', sys.argv[1], sys.argv[2]], print)\n"
        "for user in range(100): process.ring.push(0, user, [b'value'])\n"
        "process.start()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, READER, str(written)], check=False)
    assert -signal.SIGKILL == ended.returncode

    assert holds(written.with_name("written.closed").exists)
    assert [b"%d value" % user for user in range(100)] == written.read_bytes().splitlines()
