"""The one place that knows gRPC: channels, deadlines, retries, hedges, and statuses as errors."""

import itertools
import json
import queue
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
from millrace.client import errors
from millrace.client.access import Access, Tls, TokenSource
from millrace.client.budgets import HedgeBudget, Hedging, RetryBudget

MAX_MESSAGE_BYTES: Final = 256 * 1024  # the servers' limit for a request
ATTEMPTS: Final = 4
FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0
AWAY_S: Final = 1.0  # a target that was away is asked last for so long

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

# A channel then knows of a server that is starting or drains before it sends a call there. Where all servers hide
# behind one address, another connection may well reach a better one, so there the server is asked.
_WATCH_HEALTH: Final = (
    "grpc.service_config",
    json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}),
)

T = TypeVar("T")

_ERRORS: Final[Mapping[grpc.StatusCode, type[errors.MillraceError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
}
# Nobody here cancels a call, so a server did: one that stops ends so what reaches it in that moment.
_AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_HANDSHAKE: Final = ("handshake failed", "CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "Peer name")


def credentials(tls: Tls) -> Any:
    """gRPC's channel credentials. OSError if a file cannot be read."""
    own = (tls.key.read_bytes(), tls.certificate.read_bytes()) if tls.key and tls.certificate else (None, None)
    return grpc.ssl_channel_credentials(tls.ca.read_bytes() if tls.ca else None, *own)


def options(tls: Tls | None, *, watch_health: bool = False) -> list[tuple[str, Any]]:
    """A channel's options."""
    name = [("grpc.ssl_target_name_override", tls.name)] if tls and tls.name else []
    return [*OPTIONS, *name, *([_WATCH_HEALTH] if watch_health else [])]


def translate(exc: grpc.RpcError, target: str) -> errors.MillraceError:
    """Our error for a failed call."""
    code, text = exc.code(), f"{target}: {exc.details()}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        trailing = dict(exc.trailing_metadata() or ())
        return errors.Overloaded(text, int(trailing.get("grpc-retry-pushback-ms", 200)) / 1_000)
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in text for sign in _HANDSHAKE):
        return errors.HandshakeFailed(text)
    return _ERRORS.get(code, errors.ServerFailed)(text)


class Connection:
    """Channels to servers that answer alike, and how a call goes to them. Thread-safe."""

    def __init__(self, access: Access, hedging: Hedging | None) -> None:
        self.targets = access.targets
        self._tls = access.tls
        how = options(access.tls, watch_health=len(self.targets) > 1)
        self._channels = [_open(target, how, access.tls) for target in self.targets]
        self._closed = False
        self._token = TokenSource(access.token)
        self._turns = itertools.count(random.randrange(len(self.targets)))  # noqa: S311  who begins, no secret
        self._away_until = [0.0] * len(self.targets)
        self._retries = RetryBudget()
        self.hedges = HedgeBudget(hedging) if hedging and len(self.targets) > 1 else None

    def method(self, path: str, request: Any, response: Any) -> "Method":
        """The callable of `/package.Service/Method`, by the types of its messages."""
        return Method(
            path,
            [
                channel.unary_unary(
                    path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
                )
                for channel in self._channels
            ],
        )

    def stream(self, path: str, request: Any, response: Any) -> "tuple[str, Any]":
        """One target and its callable of a streaming method: a stream stays where it began."""
        first = self._order()[0]
        return self.targets[first], self._channels[first].stream_stream(
            path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries. NotAllowed if the token cannot be read."""
        try:
            return self._token.metadata()
        except OSError as exc:
            raise errors.NotAllowed(f"token: {exc}") from exc

    def call(self, method: "Method", request: Any, timeout_s: float) -> Any:
        """`method(request)` within `timeout_s` in all.

        UNAVAILABLE, and CANCELLED by a server, is tried again: at once at another target, else with growing, random
        pauses, within the deadline. That costs the retry budget nothing where the other target was well when last
        heard of: when one of two goes, as many calls as were under way there go to the other, once. Where the time
        ends within a further try, the error is still the answer that there was: unavailable, and why. With hedging,
        a second target is asked when the first takes longer than nearly all calls.

        Raises:
            MillraceError: the status, translated; Unavailable once the client is closed.
        """
        ends, metadata = time.monotonic() + timeout_s, self.metadata()
        backoff_s, answered = FIRST_BACKOFF_S, None
        order = self._order()
        wait_s = self.hedges.begin() if self.hedges else None
        for attempt in range(1, ATTEMPTS + 1):
            number = order[(attempt - 1) % len(order)]
            left_s = max(ends - time.monotonic(), 0.001)
            try:
                if attempt == 1 and wait_s is not None and wait_s < left_s:
                    return self._hedged(method, order, request, ends, wait_s, metadata)
                return self._once(method, number, request, left_s, metadata)
            except _Failed as failed:
                exc, number = failed.exc, failed.number
            except ValueError as wrong:  # how gRPC refuses a call on a channel that was closed
                if not self._closed:
                    raise
                raise errors.Unavailable("this client is closed; make a new one") from wrong
            is_away = exc.code() in _AWAY and not self._closed
            if is_away:
                self._away_until[number] = time.monotonic() + AWAY_S
            fresh = attempt < len(order)  # a target that was not asked yet needs no pause
            pause_s = 0.0 if fresh else backoff_s * random.uniform(0.5, 1.5)  # noqa: S311  jitter, no secret
            error = translate(exc, self.targets[number])
            again = is_away and attempt < ATTEMPTS and not isinstance(error, errors.HandshakeFailed)
            if again and not (fresh and self._is_well(order[attempt])):
                again = self._retries.failed()
            if not again or time.monotonic() + pause_s >= ends:
                is_late = answered is not None and exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                raise (answered if is_late and answered else error) from exc
            answered = error
            if pause_s:
                time.sleep(pause_s)
                backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close every connection; calls under way end as `Unavailable`."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    def _order(self) -> list[int]:
        """The targets in turn, those that were away lately last; of one that is due, a single caller finds out."""
        count = len(self.targets)
        if count == 1:
            return [0]
        first, now = next(self._turns) % count, time.monotonic()
        turned = [(first + step) % count for step in range(count)]
        order = sorted(turned, key=lambda number: self._away_until[number] > now)
        if not self._is_well(order[0]):
            self._away_until[order[0]] = now + AWAY_S  # of all others; an answer takes it back
        return order

    def _is_well(self, number: int) -> bool:
        """Whether it has answered since it was last away."""
        return self._away_until[number] == 0.0

    def _once(self, method: "Method", number: int, request: Any, left_s: float, metadata: Any) -> Any:
        begun = time.monotonic()
        try:
            answer = method.on[number](request, timeout=left_s, metadata=metadata)
        except grpc.RpcError as exc:
            raise _Failed(exc, number) from exc
        self._answered(number, time.monotonic() - begun)
        return answer

    def _hedged(
        self, method: "Method", order: list[int], request: Any, ends: float, wait_s: float, metadata: Any
    ) -> Any:  # fmt: skip
        """The first good answer of one target, or of two where the first is slow. Nobody is cancelled."""
        ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

        def ask(number: int) -> None:
            begun = time.monotonic()

            def end(future: Any) -> None:
                if _error(future) is None:
                    self._answered(number, time.monotonic() - begun)
                ended.put((number, future))

            left_s = max(ends - time.monotonic(), 0.001)
            method.on[number].future(request, timeout=left_s, metadata=metadata).add_done_callback(end)

        ask(order[0])
        asked = 1
        try:
            number, future = ended.get(timeout=wait_s)
        except queue.Empty:
            if self.hedges is not None and self.hedges.take():
                ask(order[1])
                asked = 2
            number, future = ended.get()  # each has a deadline of its own
        if (exc := _error(future)) is not None and asked == 2:
            number, future = ended.get()
            exc = _error(future)
        if exc is not None:
            raise _Failed(exc, number) from exc
        return future.result()

    def _answered(self, number: int, seconds: float) -> None:
        self._away_until[number] = 0.0
        self._retries.succeeded()
        if self.hedges is not None:
            self.hedges.answered(seconds)


class Method:
    """One RPC at every target."""

    __slots__ = ("on", "path")

    def __init__(self, path: str, on: Sequence[Any]) -> None:
        self.path, self.on = path, on


class _Failed(Exception):
    """A try that failed, and where."""

    def __init__(self, exc: grpc.RpcError, number: int) -> None:
        super().__init__(str(exc))
        self.exc, self.number = exc, number


def _error(future: Any) -> Any | None:
    """Why a call failed, None if it did not."""
    try:
        return future.exception()
    except grpc.FutureCancelledError:  # the client was closed meanwhile: the call is its own error
        return future


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


def _open(target: str, how: Sequence[tuple[str, Any]], tls: Tls | None) -> Any:
    """A channel to one target; connects on first use."""
    if tls is None:
        return grpc.insecure_channel(target, options=how)
    return grpc.secure_channel(target, credentials(tls), options=how)
