"""Port maths: the offset, and who is in the way."""

import os
import socket

import pytest
from local_stack.ports import OFFSETS, SPARE_OFFSETS, Ports, holder, is_free


def test_every_port_moves_by_the_offset() -> None:
    """A second stack on the machine meets the first nowhere."""
    first, second = Ports.at(0).all(), Ports.at(300).all()

    assert {name: port + 300 for name, port in first.items()} == second


def test_no_two_offsets_share_a_port() -> None:
    """Ten stacks fit side by side, and ten spare ones."""
    every = [port for offset in (*OFFSETS, *SPARE_OFFSETS) for port in Ports.at(offset).all().values()]

    assert len(set(every)) == len(every)


def test_no_outgoing_connection_gets_a_port_of_a_spare_stack() -> None:
    """A part that was killed must find its port free when it comes back, whoever connected meanwhile."""
    every = [port for offset in SPARE_OFFSETS for port in Ports.at(offset).all().values()]

    assert not any(32_768 <= port <= 60_999 for port in every)  # Linux' range, where nobody set another
    assert max(every) < 65_536


@pytest.mark.parametrize("offset", [-100, 50, 1000, 10_900, 12_000])
def test_an_offset_that_would_collide_is_refused(offset: int) -> None:
    """The message names the variable and the remedy."""
    with pytest.raises(ValueError, match=f"MILLRACE_PORT_OFFSET is {offset}: take a multiple of 100 from 0 to 900"):
        Ports.at(offset)


def test_free_ports_are_distinct_and_no_outgoing_connection_gets_one() -> None:
    """A killed broker must find its port free when it comes back, whoever connected meanwhile."""
    free = list(Ports.free().all().values())

    assert len(set(free)) == len(free)
    assert all(is_free(port) for port in free)
    assert set(free).isdisjoint(port for offset in SPARE_OFFSETS for port in Ports.at(offset).all().values())
    assert max(free) < 32_768  # where the range of outgoing connections begins on Linux; on macOS it is 49152


def test_a_busy_port_names_its_holder() -> None:
    """The first question of everybody whose start fails is: who?"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert not is_free(port)
        assert f"(pid {os.getpid()})" in holder(port)
    assert is_free(port)
