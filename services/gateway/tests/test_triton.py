"""The Triton client against a real grpc.aio server that plays Triton."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import numpy as np
import pytest
from gateway.errors import Unavailable
from gateway.triton import METHOD, TritonClient, TritonModel
from tritonclient.grpc import service_pb2 as pb

Behaviour = Callable[[pb.ModelInferRequest, grpc.aio.ServicerContext], Awaitable[pb.ModelInferResponse]]

ROWS, COLUMNS = 3, 4
FEATURES = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)


class FakeTriton:
    """Answers `ModelInfer` by `behaviour`; remembers requests, and calls that were cancelled or carried a deadline."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = sums
        self.requests: list[pb.ModelInferRequest] = []
        self.cancelled = 0
        self.deadlines = 0
        self.answered = 0

    async def infer(self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext) -> pb.ModelInferResponse:
        self.requests.append(request)
        self.deadlines += context.time_remaining() is not None
        try:
            response = await self.behaviour(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.answered += 1
        return response


def answer(
    values: "np.typing.ArrayLike", *, datatype: str = "FP32", shape: tuple[int, ...] | None = None
) -> pb.ModelInferResponse:
    scores = np.asarray(values, np.float32)
    response = pb.ModelInferResponse(model_name="m", model_version="7")
    response.outputs.add(name="score", datatype=datatype, shape=shape or (len(scores), 1))
    response.raw_output_contents.append(scores.tobytes())
    return response


async def sums(request: pb.ModelInferRequest, _: grpc.aio.ServicerContext) -> pb.ModelInferResponse:
    features = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
    return answer(features.sum(axis=1))


@pytest.fixture
async def triton() -> AsyncIterator[tuple[FakeTriton, str]]:
    fake, server = FakeTriton(), grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        fake.infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield fake, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def client(triton: tuple[FakeTriton, str]) -> AsyncIterator[TritonClient]:
    client = TritonClient(triton[1], max_in_flight=8)
    yield client
    await client.close(2.0)


def model(client: TritonClient, *, int_columns: int = 0) -> TritonModel:
    return TritonModel(client, "m", 7, columns=COLUMNS, int_columns=int_columns)


async def test_scores_come_from_the_pinned_version_with_the_budget_as_timeout(
    triton: tuple[FakeTriton, str], client: TritonClient
) -> None:
    """One request asks for one version, sends its tensors raw, and tells Triton how long it may queue."""
    ints = np.array([[1], [2], [3]], np.int64)

    scores = await model(client, int_columns=1).score(FEATURES, ints, 0.25)

    [request] = triton[0].requests
    assert FEATURES.sum(axis=1).tolist() == scores.tolist()
    assert ("m", "7", 250_000) == (request.model_name, request.model_version, request.parameters["timeout"].int64_param)
    assert [("features", "FP32", [3, 4]), ("int_features", "INT64", [3, 1])] == [
        (tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs
    ]
    assert ints.tobytes() == request.raw_input_contents[1]


async def test_rows_are_padded_for_a_gpu_and_cut_again(triton: tuple[FakeTriton, str], client: TritonClient) -> None:
    """Three candidates go as 128 rows, a size that was warmed up; the caller sees three scores."""
    padding = TritonModel(client, "m", 7, columns=COLUMNS, int_columns=1, pad_rows=True)

    scores = await padding.score(FEATURES, np.array([[1], [2], [3]], np.int64), 0.25)

    [request] = triton[0].requests
    assert FEATURES.sum(axis=1).tolist() == scores.tolist()
    assert [[128, 4], [128, 1]] == [list(tensor.shape) for tensor in request.inputs]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (answer([1.0, float("nan"), 2.0]), "nan"),
        (answer([1.0, float("inf"), 2.0]), "infinite"),
        (answer([1.0, 2.0]), "too few"),
        (answer([1.0, 2.0, 3.0], shape=(1, 3)), "transposed"),
        (answer([1.0, 2.0, 3.0], datatype="INT32"), "another type"),
        (answer([1.0, 2.0], shape=(3, 1)), "bytes and shape disagree"),
        (pb.ModelInferResponse(), "nothing"),
    ],
)
async def test_bad_scores_are_never_returned(
    triton: tuple[FakeTriton, str], client: TritonClient, wrong: pb.ModelInferResponse, name: str
) -> None:
    """NaN, infinity, another shape or type: the caller gets the reason instead."""

    async def bad(*_: object) -> pb.ModelInferResponse:
        return wrong

    triton[0].behaviour = bad
    with pytest.raises(Unavailable) as caught:
        await model(client).score(FEATURES, None, 1.0)
    assert "bad_scores" == caught.value.reason, name


async def test_what_was_right_once_is_looked_at_again(triton: tuple[FakeTriton, str], client: TritonClient) -> None:
    """Only an answer that begins with the very bytes of a good one, and is as long, is not parsed."""
    answers = [answer([1.0, 2.0, 3.0]), answer([1.0, 2.0, 3.0], shape=(1, 3)), answer([3.0, 2.0, 1.0])]

    async def next_one(*_: object) -> pb.ModelInferResponse:
        return answers.pop(0)

    triton[0].behaviour = next_one
    asked = model(client)
    assert [1.0, 2.0, 3.0] == (await asked.score(FEATURES, None, 1.0)).tolist()
    with pytest.raises(Unavailable):
        await asked.score(FEATURES, None, 1.0)
    assert [3.0, 2.0, 1.0] == (await asked.score(FEATURES, None, 1.0)).tolist()


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.INTERNAL, "it broke", "error"),
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", "rejected"),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", "rejected"),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'm' is not found", "unknown_version"),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'm' version 7 is not found", "unknown_version"),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'features'", "rejected"),
    ],
)
async def test_an_error_of_triton_is_a_reason(
    triton: tuple[FakeTriton, str], client: TritonClient, code: grpc.StatusCode, details: str, reason: str
) -> None:
    """What Triton refuses is told apart from what is broken and from a pin that points nowhere."""

    async def fail(_: object, context: grpc.aio.ServicerContext) -> pb.ModelInferResponse:
        await context.abort(code, details)
        raise AssertionError

    triton[0].behaviour = fail
    with pytest.raises(Unavailable) as caught:
        await model(client).score(FEATURES, None, 1.0)
    assert reason == caught.value.reason


