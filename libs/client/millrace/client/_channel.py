"""The one place that knows gRPC: channel options, deadlines, retries, and statuses as errors."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
from millrace.client import errors

MAX_MESSAGE_BYTES: Final = 256 * 1024  # the servers' limit for a request
ATTEMPTS: Final = 4
FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0

OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", -1),
    # Without the last of these a stopped server is noticed after 40 s, with it after 1.5 s (measured).
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 500),
    ("grpc.http2.ping_timeout_ms", 500),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # we retry ourselves, within one deadline
)

T = TypeVar("T")

_ERRORS: Final[Mapping[grpc.StatusCode, type[errors.MillraceError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
}


def open_channel(target: str) -> grpc.Channel:
    """A plaintext channel to `host:port`; connects on first use."""
    return grpc.insecure_channel(target, options=OPTIONS)


def translate(exc: grpc.RpcError, target: str) -> errors.MillraceError:
    """Our error for a failed call."""
    code, text = exc.code(), f"{target}: {exc.details()}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        trailing = dict(exc.trailing_metadata() or ())
        return errors.Overloaded(text, int(trailing.get("grpc-retry-pushback-ms", 200)) / 1_000)
    return _ERRORS.get(code, errors.ServerFailed)(text)


def call(method: Callable[..., T], request: Any, target: str, timeout_s: float) -> T:
    """`method(request)` within `timeout_s` in all. UNAVAILABLE is tried again, with growing, random pauses.

    Where the time ends within a further try, the error is still the answer that there was: unavailable, and why.

    Raises:
        MillraceError: the status, translated.
    """
    ends = time.monotonic() + timeout_s
    backoff_s = FIRST_BACKOFF_S
    answered: grpc.RpcError | None = None
    for attempt in range(1, ATTEMPTS + 1):
        left_s = ends - time.monotonic()
        try:
            return method(request, timeout=max(left_s, 0.001))
        except grpc.RpcError as exc:
            pause_s = backoff_s * random.uniform(0.5, 1.5)  # noqa: S311  jitter, no secret
            again = exc.code() is grpc.StatusCode.UNAVAILABLE and attempt < ATTEMPTS
            if not again or time.monotonic() + pause_s >= ends:
                is_late = answered is not None and exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                raise translate(answered if is_late else exc, target) from exc
            answered = exc
        time.sleep(pause_s)
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
    raise AssertionError("the last attempt returns or raises")


def split(messages: Sequence[T], size_of: Callable[[T], int], max_count: int) -> Iterator[tuple[int, Sequence[T]]]:
    """Runs of `messages` that each fit a request, with the index of their first. A too large one goes alone."""
    begin, bytes_ = 0, 0
    room = MAX_MESSAGE_BYTES - 1_024  # for the other fields of the request
    for index, message in enumerate(messages):
        size = size_of(message) + 4  # tag and length
        if index > begin and (bytes_ + size > room or index - begin >= max_count):
            yield begin, messages[begin:index]
            begin, bytes_ = index, 0
        bytes_ += size
    if messages:
        yield begin, messages[begin:]
