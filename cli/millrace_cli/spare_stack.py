"""A whole real stack of one command: in a folder and at ports of its own, both gone with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from millrace_cli.errors import EnvironmentAtFault

if TYPE_CHECKING:
    from local_stack.harness import NativeStack
    from pipelines.progress import Progress

SERVERS: Final = ("triton", "valkey", "cassandra")


@contextmanager
def spare_stack(progress: Progress) -> Iterator[NativeStack]:
    """A real stack, ready.

    Raises:
        EnvironmentAtFault: this machine cannot run all of it, or a command that the stack was given has failed.
    """
    from local_stack.harness import NativeStack, free_offset

    with free_offset() as offset, tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        stack = NativeStack(Path(folder), offset)
        progress.stage("start a real stack")
        try:
            stack.millrace("up", "--profile", "real")
            if missing := [name for name in SERVERS if name not in stack.pids()]:
                raise EnvironmentAtFault(f"this machine cannot run {', '.join(missing)}: millrace doctor says why")
            yield stack
        except AssertionError as exc:  # a command that this stack was given has failed; the message is what it said
            raise EnvironmentAtFault(str(exc)) from exc
        finally:
            stack.begun("down").communicate()
