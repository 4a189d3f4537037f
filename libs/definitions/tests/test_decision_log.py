"""Of two who decide at once one holds, whoever reads the log and from wherever."""

import pytest
from definitions.decision_log import DecisionLog, Outcome
from millrace.decisions.v1 import decisions_pb2 as pb


def decision(version: int, revision: int) -> bytes:
    state = pb.ServingState(pin=pb.ModelPin(name="trees", version=version))
    return pb.Decision(usecase="movies", state=state, revision=revision).SerializeToString()


def holds(*records: bytes) -> tuple[int, list[str]]:
    """The version that serves after these, and what became of each."""
    log = DecisionLog()
    outcomes = [log.take(record).value for record in records]
    return log.newest.state.pin.version, outcomes


@pytest.mark.parametrize(
    ("records", "serves", "outcomes"),
    [
        ([], 0, []),
        ([(5, 1), (6, 2)], 6, ["holds", "holds"]),
        ([(5, 1), (6, 2), (7, 2)], 6, ["holds", "holds", "overtaken"]),
        ([(5, 1), (6, 2), (7, 2), (8, 3)], 8, ["holds", "holds", "overtaken", "holds"]),
        ([(5, 1), (7, 3)], 5, ["holds", "overtaken"]),
        ([(5, 1), (6, 2), (4, 1)], 6, ["holds", "holds", "overtaken"]),
        ([(5, 17), (6, 18)], 6, ["holds", "holds"]),
        ([(5, 0), (6, 0), (7, 1)], 7, ["holds", "holds", "holds"]),
        ([(5, 1), (6, 2), (3, 0), (7, 1)], 7, ["holds", "holds", "holds", "holds"]),
    ],
    ids=[
        "none",
        "each made from the one before",
        "two made from the same: the first",
        "the next is made from the one that held",
        "made from one that nobody has",
        "made from one long gone",
        "a log whose beginning was compacted",
        "from before there were revisions",
        "an older release decides in between",
    ],
)
def test_a_decision_holds_if_it_was_made_from_the_one_that_did(
    records: list[tuple[int, int]], serves: int, outcomes: list[str]
) -> None:
    """(version, revision) of each record; what is overtaken changes nothing."""
    assert (serves, outcomes) == holds(*(decision(*each) for each in records))


def test_bytes_that_are_no_decision_change_nothing() -> None:
    """Nor what may follow."""
    found = holds(decision(5, 1), b"\xff\xff\xff", decision(6, 2))
    assert (6, ["holds", Outcome.UNREADABLE.value, "holds"]) == found
