"""Triton by raw `ModelInfer`. A call is never cancelled and has no deadline on the wire: Triton 2.51 crashes on both.

So a request that runs out of time leaves its call behind; such orphans count among the calls in flight.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar, cast

import grpc
import numpy as np
import numpy.typing as npt
from bundle import bucket_of
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from gateway.errors import Unavailable
from gateway.http2 import OK, UNAVAILABLE, Connection, Part, Reply, request_headers
from gateway.model import finite
from gateway.query import Floats, Ints
from gateway.wire import varint

Scalar = TypeVar("Scalar", np.float32, np.int64)

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
MAX_IN_FLIGHT: Final = 64
_FIELDS: Final = pb.ModelInferRequest.DESCRIPTOR.fields_by_name
_RAW: Final = varint(_FIELDS["raw_input_contents"].number << 3 | 2)
# The entry `timeout` of the map `parameters`: key 1, value 2, a message with int64_param 2.
_TIMEOUT: Final = varint(_FIELDS["parameters"].number << 3 | 2) + b"%b\x0a\x07timeout\x12%b\x10%b"
_CONNECT_S: Final = 2.0
_FIRST_BACKOFF_S: Final = 0.2  # a Triton that comes back is found within a second
_MOST_BACKOFF_S: Final = 1.0
# A stopped peer is found in 1.5 s, however many calls wait for it.
_PING_EVERY_S: Final = 1.0
_PING_ANSWER_S: Final = 0.5
_LATE_LOOP_S: Final = 0.02  # the answer may be there while the loop was late to read it
_RETRY_AFTER_S: Final = 0.005
# Of the gRPC proposal A6: a retry costs a token, a success gives a tenth back, and half of them must be left.
_MAX_TOKENS: Final = 10.0
_TOKEN_RATIO: Final = 0.1
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


class TritonClient:
    """One connection to one Triton. Belongs to the event loop that runs when it is made.

    A call that never reached a working Triton is tried a second time. `on_orphan` is told of each call that outlived
    its request.
    """

    def __init__(
        self, target: str, *, max_in_flight: int = MAX_IN_FLIGHT, on_orphan: Callable[[], None] = lambda: None
    ) -> None:
        host, _, port = target.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._headers = request_headers(METHOD, target)
        self._max_in_flight = max_in_flight
        self._on_orphan = on_orphan
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._not_before, self._backoff_s, self._refusal = 0.0, _FIRST_BACKOFF_S, ""
        self._tokens = _MAX_TOKENS
        self._in_flight = 0
        self._drained: asyncio.Event | None = None  # of who waits for the last of them
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Calls under way, orphans included."""
        return self._in_flight

    async def infer(self, request: Sequence[Part], budget_s: float) -> bytes:
        """Triton's answer to the request whose bytes the parts make up, waited for at most `budget_s`.

        The call itself runs on to its end, whatever happens here.

        Raises:
            Unavailable: `in_flight`, `time`, or what Triton said.
        """
        if self._in_flight >= self._max_in_flight:
            raise Unavailable("in_flight", f"{self._in_flight} calls under way")
        deadline = self._loop.time() + budget_s
        reply = await self._call(request, deadline, budget_s)
        if reply.status == OK:
            self._tokens = min(_MAX_TOKENS, self._tokens + _TOKEN_RATIO)
            return reply.message
        if reply.status == UNAVAILABLE and not _of_the_queue(reply.detail):
            self._tokens = max(0.0, self._tokens - 1)
            if self._tokens > _MAX_TOKENS / 2 and deadline - self._loop.time() > _RETRY_AFTER_S:
                await asyncio.sleep(_RETRY_AFTER_S)
                reply = await self._call(request, deadline, budget_s)
                if reply.status == OK:
                    return reply.message
        raise _translated(reply)

    async def close(self, budget_s: float) -> None:
        """Wait for the calls under way, for at most `budget_s`, then close the connection."""
        await self.drained(budget_s)
        self._closed = True
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.drop("the client is closed")

    async def drained(self, budget_s: float) -> None:
        """Wait until no call is under way, for at most `budget_s`."""
        if self._in_flight:
            self._drained = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), budget_s)

    async def _call(self, request: Sequence[Part], deadline: float, budget_s: float) -> Reply:
        connection = self._connection
        if connection is None or not connection.takes_calls:
            try:
                connection = await self._connected(deadline)
            except TimeoutError:
                raise Unavailable("time", f"no connection in {budget_s * 1e3:.0f} ms") from None
            except OSError as exc:
                return Reply(UNAVAILABLE, detail=f"no connection: {exc}")
        # We wait for a future beside the call: whoever cancels us cancels that, and the call runs on.
        over: asyncio.Future[Reply | None] = self._loop.create_future()
        self._in_flight += 1
        connection.call(request, partial(self._ended, over))
        timer = self._loop.call_at(deadline, _settle, over, None)
        try:
            reply = await over
        finally:
            timer.cancel()
        if reply is None:
            self._on_orphan()
            raise Unavailable("time", f"no answer in {budget_s * 1e3:.0f} ms")
        return reply

    def _ended(self, over: "asyncio.Future[Reply | None]", reply: Reply) -> None:
        self._in_flight -= 1
        if not self._in_flight and self._drained is not None:
            self._drained.set()
        _settle(over, reply)

    async def _connected(self, deadline: float) -> Connection:
        """A new connection, opened once for all who wait for it; at once an OSError while the last one is recent."""
        if self._closed:
            raise OSError("the client is closed")
        if self._connecting is None:
            if self._loop.time() < self._not_before:
                raise OSError(self._refusal)
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(self._noted)
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(self._connecting)

    async def _connect(self) -> Connection:
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._headers), self._host, self._port
            )
        self._connection = connection
        self._loop.call_later(_PING_EVERY_S, self._ping, connection)
        return connection

    def _noted(self, task: "asyncio.Task[Connection]") -> None:
        self._connecting = None
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._refusal = str(exc) or "no connection in time"
            self._not_before = self._loop.time() + self._backoff_s
            self._backoff_s = min(_MOST_BACKOFF_S, 2 * self._backoff_s)
        else:
            self._backoff_s = _FIRST_BACKOFF_S

    def _ping(self, connection: Connection) -> None:
        if connection.lost is None:
            connection.ping()
            self._loop.call_later(_PING_ANSWER_S, self._require_answer, connection, False)  # noqa: FBT003

    def _require_answer(self, connection: Connection, read: bool) -> None:
        if connection.heard:
            self._loop.call_later(_PING_EVERY_S - _PING_ANSWER_S, self._ping, connection)
        elif not read:
            self._loop.call_later(_LATE_LOOP_S, self._require_answer, connection, True)  # noqa: FBT003
        else:
            connection.drop(f"no sign of life for {_PING_ANSWER_S} s")


