"""What the gateway's bench takes for a measurement; the real thing is `millrace bench gateway`."""

import pytest
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2 as pb
from pipelines.bench.gateway import model_share
from pipelines.errors import UnavailableError


def answer(rung: events_pb2.Rung, items: int = 10) -> bytes:
    shown = [pb.RankedItem(item_id=place, position=place) for place in range(1, items + 1)]
    return pb.RankResponse(served_by=rung, reason="MODEL:time", items=shown).SerializeToString()


MODEL, LOCAL = answer(events_pb2.RUNG_MODEL), answer(events_pb2.RUNG_LOCAL_MODEL)


def test_one_answer_in_a_thousand_may_come_without_the_model() -> None:
    """A pause of the machine is no reason to throw minutes of measuring away."""
    assert 1.0 == model_share([MODEL] * 1_000, 10)
    assert 0.999 == model_share([MODEL] * 999 + [LOCAL], 10)


def test_more_than_that_is_no_measurement_of_the_model() -> None:
    """And the message says how many, on what rung and why."""
    with pytest.raises(UnavailableError, match=r"of 1,000 answers 2 on RUNG_LOCAL_MODEL \(MODEL:time\)"):
        model_share([MODEL] * 998 + [LOCAL] * 2, 10)


def test_each_answer_has_all_items() -> None:
    """A cheaper answer is another measurement."""
    with pytest.raises(UnavailableError, match="9 of 10 items"):
        model_share([MODEL, answer(events_pb2.RUNG_MODEL, 9)], 10)
