"""The search for the knee, on a server whose laws are known."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from loadtest.capacity import predict
from loadtest.curve import write_saturation
from loadtest.errors import BadInput
from loadtest.load import Load
from loadtest.recorder import Recorder
from loadtest.saturation import Saturation, Step, saturate
from loadtest.suites import run_suite
from loadtest.targets import Limits, Search, Suite, load_suite
from loadtest.verdict import Verdict, judge
from loadtest.watching import Resources

EMPTY = judge(
    "saturation",
    Suite(about="t", rate=1, candidates=100, seconds=8, limits=Limits()),
    Load(target="h:1", usecase="movies", rate=1, seconds=8, candidates=100, warmup_s=1, deadline_ms=200),
    Recorder(1), due=0, spent_s=8, resources=Resources(), started_at="2026-01-01T00:00:00",
)  # fmt: skip
SUITE = load_suite("saturation")
CAPACITY = 1_000.0  # requests a second that use the gateway's event loop up
BASE_MS, SPARE_MS = 5.0, 9.0  # so p99 is 50 ms where a fifth is left: at 800 a second


def served(rate: float, seconds: float, *, goodput: float = 0.95, shed: bool = True) -> Verdict:
    """A queue by the book below its capacity; past it `goodput` of that capacity, the rest sent away."""
    use = rate / CAPACITY
    over = use >= 1
    p99 = 190.0 if over else BASE_MS + SPARE_MS / (1 - use)
    answered = min(rate, goodput * CAPACITY * 0.8) if over else rate
    requests = round(rate * seconds)
    errors = requests - round(answered * seconds)
    loop = min(use, 1.0)
    resources = Resources(
        machine_has=2, machine_cores=0.1 + 1.5 * loop, generator_cores=0.05,
        cores={"gateway": loop + 0.1, "triton": loop / 2}, main_cores={"gateway": loop, "triton": 0.0},
    )  # fmt: skip
    return replace(
        EMPTY, rate=rate, seconds=seconds, requests=requests, goodput_rps=answered, p50_ms=BASE_MS, p99_ms=p99,
        ok_p99_ms=min(p99, 200.0), model_share=0.4 if over else 1.0, errors=errors, shed=errors if shed else 0,
        unshed=0 if shed else errors, achieved_share=1.0, resources=resources.to_json(),
        generator_cpu_share=0.05,
    )  # fmt: skip


def found_by(measure: Callable[[float, float], Verdict], suite: Suite = SUITE) -> Saturation:
    return saturate("saturation", suite, measure)


def test_the_knee_is_found_to_its_precision() -> None:
    """The highest rate that holds, confirmed by a longer run; past it the curve goes on to twice the knee."""
    found = found_by(served)

    assert found.knee_rps is not None
    assert 800 / 1.05 <= found.knee_rps <= 800
    assert found.knee is not None
    assert found.knee.seconds == 20
    assert max(step.rate for step in found.steps) == pytest.approx(2 * found.knee_rps, rel=0.01)
    assert found.passed, found.missed


def test_low_rates_foretell_the_knee() -> None:
    """Nothing above 300 a second was seen, and 800 is named, with what limits it."""
    found = found_by(served)

    assert found.prediction is not None
    assert found.prediction.knee_rps == pytest.approx(800, rel=0.02)
    assert found.prediction.exhausted_rps == pytest.approx(CAPACITY, rel=0.02)
    assert found.prediction.limited_by == "gateway"
    assert found.prediction.lines["machine"].at(1_000) == pytest.approx(0.8)  # of both cores, the rest's tenth included
    assert found.prediction.p99_ms(500) == pytest.approx(BASE_MS + SPARE_MS * 2, rel=0.05)
    assert math.isinf(found.prediction.p99_ms(CAPACITY * 1.1))


def test_what_is_neither_answered_nor_shed_misses() -> None:
    """A caller that only runs into its deadline was not told when to come again."""
    found = found_by(lambda rate, seconds: served(rate, seconds, shed=False))

    assert ["unshed_share_at_overload"] == found.missed


def test_a_collapse_past_the_knee_misses() -> None:
    """Goodput at 1.75 times the knee is measured against the knee."""
    found = found_by(lambda rate, seconds: served(rate, seconds, goodput=0.5))

    assert ["goodput_share_at_overload"] == found.missed
    assert found.goodput_share_at_overload == pytest.approx(0.5 * 800 / (found.knee_rps or 0), rel=0.01)


def test_one_hiccup_does_not_end_the_search() -> None:
    """Each rate that fails is tried a second time."""
    seen: set[float] = set()

    def hiccups(rate: float, seconds: float) -> Verdict:
        first = rate not in seen
        seen.add(rate)
        return replace(served(rate, seconds), p99_ms=120.0) if first else served(rate, seconds)

    found = found_by(hiccups)

    assert found.knee_rps is not None
    assert 800 / 1.05 / 1.05 <= found.knee_rps <= 800


def test_answers_from_lower_rungs_and_refusals_are_no_knee() -> None:
    """MODEL's share is of all that asked: who is sent away at once is fast, and not served."""
    rejecting = replace(served(100, 8), requests=800, errors=100, goodput_rps=87.5)
    lower = replace(served(100, 8), model_share=0.98)

    assert [False, False] == [Step.of("search", each, _search()).holds for each in (rejecting, lower)]
    assert Step.of("search", served(100, 8), _search()).holds


