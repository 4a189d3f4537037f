"""Which runs pass, and what the report says of them."""

import json
from pathlib import Path

import pytest
from loadtest.load import Load
from loadtest.recorder import Recorder
from loadtest.report import render, write_reports
from loadtest.targets import Limits, Phase, Suite
from loadtest.verdict import Verdict, judge
from loadtest.watching import Resources

LOAD = Load(target="127.0.0.1:1", usecase="movies", rate=100, seconds=10, candidates=100, warmup_s=1, deadline_ms=250)
SUITE = Suite(
    about="test",
    rate=100,
    candidates=100,
    seconds=10,
    limits=Limits(p50_ms=10, p99_ms=50, rungs={"MODEL": 0.99}),
)


def verdict_of(recorder: Recorder, *, due: int = 1000, spent_s: float = 10, cpu_s: float = 1) -> Verdict:
    return judge(
        "test", SUITE, LOAD, recorder, due=due, spent_s=spent_s, resources=Resources(generator_cores=cpu_s / spent_s),
        started_at="2026-01-01T00:00:00",
    )  # fmt: skip


def good_run(count: int = 1000, latency_us: int = 5_000) -> Recorder:
    recorder = Recorder(warmup_s=1)
    for number in range(count):
        recorder.answered(1 + number * 10 / count, 300, latency_us, "MODEL", "lightgbm:1")
    return recorder


def test_a_run_inside_its_targets_passes() -> None:
    """Everything held, nothing missed, and the figures are those of the records."""
    verdict = verdict_of(good_run())

    assert verdict.passed
    assert [] == verdict.missed
    assert (1000, 0, 0, 0) == (verdict.requests, verdict.errors, verdict.late, verdict.dropped)
    assert verdict.p99_ms == pytest.approx(5, rel=0.01)
    assert {"MODEL": 1.0, "LOCAL_MODEL": 0.0, "PRECOMPUTED": 0.0, "POPULAR": 0.0} == verdict.rungs


def test_one_error_misses_a_share_of_zero() -> None:
    """A failed answer is a failed answer; its code and first detail are kept."""
    recorder = good_run()
    recorder.failed(5.0, 300, 9_000, "UNAVAILABLE", "connection refused")

    verdict = verdict_of(recorder)

    assert ["error_share"] == verdict.missed
    assert {"UNAVAILABLE": 1} == verdict.errors_by_code
    assert {"UNAVAILABLE": "connection refused"} == verdict.error_details


def test_a_dropped_request_is_an_error_with_its_waiting() -> None:
    """What never got a slot is neither forgotten nor fast."""
    recorder = good_run(count=90)
    for _ in range(10):
        recorder.gave_up(5.0, 250_000)

    verdict = verdict_of(recorder, due=100)

    assert (10, 10) == (verdict.dropped, verdict.errors)
    assert verdict.p99_ms == pytest.approx(250, rel=0.01)
    assert {"p99_ms", "error_share", "achieved_share"} == set(verdict.missed)


def test_lower_rungs_miss_the_share_asked_of_the_best() -> None:
    """Fast answers from a lower rung are no proof of the model."""
    recorder = good_run(count=900)
    for number in range(100):
        recorder.answered(1 + number / 20, 300, 900, "POPULAR", "none")

    verdict = verdict_of(recorder)

    assert ["rungs.MODEL"] == verdict.missed
    assert {"MODEL": 0.9, "LOCAL_MODEL": 0.0, "PRECOMPUTED": 0.0, "POPULAR": 0.1} == verdict.rungs


def test_a_busy_generator_voids_the_run() -> None:
    """Above 80 % of a core it measures itself; under 98 % of the rate it asked for less than it says."""
    assert ["generator_cpu_share"] == verdict_of(good_run(), cpu_s=9).missed
    assert ["achieved_share"] == verdict_of(good_run(), spent_s=11).missed


def test_a_run_without_answers_misses() -> None:
    """No figure is a missed target, never a held one."""
    verdict = verdict_of(Recorder(warmup_s=1), due=1000)

    assert not verdict.passed
    assert {"p50_ms", "p99_ms", "error_share", "achieved_share", "rungs.MODEL"} == set(verdict.missed)
    assert verdict.p99_ms is None


def test_warm_up_counts_for_nothing() -> None:
    """But for its own number."""
    recorder = good_run()
    recorder.failed(0.5, 0, 400_000, "UNAVAILABLE", "cold")

    verdict = verdict_of(recorder)

    assert verdict.passed
    assert 1 == verdict.warmup_requests


