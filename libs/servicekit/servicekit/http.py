"""The small HTTP server of every process: /live, /ready, /metrics, and POST endpoints that the process adds."""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

Endpoint = Callable[[], Mapping[str, Any]]


class Readable(Protocol):
    """What the server needs to know of its process."""

    registry: CollectorRegistry

    @property
    def ready(self) -> "Conditions": ...  # noqa: D102  the class docstring says it

    @property
    def log(self) -> structlog.stdlib.BoundLogger: ...  # noqa: D102


class Conditions(Protocol):
    """Whether the process wants traffic, and why."""

    @property
    def is_ready(self) -> bool: ...  # noqa: D102

    def conditions(self) -> Mapping[str, bool]: ...  # noqa: D102


class HttpServer:
    """Serves until `close`. `port` 0 takes a free one; `.port` tells which."""

    def __init__(self, host: str, port: int, process: Readable) -> None:
        self._posts: dict[str, Endpoint] = {}
        one_at_a_time = threading.Lock()
        posts = self._posts

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10  # a peer that connects and says nothing must not keep a thread

            def do_GET(self) -> None:
                match self.path.split("?")[0]:
                    case "/live":
                        self._json(200, {"live": True})
                    case "/ready":
                        is_ready = process.ready.is_ready
                        self._json(
                            200 if is_ready else 503, {"ready": is_ready, "conditions": process.ready.conditions()}
                        )
                    case "/metrics":
                        self._answer(200, CONTENT_TYPE_LATEST, generate_latest(process.registry))
                    case path:
                        self._json(404, {"error": f"{path}: no such page; GET /live, /ready or /metrics"})

            def do_POST(self) -> None:
                self.close_connection = True  # the body, if any, stays unread
                path = self.path.split("?")[0]
                if (endpoint := posts.get(path)) is None:
                    self._json(404, {"error": f"{path}: no such endpoint; POST {', '.join(sorted(posts)) or '(none)'}"})
                    return
                try:
                    with one_at_a_time:
                        answer = endpoint()
                except Exception as exc:
                    process.log.exception("endpoint failed", path=path)
                    self._json(500, {"error": f"{type(exc).__name__}: {exc}"})
                    return
                self._json(200, answer)

            def _json(self, status: int, value: Mapping[str, Any]) -> None:
                self._answer(status, "application/json", json.dumps(value).encode() + b"\n")

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the standard library's name
                """Probes and scrapes come every second: no line each."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False  # an idle keep-alive connection must not hold the exit up

        try:
            self._server = Server((host, port), Handler)
        except OSError as exc:
            raise OSError(
                exc.errno, f"HTTP port {host}:{port}: {exc.strerror}; free it or set MILLRACE_PORT_OFFSET"
            ) from exc
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._server.server_address[1])

    def post(self, path: str, endpoint: Endpoint) -> None:
        """Answer POST `path` with what `endpoint()` returns."""
        self._posts[path] = endpoint

    def close(self) -> None:
        """Stop and free the port. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