def test_a_server_that_never_holds_has_no_knee() -> None:
    """Found by going down, and every promise is missed, not held by default."""
    found = found_by(lambda rate, seconds: replace(served(rate, seconds), p99_ms=900.0))

    assert found.knee_rps is None
    assert {"goodput_share_at_overload", "overload_p99_ms", "model_error"} <= set(found.missed)
    assert found.to_json()["p99_ms"] is None


def test_a_busy_generator_voids_the_search() -> None:
    """Past 80 % of a core it measured itself."""
    found = found_by(lambda rate, seconds: replace(served(rate, seconds), generator_cpu_share=0.9))

    assert ["generator_cpu_share"] == found.missed


def test_a_prediction_needs_two_rates_that_cost_something() -> None:
    """None, rather than a number from nothing."""
    one = Step.of("calibrate", served(100, 8), _search())
    idle = replace(one, resources=Resources(machine_has=2).to_json())

    assert predict([one], 50) is None
    assert predict([one, one], 50) is None
    assert predict([idle, replace(idle, goodput_rps=200.0)], 50) is None


def test_what_was_found_is_written_down(tmp_path: Path) -> None:
    """JSON with the keys of every suite, a CSV row a step with each process's cores, and a picture."""
    written = write_saturation(found_by(served), tmp_path)
    rows = list(csv.DictReader(Path(written.report_csv).read_text().splitlines()))

    assert {
        "rate",
        "p50_ms",
        "p99_ms",
        "errors",
        "model_share",
        "knee_rps",
        "overload_p99_ms",
    } <= written.to_json().keys()
    assert len(rows) == len(written.steps)
    assert float(rows[0]["gateway_cores"]) == pytest.approx(float(rows[0]["rate"]) / CAPACITY + 0.1)
    assert Path(written.report_png).read_bytes().startswith(b"\x89PNG")
    assert {"loadtest-saturation.csv", "loadtest-saturation.json", "loadtest-saturation.png"} == {
        path.name for path in tmp_path.iterdir()
    }


def test_a_suite_without_a_search_runs_as_often_as_it_says() -> None:
    """Each run has its own schedule; the one with the median p99 is judged, and all are named."""
    p99s = iter([30.0, 90.0, 20.0])
    seeds = []

    def run(rate: float | None, seconds: float | None, seed: int) -> Verdict:
        assert (rate, seconds) == (None, None)
        seeds.append(seed)
        return replace(EMPTY, p99_ms=next(p99s))

    verdict = run_suite("steady", load_suite("steady"), run)

    assert isinstance(verdict, Verdict)
    assert verdict.p99_ms == 30.0
    assert [30.0, 90.0, 20.0] == [each["p99_ms"] for each in verdict.runs]
    assert len(set(seeds)) == 3


def test_a_search_is_asked_of_a_suite_that_has_one() -> None:
    """Named, with one that has."""
    with pytest.raises(BadInput, match="saturation"):
        saturate("smoke", load_suite("smoke"), served)


@pytest.mark.parametrize("name", ["default", "smoke", "steady", "spike", "soak", "saturation", "outage"])
def test_every_suite_can_be_read(name: str) -> None:
    """Phases fill the time; scaling keeps their proportions."""
    suite = load_suite(name)
    double = suite.scaled(suite.rate * 2, suite.seconds / 2)

    assert sum(phase.seconds for phase in double.phases) in (0, pytest.approx(suite.seconds / 2))
    assert [phase.rate * 2 for phase in suite.phases] == [phase.rate for phase in double.phases]


def _search() -> Search:
    assert SUITE.search is not None
    return SUITE.search


def test_phases_that_do_not_fill_the_time_are_refused(tmp_path: Path) -> None:
    """Or a part of the run would have no rate."""
    path = tmp_path / "targets.yaml"
    path.write_text(
        "suites: {s: {about: t, rate: 1, candidates: 1, seconds: 9, limits: {}, "
        "phases: [{name: a, seconds: 4, rate: 2}]}}"
    )

    with pytest.raises(BadInput, match="phases last 4 s, seconds says 9"):
        load_suite("s", path)
