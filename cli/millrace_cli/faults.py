"""Servers of a running stack killed and stopped, for benches and tests; each fault says how it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_stack.harness import NativeStack

Heal = Callable[[], None]


def killed(stack: NativeStack, name: str) -> Heal:
    """Kill a server; the way back is `millrace up`."""
    stack.kill(name)

    def back() -> None:
        stack.millrace("up")

    return back


def stopped(stack: NativeStack, name: str) -> Heal:
    """Stop a server: it keeps its connections and says nothing."""
    from local_stack import process
    from local_stack.home import Home

    run = process.run_files(Home(stack.home))[name]
    process.send(run, signal.SIGSTOP)

    def back() -> None:
        process.send(run, signal.SIGCONT)

    return back
