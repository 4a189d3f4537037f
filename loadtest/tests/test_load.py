"""What a run sends, and which loads are refused."""

from pathlib import Path

import numpy as np
import pytest
from loadtest.errors import BadInput
from loadtest.load import Load, arrivals, encoded_requests
from loadtest.targets import load_suite
from millrace.ranking.v1 import ranking_pb2

LOAD = Load(
    target="127.0.0.1:50051", usecase="movies", rate=200, seconds=50, candidates=100, warmup_s=2, deadline_ms=250
)


def test_arrivals_are_a_poisson_process() -> None:
    """Gaps are exponential (mean = deviation = 1/rate), not even: even gaps lock in phase with the server's timers."""
    times = arrivals(LOAD)
    gaps = np.diff(times)

    assert abs(len(times) - 200 * 52) < 5 * (200 * 52) ** 0.5
    assert times[-1] < 52
    np.testing.assert_allclose([gaps.mean(), gaps.std()], 1 / 200, rtol=0.05)
    np.testing.assert_array_equal(times, arrivals(LOAD))  # one seed, one schedule


def test_each_request_asks_for_distinct_items() -> None:
    """As many candidates as asked, none twice, all from the catalogue, users drawn anew."""
    requests = [
        ranking_pb2.RankRequest.FromString(r) for r in encoded_requests(LOAD, range(1, 500), range(1, 90))[:200]
    ]

    assert {100} == {len(set(r.item_ids)) for r in requests}
    assert set(range(1, 500)) >= {i for r in requests for i in r.item_ids}
    assert len({r.user_id for r in requests}) > 50
    assert not requests[0].HasField("context")


def test_a_small_catalogue_is_sent_whole() -> None:
    """Fewer items than candidates is a small catalogue, not an error."""
    request = ranking_pb2.RankRequest.FromString(encoded_requests(LOAD, [5, 6, 7], [1])[0])

    assert [5, 6, 7] == sorted(request.item_ids)


def test_ids_of_the_whole_range_fit() -> None:
    """Ids are unsigned 64-bit; text ids hash into the upper half as well."""
    top = 2**64 - 1

    assert top == ranking_pb2.RankRequest.FromString(encoded_requests(LOAD, [top], [top])[0]).user_id


def test_a_load_names_every_problem_at_once() -> None:
    """One run tells all that is wrong with it."""
    wrong = Load(
        target="nowhere",
        usecase="",
        rate=0,
        seconds=0,
        candidates=2001,
        warmup_s=-1,
        deadline_ms=1,
        mode="closed",
        pool=0,
    )

    with pytest.raises(BadInput) as caught:
        wrong.checked()

    for name in ("rate", "seconds", "candidates", "warmup_s", "deadline_ms", "pool", "target", "usecase", "mode"):
        assert name in str(caught.value)


def test_no_ids_are_refused() -> None:
    """An empty catalogue cannot be loaded with."""
    with pytest.raises(BadInput, match="item ids"):
        encoded_requests(LOAD, [], [1])


def test_the_default_suite_is_the_promise() -> None:
    """100 requests a second, 100 candidates, 60 s, p99 50 ms, no error."""
    suite = load_suite("default")

    assert (100, 100, 60) == (suite.rate, suite.candidates, suite.seconds)
    assert (50, 0) == (suite.limits.p99_ms, suite.limits.error_share)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("suites: {}", "it has"),
        ("[]", "mapping `suites`"),
        ("suites: {mine: {rate: 0}}", "rate"),
        ("suites: {mine: {about: a, rate: 1, candidates: 1, seconds: 1, limits: {p98_ms: 3}}}", "p98_ms"),
        ("suites: {mine: {about: a, rate: 1, candidates: 1, seconds: 1, limits: {rungs: {BEST: 1}}}}", "BEST"),
        ("suites: {mine: ", "no YAML"),
    ],
)
def test_a_wrong_targets_file_is_named_with_its_field(tmp_path: Path, text: str, named: str) -> None:
    """Targets are data that people edit."""
    path = tmp_path / "targets.yaml"
    path.write_text(text)

    with pytest.raises(BadInput, match=named):
        load_suite("mine", path)


def test_a_missing_targets_file_is_bad_input(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(BadInput, match=r"none\.yaml"):
        load_suite("default", tmp_path / "none.yaml")