def test_the_timeline_names_the_rungs_of_each_second() -> None:
    """Every measured second is there, also one in which nothing was due."""
    recorder = Recorder(warmup_s=1)
    recorder.answered(1.2, 0, 2_000, "MODEL", "m:1")
    recorder.answered(3.9, 0, 4_000, "LOCAL_MODEL", "m:1")
    recorder.failed(3.9, 0, 4_000, "DEADLINE_EXCEEDED", "")

    timeline = verdict_of(recorder).timeline

    assert [{"MODEL": 1}, {}, {"LOCAL_MODEL": 1}] == [second["rungs"] for second in timeline]
    assert [{}, {}, {"DEADLINE_EXCEEDED": 1}] == [second["errors"] for second in timeline]
    assert [1, 0, 2] == [second["requests"] for second in timeline]


def test_a_verdict_survives_its_json() -> None:
    """The parent process reads what the generator wrote."""
    verdict = verdict_of(good_run())

    assert verdict == Verdict.from_json(json.loads(json.dumps(verdict.to_json())))


def test_the_page_is_self_contained_and_shows_what_was_missed(tmp_path: Path) -> None:
    """One file, no link to anywhere, hostile details escaped."""
    recorder = good_run(count=100)
    recorder.failed(5.0, 300, 9_000, "INTERNAL", "<script>alert(1)</script>")

    written = write_reports(verdict_of(recorder, due=101), tmp_path / "reports")
    page = Path(written.report_html).read_text()

    assert "rungs.MODEL" in page
    assert "<script" not in page
    assert not [marker for marker in ("http://", "https://", "src=", "href=") if marker in page]
    assert written.report_json.endswith("loadtest-test.json")
    assert json.loads(Path(written.report_json).read_text())["missed"] == ["error_share"]


def test_a_run_of_nothing_still_renders() -> None:
    """The page of the worst run is the one people need."""
    assert "missed" in render(verdict_of(Recorder(warmup_s=1)))


SPIKE = SUITE.model_copy(
    update={
        "phases": (
            Phase(name="before", seconds=3, rate=10),
            Phase(name="spike", seconds=2, rate=100),
            Phase(name="after", seconds=5, rate=10),
        ),
        "limits": Limits(error_share=1, unshed_share=0, recovery_s=1),
    }
)


def spiked(*, calm_from: float, pushed_back: bool = True) -> Verdict:
    """A second of the spike is refused, and answers come from below until `calm_from`."""
    recorder = Recorder(warmup_s=1)
    for number in range(1_000):
        second = number / 100
        if 3 <= second < 4:
            recorder.failed(1 + second, 0, 1_000, "RESOURCE_EXHAUSTED", "later", pushed_back=pushed_back)
        else:
            recorder.answered(1 + second, 0, 2_000, "MODEL" if second < 3 or second >= calm_from else "POPULAR", "m:1")
    return judge(
        "spike", SPIKE, LOAD, recorder, due=1000, spent_s=10, resources=Resources(), started_at="2026-01-01T00:00:00"
    )


def test_a_spike_may_be_shed_if_all_is_soon_as_before() -> None:
    """Refusals that say when to come again are no failure; each phase has its own figures."""
    verdict = spiked(calm_from=6)

    assert verdict.passed, verdict.missed
    assert (100, 0) == (verdict.shed, verdict.unshed)
    assert [300, 200, 500] == [phase["requests"] for phase in verdict.phases]
    assert {"RESOURCE_EXHAUSTED": 100} == verdict.phases[1]["errors"]


def test_a_refusal_without_a_word_is_a_failure() -> None:
    """A caller that is not told when to come again comes at once."""
    assert ["unshed_share"] == spiked(calm_from=6, pushed_back=False).missed


def test_a_slow_recovery_and_none_at_all_miss() -> None:
    """Two seconds where one was promised; and one that the run did not live to see."""
    assert ["recovery_s"] == spiked(calm_from=7).missed
    assert ["recovery_s"] == spiked(calm_from=9).missed


def test_what_creeps_up_is_seen() -> None:
    """Last quarter against first, and memory of any process: a soak's two questions."""
    recorder = Recorder(warmup_s=1)
    for number in range(1_000):
        recorder.answered(1 + number / 100, 0, 2_000 if number < 750 else 4_000, "MODEL", "m:1")
    suite = SUITE.model_copy(update={"limits": Limits(p99_drift=1.5, rss_growth_mib=100)})
    verdict = judge(
        "soak", suite, LOAD, recorder, due=1000, spent_s=10, started_at="2026-01-01T00:00:00",
        resources=Resources(rss_growth_mib={"gateway": 120.0, "kafka": 1.0}),
    )  # fmt: skip

    assert {"p99_drift": 2.0, "rss_growth_mib": 120.0} == {
        check.target: pytest.approx(check.measured, rel=0.02) for check in verdict.checks if not check.held
    }
