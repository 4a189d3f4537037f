"""A home per test, and small real child processes that stand for servers."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_stack import process
from local_stack.component import Component
from local_stack.home import Home
from local_stack.ports import Ports
from local_stack.probes import Probe

_SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
    def log_message(self, *said):
        pass
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home with its folders."""
    made = Home(tmp_path / "home")
    made.make()
    return made


@pytest.fixture
def component() -> Callable[..., Component]:
    """Makes a component: by default a small HTTP server that is ready at once."""

    def make(code: str = _SERVER, *, name: str = "small", stop_s: float = 5.0, start_s: float = 10.0) -> Component:
        port = Ports.free().gateway_metrics
        return Component(
            name=name,
            wave=1,
            command=[sys.executable, "-c", code, str(port)],
            ports={"metrics": port},
            probe=Probe("http", f"127.0.0.1:{port}", "/ready"),
            start_s=start_s,
            stop_s=stop_s,
        )

    return make


@pytest.fixture
def started(home: Home) -> Iterator[Callable[[Component], process.RunFile]]:
    """Starts components, and stops at the end what a test has left."""
    runs = []

    def start(component: Component) -> process.RunFile:
        runs.append(process.start(component, home, os.environ))
        return runs[-1]

    yield start
    for run in runs:
        process.stop(run, home)