async def test_no_server_is_an_error_at_once() -> None:
    """A dead Triton costs a refused connection, not the budget."""
    client = TritonClient("127.0.0.1:1")
    with pytest.raises(Unavailable) as caught:
        await model(client).score(FEATURES, None, 30.0)
    await client.close(1.0)
    assert "error" == caught.value.reason


async def test_a_call_outlives_its_request_and_is_never_cancelled(triton: tuple[FakeTriton, str]) -> None:
    """The budget ends our wait; the call has no deadline, runs on, and counts among those in flight until it ends."""
    fake, target = triton
    release, orphans = asyncio.Event(), []

    async def hang(request: pb.ModelInferRequest, context: grpc.aio.ServicerContext) -> pb.ModelInferResponse:
        await release.wait()
        return await sums(request, context)

    fake.behaviour = hang
    client = TritonClient(target, max_in_flight=2, on_orphan=lambda: orphans.append(1))
    reasons = []
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await model(client).score(FEATURES, None, 0.02)
        reasons.append(caught.value.reason)
    assert (["time", "time", "in_flight"], 2, 2) == (reasons, len(orphans), client.in_flight)

    release.set()
    await client.close(5.0)
    assert (2, 0, 0, 0) == (fake.answered, fake.cancelled, fake.deadlines, client.in_flight)


async def test_a_cancelled_request_leaves_its_call_alone(triton: tuple[FakeTriton, str], client: TritonClient) -> None:
    """A caller that hangs up cancels our handler; Triton's call goes on to its end."""
    fake, _ = triton
    began, release = asyncio.Event(), asyncio.Event()

    async def hang(request: pb.ModelInferRequest, context: grpc.aio.ServicerContext) -> pb.ModelInferResponse:
        began.set()
        await release.wait()
        return await sums(request, context)

    fake.behaviour = hang
    request = asyncio.create_task(model(client).score(FEATURES, None, 5.0))
    await asyncio.wait_for(began.wait(), 5.0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    release.set()
    await client.close(5.0)
    assert (1, 0) == (fake.answered, fake.cancelled)


async def test_hundreds_of_orphans_leave_nothing_behind(triton: tuple[FakeTriton, str]) -> None:
    """Every call outlives its budget, all end, none is cancelled, and the client answers afterwards."""
    fake, target = triton
    client = TritonClient(target, max_in_flight=64)

    async def slow(request: pb.ModelInferRequest, context: grpc.aio.ServicerContext) -> pb.ModelInferResponse:
        await asyncio.sleep(0.005)
        return await sums(request, context)

    await model(client).score(FEATURES, None, 5.0)  # the connection is there
    fake.behaviour = slow
    for _ in range(8):
        ended = await asyncio.gather(
            *(model(client).score(FEATURES, None, 0.0005) for _ in range(32)), return_exceptions=True
        )
        assert {"time"} == {e.reason for e in ended if isinstance(e, Unavailable)}
        await client.drained(5.0)
    fake.behaviour = sums
    assert ROWS == len(await model(client).score(FEATURES, None, 5.0))
    assert (258, 0, 0) == (fake.answered, fake.cancelled, client.in_flight)
    await client.close(1.0)


async def test_a_server_that_comes_back_is_found_again() -> None:
    """After a restart on the same port the next calls reach it, within seconds."""
    fake = FakeTriton()
    handler = grpc.unary_unary_rpc_method_handler(
        fake.infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    service, method = METHOD.strip("/").split("/")

    async def start(port: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        return server, bound

    server, port = await start(0)
    client = TritonClient(f"127.0.0.1:{port}")
    await model(client).score(FEATURES, None, 5.0)
    await server.stop(None)
    with pytest.raises(Unavailable):
        await model(client).score(FEATURES, None, 1.0)
    server, _ = await start(port)

    async def until_answered() -> None:
        while True:
            try:
                await model(client).score(FEATURES, None, 1.0)
                return
            except Unavailable:
                await asyncio.sleep(0.02)

    await asyncio.wait_for(until_answered(), 5.0)
    await client.close(1.0)
    await server.stop(None)


async def test_a_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes calls and pings and answers nothing, as a stopped process does: its calls end as errors, not in time."""
    monkeypatch.setattr("gateway.triton._PING_EVERY_S", 0.02)
    monkeypatch.setattr("gateway.triton._PING_ANSWER_S", 0.02)
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    client = TritonClient(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(Unavailable) as caught:
        await model(client).score(FEATURES, None, 30.0)
    assert "error" == caught.value.reason
    await client.close(1.0)
    for writer in held:
        writer.close()
    server.close()


async def test_a_call_whose_connection_breaks_is_made_again(triton: tuple[FakeTriton, str]) -> None:
    """The first connection is cut after the request; the second attempt answers within the same budget."""
    host, port = triton[1].split(":")
    cut = False

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        there, back = await asyncio.open_connection(host, int(port))
        first, cut = not cut, True

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                if first and source is there:
                    break
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    client = TritonClient(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert FEATURES.sum(axis=1).tolist() == (await model(client).score(FEATURES, None, 5.0)).tolist()
    await client.close(1.0)
    server.close()