def _settle(over: "asyncio.Future[Reply | None]", reply: Reply | None) -> None:
    if not over.done():
        over.set_result(reply)


def _of_the_queue(detail: str) -> bool:
    """Whether Triton itself refused: it answers UNAVAILABLE, as a lost connection does, also where its queue is full,
    the wait there too long, or a version not loaded.
    """
    said = detail.lower()
    return "timeout expired" in said or "exceeds maximum queue size" in said or "unknown model" in said


def _translated(reply: Reply) -> Unavailable:
    code = _STATUS.get(reply.status, grpc.StatusCode.UNKNOWN)
    detail = f"{code.name}: {reply.detail}"
    if code is grpc.StatusCode.NOT_FOUND or "unknown model" in reply.detail.lower():
        return Unavailable("unknown_version", detail)
    if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT) or _of_the_queue(reply.detail):
        return Unavailable("rejected", detail)
    return Unavailable("error", detail)


class TritonModel:
    """One pinned version of one model: a `Scorer`. `ints` are sent if `int_columns` is not 0; of several `heads` their
    predictions are asked for instead of the score. `pad_rows`: a call has as many rows as one of the sizes that a GPU
    was warmed up for.
    """

    def __init__(
        self,
        client: TritonClient,
        name: str,
        version: int,
        *,
        columns: int,
        int_columns: int,
        heads: int = 0,
        pad_rows: bool = False,
    ) -> None:
        self._client = client
        self._name = name
        self._version = str(version)
        self._columns = columns
        self._int_columns = int_columns
        self._pad_rows = pad_rows
        self._output, self._width = ("heads", heads) if heads else ("score", 1)
        # By rows, of which a request has 2,000 at most: what stands around the tensors of requests and of answers.
        self._fixed: dict[int, bytes] = {}
        self._known: dict[int, bytes] = {}

    async def score(self, features: Floats, ints: Ints | None, budget_s: float) -> Floats:
        """Scores float32 (n,), or heads (n, H), of features float32 (n, F) and ints int64 (n, K).

        Raises:
            Unavailable: also with `bad_scores`, where the answer is not one finite float32 a row.
        """
        rows = sent = len(features)
        if self._pad_rows:
            sent = bucket_of(rows)
            features, ints = _padded(features, sent), None if ints is None else _padded(ints, sent)
        answer = await self._client.infer(self._request(features, ints, budget_s), budget_s)
        return self._scores(answer, sent)[:rows]

    def _request(self, features: Floats, ints: Ints | None, budget_s: float) -> list[Part]:
        """A ModelInferRequest's bytes: fields may come in any order, and the tensors' bytes are copied once."""
        rows = len(features)
        if (head := self._fixed.get(rows)) is None:
            head = self._fixed[rows] = self._head(rows)
        timeout = varint(max(1, int(budget_s * 1e6)))  # ends its wait in Triton's queue
        parts: list[Part] = [head, _TIMEOUT % (b"%c" % (12 + len(timeout)), b"%c" % (1 + len(timeout)), timeout)]
        tensors: list[Floats | Ints] = [np.ascontiguousarray(features, "<f4")]
        if self._int_columns and ints is not None:
            tensors.append(np.ascontiguousarray(ints, "<i8"))
        for tensor in tensors:
            parts += (_RAW, varint(tensor.nbytes), tensor.data.cast("B"))
        return parts

    def _head(self, rows: int) -> bytes:
        """All but the timeout and the tensors."""
        request = pb.ModelInferRequest(model_name=self._name, model_version=self._version)
        request.inputs.add(name="features", datatype="FP32", shape=(rows, self._columns))
        if self._int_columns:
            request.inputs.add(name="int_features", datatype="INT64", shape=(rows, self._int_columns))
        if self._output != "score":
            request.outputs.add(name=self._output)
        return cast("bytes", request.SerializeToString())

    def _scores(self, answer: bytes, rows: int) -> Floats:
        width = self._width
        # What stands before the tensor is the same in every answer of so many rows: it is read once.
        at = len(answer) - 4 * rows * width
        raw = answer[at:]
        if self._known.get(rows) != answer[:at]:
            raw = self._checked(answer, rows)
            if answer.endswith(raw):
                self._known[rows] = answer[:at]
        scores = np.frombuffer(raw, np.float32)
        if not finite(scores):
            raise Unavailable("bad_scores", f"{int((~np.isfinite(scores)).sum())} of {rows} are NaN or infinite")
        return scores if width == 1 else scores.reshape(rows, width)

    def _checked(self, answer: bytes, rows: int) -> bytes:
        """The tensor of a whole answer."""
        try:
            response = pb.ModelInferResponse.FromString(answer)
        except DecodeError as exc:
            raise Unavailable("bad_scores", f"no ModelInferResponse: {exc}") from exc
        if len(response.outputs) != 1 or len(response.raw_output_contents) != 1:
            raise Unavailable("bad_scores", f"{len(response.outputs)} outputs, expected 1")
        output, raw = response.outputs[0], cast("bytes", response.raw_output_contents[0])
        width, shape = self._width, tuple(output.shape)
        fits = shape == (rows, width) or (width == 1 and shape == (rows,))
        if output.datatype != "FP32" or not fits or len(raw) != 4 * rows * width:
            raise Unavailable("bad_scores", f"{output.datatype} {shape}, expected FP32 ({rows}, {width})")
        return raw


def _padded(rows: npt.NDArray[Scalar], size: int) -> npt.NDArray[Scalar]:
    """(n, C) with rows of zeros up to (size, C)."""
    whole = np.zeros((size, rows.shape[1]), rows.dtype)
    whole[: len(rows)] = rows
    return whole
