"""Triton by raw `ModelInfer`. A call is never cancelled and has no deadline on the wire: Triton 2.51 crashes on both.

So a request that runs out of time leaves its call behind; such orphans count among the calls in flight.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from gateway.errors import Unavailable
from gateway.query import Floats, Ints

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
MAX_IN_FLIGHT: Final = 64
_OPTIONS: Final = (
    # A stopped peer is found in 1.5 s; without ping_timeout_ms it was not in 40 s.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 500),
    ("grpc.http2.ping_timeout_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A Triton that comes back is found within a second, not after gRPC's 20 and more.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    (
        "grpc.service_config",
        json.dumps(
            {
                "methodConfig": [
                    {
                        "name": [{"service": "inference.GRPCInferenceService"}],
                        "retryPolicy": {
                            "maxAttempts": 2,
                            "initialBackoff": "0.005s",
                            "maxBackoff": "0.01s",
                            "backoffMultiplier": 1.0,
                            "retryableStatusCodes": ["UNAVAILABLE"],
                        },
                    }
                ],
                "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
            }
        ),
    ),
)


class TritonClient:
    """One channel to one Triton. Belongs to the event loop that runs when it is made.

    `on_orphan` is told of each call that outlived its request.
    """

    def __init__(
        self, target: str, *, max_in_flight: int = MAX_IN_FLIGHT, on_orphan: Callable[[], None] = lambda: None
    ) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._infer = self._channel.unary_unary(
            METHOD,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        self._max_in_flight = max_in_flight
        self._on_orphan = on_orphan
        self._loop = asyncio.get_running_loop()
        self._calls: set[grpc.aio.UnaryUnaryCall] = set()
        self._drained: asyncio.Event | None = None  # of who waits for the last of them

    @property
    def in_flight(self) -> int:
        """Calls under way, orphans included."""
        return len(self._calls)

    async def infer(self, request: pb.ModelInferRequest, budget_s: float) -> pb.ModelInferResponse:
        """Triton's answer, waited for at most `budget_s`. The call itself runs on to its end, whatever happens here.

        Raises:
            Unavailable: `in_flight`, `time`, or what Triton said.
        """
        if len(self._calls) >= self._max_in_flight:
            raise Unavailable("in_flight", f"{len(self._calls)} calls under way")
        call = self._infer(request)  # gRPC runs it in a task of its own
        self._calls.add(call)
        # We wait for a future beside the call: whoever cancels us cancels that, and the call runs on.
        over: asyncio.Future[bool] = self._loop.create_future()
        call.add_done_callback(lambda _: self._ended(call, over))
        timer = self._loop.call_later(budget_s, _settle, over, False)  # noqa: FBT003  in time: no
        try:
            if not await over:
                self._on_orphan()
                raise Unavailable("time", f"no answer in {budget_s * 1e3:.0f} ms")
            response: pb.ModelInferResponse = await call
        except grpc.aio.AioRpcError as exc:
            raise _translated(exc) from exc
        finally:
            timer.cancel()
        return response

    async def close(self, budget_s: float) -> None:
        """Wait for the calls under way, for at most `budget_s`, then close the channel."""
        await self.drained(budget_s)
        await self._channel.close()

    async def drained(self, budget_s: float) -> None:
        """Wait until no call is under way, for at most `budget_s`."""
        if self._calls:
            self._drained = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), budget_s)

    def _ended(self, call: grpc.aio.UnaryUnaryCall, over: "asyncio.Future[bool]") -> None:
        self._calls.discard(call)
        if not self._calls and self._drained is not None:
            self._drained.set()
        _settle(over, True)  # noqa: FBT003  in time: yes


def _settle(over: "asyncio.Future[bool]", in_time: bool) -> None:
    if not over.done():
        over.set_result(in_time)


def _translated(exc: grpc.aio.AioRpcError) -> Unavailable:
    detail = f"{exc.code().name}: {exc.details()}"
    match exc.code():
        case grpc.StatusCode.NOT_FOUND:
            return Unavailable("unknown_version", detail)
        case grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.INVALID_ARGUMENT:
            return Unavailable("rejected", detail)
        case _:
            # Triton answers UNAVAILABLE, as a lost connection does, where its queue is full or the wait there too long.
            queue = (exc.details() or "").lower()
            if "timeout expired" in queue or "exceeds maximum queue size" in queue:
                return Unavailable("rejected", detail)
            if "unknown model" in queue:
                return Unavailable("unknown_version", detail)
            return Unavailable("error", detail)


class TritonModel:
    """One pinned version of one model: a `Scorer`. `ints` are sent if `int_columns` is not 0."""

    def __init__(self, client: TritonClient, name: str, version: int, *, columns: int, int_columns: int) -> None:
        self._client = client
        self._name = name
        self._version = str(version)
        self._columns = columns
        self._int_columns = int_columns

    async def score(self, features: Floats, ints: Ints | None, budget_s: float) -> Floats:
        """Scores float32 (n,) of features float32 (n, F) and ints int64 (n, K).

        Raises:
            Unavailable: also with `bad_scores`, where the answer is not one finite float32 a row.
        """
        response = await self._client.infer(self._request(features, ints, budget_s), budget_s)
        return self._scores(response, len(features))

    def _request(self, features: Floats, ints: Ints | None, budget_s: float) -> pb.ModelInferRequest:
        rows = len(features)
        request = pb.ModelInferRequest(model_name=self._name, model_version=self._version)
        request.parameters["timeout"].int64_param = max(1, int(budget_s * 1e6))  # ends its wait in Triton's queue
        request.inputs.add(name="features", datatype="FP32", shape=(rows, self._columns))
        request.raw_input_contents.append(features.tobytes())
        if self._int_columns and ints is not None:
            request.inputs.add(name="int_features", datatype="INT64", shape=(rows, self._int_columns))
            request.raw_input_contents.append(ints.tobytes())
        return request

    def _scores(self, response: pb.ModelInferResponse, rows: int) -> Floats:
        if len(response.outputs) != 1 or len(response.raw_output_contents) != 1:
            raise Unavailable("bad_scores", f"{len(response.outputs)} outputs, expected 1")
        output, raw = response.outputs[0], response.raw_output_contents[0]
        if output.datatype != "FP32" or tuple(output.shape) not in ((rows, 1), (rows,)) or len(raw) != 4 * rows:
            raise Unavailable("bad_scores", f"{output.datatype} {tuple(output.shape)}, expected FP32 ({rows}, 1)")
        scores = np.frombuffer(raw, np.float32)
        if not np.isfinite(scores).all():
            raise Unavailable("bad_scores", f"{int((~np.isfinite(scores)).sum())} of {rows} are NaN or infinite")
        return scores
