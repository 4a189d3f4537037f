"""`python -m local_stack`: fetches what this machine can run into the checkout's `dist/`."""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from local_stack.components.triton import lacking as triton_lacking
from local_stack.dist import fetch_jars, fetch_triton
from local_stack.errors import StackError
from local_stack.home import Home, checkout_root
from local_stack.java import find_java, lacking


def main() -> None:
    """Fetch side by side, saying what is done and what is left out; exit 3 if a download fails."""
    home = Home(checkout_root() / ".millrace")
    home.make()
    wanted: dict[str, Callable[[], Path]] = {}
    if reason := lacking(find_java(os.environ), os.environ):
        _say(f"no Kafka and no Cassandra: {reason}")
    else:
        wanted |= {name: partial(fetch_jars, home, name) for name in ("kafka", "cassandra")}
    if reason := triton_lacking():
        _say(f"no Triton: {reason}")
    else:
        wanted["triton"] = partial(fetch_triton, home)
    begun = time.monotonic()
    failed = False
    with ThreadPoolExecutor() as pool:
        for name, future in [(name, pool.submit(fetch)) for name, fetch in wanted.items()]:
            try:
                _say(f"{name}: {future.result()} ({time.monotonic() - begun:.1f} s)")
            except StackError as exc:
                failed = True
                _say(f"{name}: {exc}")
    sys.exit(3 if failed else 0)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
