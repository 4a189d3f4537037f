"""Port maths: the offset, and who is in the way."""

import os
import socket

import pytest
from local_stack.ports import Ports, holder, is_free


def test_every_port_moves_by_the_offset() -> None:
    """A second stack on the machine meets the first nowhere."""
    first, second = Ports.at(0).all(), Ports.at(300).all()

    assert {name: port + 300 for name, port in first.items()} == second


def test_no_two_offsets_share_a_port() -> None:
    """Ten stacks fit side by side."""
    every = [port for offset in range(0, 1000, 100) for port in Ports.at(offset).all().values()]

    assert len(set(every)) == len(every)


@pytest.mark.parametrize("offset", [-100, 50, 1000])
def test_an_offset_that_would_collide_is_refused(offset: int) -> None:
    """The message names the variable and the remedy."""
    with pytest.raises(ValueError, match=f"MILLRACE_PORT_OFFSET is {offset}: take a multiple of 100 from 0 to 900"):
        Ports.at(offset)


def test_a_busy_port_names_its_holder() -> None:
    """The first question of everybody whose start fails is: who?"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert not is_free(port)
        assert f"(pid {os.getpid()})" in holder(port)
    assert is_free(port)
