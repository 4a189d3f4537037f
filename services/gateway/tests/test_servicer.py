"""The servicer over a real socket: what callers send, what they get, and which status an error has."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from gateway import errors
from gateway.metrics import Metrics
from gateway.servicer import SERVICE, STATUS, RankingServicer
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc
from servicekit.kit import Kit

CEILING_S = 0.3


@pytest.fixture
async def channel(kit: Kit, world: Any, serving: Any) -> AsyncIterator[grpc.aio.Channel]:
    servicer = RankingServicer({"tiny": world.ranker()}, ceiling_s=CEILING_S, metrics=Metrics(kit.registry))
    async with serving(servicer) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return ranking_pb2_grpc.RankingServiceStub(channel)


def requests(kit: Kit, rung: str, code: str, usecase: str = "tiny") -> float:
    labels = {"usecase": usecase, "rung": rung, "code": code}
    return kit.registry.get_sample_value("gateway_requests_total", labels) or 0.0


def test_every_error_has_a_status() -> None:
    """A new error forces a choice."""
    assert set(errors.GatewayError.__subclasses__()) == set(STATUS)


async def test_rank_answers_with_all_that_the_contract_promises(stub: Any, kit: Kit, world: Any) -> None:
    """Ids, scores, positions, reasons, model, rung, row version, age, stage timings."""
    world.rows.rows[7] = world.row_of(7, rated=[1, 2], epoch=4)
    answer = await stub.Rank(pb.RankRequest(usecase="tiny", user_id=7, item_ids=[2, 4, 6], limit=2), timeout=5)

    assert [(6, 2.0, 1, "requested"), (4, 1.0, 2, "requested")] == [
        (item.item_id, item.score, item.position, item.reason) for item in answer.items
    ]
    assert ("trees", 3, events_pb2.RUNG_MODEL, "") == (
        answer.model_name,
        answer.model_version,
        answer.served_by,
        answer.reason,
    )
    assert (4, 2, 0) == (answer.row.epoch, answer.row.interactions_offset, answer.row.users_offset)
    assert answer.request_id
    assert 1_000_000 == answer.feature_age_us
    assert ["row", "retrieval", "features", "model", "rerank", "answer"] == [stage.stage for stage in answer.stages]
    assert 1 == requests(kit, "MODEL", "OK")


async def test_recommend_takes_context_and_excluded_ids(stub: Any, world: Any) -> None:
    """Codes of the request reach the impression."""
    request = pb.RecommendRequest(usecase="tiny", user_id=7, limit=2, exclude_ids=[10])
    request.context.device, request.context.session_id, request.context.time_us = 3, 99, 1_600_000_000_000_000
    answer = await stub.Recommend(request, timeout=5)
    assert 10 not in [item.item_id for item in answer.items]
    [shown] = world.sink.shown
    assert (3, 99, 1_600_000_000_000_000) == (shown.query.context.device, shown.query.session_id, shown.time_us)


async def test_a_degraded_answer_is_ok_and_names_its_rung(stub: Any, kit: Kit, world: Any) -> None:
    """No status tells of a dead model; the answer does."""
    world.active = None
    answer = await stub.Rank(pb.RankRequest(usecase="tiny", user_id=7, item_ids=[2, 4]), timeout=5)
    assert (events_pb2.RUNG_POPULAR, 2) == (answer.served_by, len(answer.items))
    assert "MODEL:off,LOCAL_MODEL:off,PRECOMPUTED:no_row" == answer.reason
    assert 1 == requests(kit, "POPULAR", "OK")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RankRequest(usecase="other", user_id=1, item_ids=[1]), "usecase"),
        (pb.RankRequest(user_id=1, item_ids=[1]), "usecase"),
        (pb.RankRequest(usecase="tiny", user_id=1), "item_ids"),
        (pb.RankRequest(usecase="tiny", user_id=1, item_ids=[0]), "item_ids[0]"),
        (pb.RankRequest(usecase="tiny", user_id=1, item_ids=range(1, 2002)), "item_ids"),
        (
            pb.RankRequest(usecase="tiny", item_ids=[1], context=events_pb2.Context(time_us=-1)),
            "context.time_us",
        ),
    ],
)
async def test_what_is_invalid_names_its_field(stub: Any, kit: Kit, request_: pb.RankRequest, field: str) -> None:
    """INVALID_ARGUMENT; names of use cases that callers make up are no label of a metric."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Rank(request_, timeout=5)
    assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()
    assert raised.value.details().startswith(field + ":")
    assert 1 == requests(kit, "", "INVALID_ARGUMENT", "tiny" if field != "usecase" else "")


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", bytes(range(256))])
async def test_malformed_bytes_are_invalid_argument(channel: grpc.aio.Channel, raw: bytes) -> None:
    """Never INTERNAL, never UNKNOWN; the next call is answered."""
    for method in ("Rank", "Recommend"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(f"/{SERVICE}/{method}")(raw, timeout=5)
        assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()
    stub = ranking_pb2_grpc.RankingServiceStub(channel)
    assert 1 == len((await stub.Rank(pb.RankRequest(usecase="tiny", item_ids=[1]), timeout=5)).items)


async def test_a_short_deadline_is_refused_and_overload_pushes_back(stub: Any, world: Any) -> None:
    """DEADLINE_EXCEEDED when the caller left too little, RESOURCE_EXHAUSTED with a pause when we used it up."""
    for _ in range(60):
        world.admission.note("own", 10.0)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Rank(pb.RankRequest(usecase="tiny", item_ids=[1]), timeout=5)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()
    assert int(dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Rank(pb.RankRequest(usecase="tiny", item_ids=[1]), timeout=0.003)
    assert grpc.StatusCode.DEADLINE_EXCEEDED == raised.value.code()


async def test_the_priority_decides_who_is_shed_first(stub: Any, world: Any) -> None:
    """Where a queue stands a batch is told to come back; the same request of somebody who waits is answered."""
    world.queue.taken(0.007)
    world.clock.now += 1.0
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Rank(pb.RankRequest(usecase="tiny", item_ids=[1], priority=pb.PRIORITY_BATCH), timeout=5)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == raised.value.code()
    assert int(dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    for priority in (pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_INTERACTIVE, pb.PRIORITY_PREFETCH, 99):
        assert (await stub.Rank(pb.RankRequest(usecase="tiny", item_ids=[1], priority=priority), timeout=5)).items


@pytest.mark.parametrize(("deadline_s", "budget_s"), [(None, CEILING_S), (30.0, CEILING_S), (0.09, 0.09)])
async def test_the_ceiling_bounds_every_deadline(
    stub: Any, kit: Kit, world: Any, deadline_s: float | None, budget_s: float
) -> None:
    """No deadline, or a longer one, is the ceiling; a shorter one is kept."""
    await stub.Rank(pb.RankRequest(usecase="tiny", item_ids=[1]), timeout=deadline_s)
    [shown] = world.sink.shown
    # gRPC rounds a timeout up to the next millisecond where it is sent and where it is read.
    assert budget_s * 1e3 * 0.5 < shown.deadline_ms <= budget_s * 1e3 + 2
    counted = kit.registry.get_sample_value("gateway_requests_without_deadline_total")
    assert float(deadline_s is None) == counted


async def test_a_bug_is_internal_and_counted(stub: Any, kit: Kit, world: Any) -> None:
    """The caller learns nothing but that; the log has the rest."""
    world.rows.raises = ZeroDivisionError("secret")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Rank(pb.RankRequest(usecase="tiny", user_id=7, item_ids=[1]), timeout=5)
    assert grpc.StatusCode.INTERNAL == raised.value.code()
    assert "secret" not in raised.value.details()
    assert 1 == requests(kit, "", "INTERNAL")
