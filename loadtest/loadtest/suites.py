"""Runs a suite as its data says: once, several times for the median, or as a search."""

from collections.abc import Callable
from pathlib import Path

from loadtest.report import write_reports
from loadtest.saturation import Saturation, saturate
from loadtest.targets import Suite
from loadtest.verdict import Verdict, median_of

Run = Callable[[float | None, float | None, int], Verdict]
"""(rate, seconds, seed) -> what that run gave; None: as the suite says."""
FIRST_SEED = 7


def run_suite(
    name: str, suite: Suite, run: Run, *, runs: int | None = None, folder: Path | None = None
) -> Verdict | Saturation:
    """The suite's verdict, written down in `folder`; a Saturation where it searches.

    `runs`: how often, None = as the suite says; the run with the median p99 counts. Each run has its own seed.

    Raises:
        LoadTestError: what `run` raises.
    """
    if suite.search is not None:
        return _searched(name, suite, run, folder)
    count = runs or suite.runs
    verdicts = [run(None, None, seed) for seed in range(FIRST_SEED, FIRST_SEED + count)]
    verdict = median_of(verdicts) if count > 1 else verdicts[0]
    return verdict if folder is None else write_reports(verdict, folder)


def _searched(name: str, suite: Suite, run: Run, folder: Path | None) -> Saturation:
    seeds = iter(range(FIRST_SEED, 10_000))
    found = saturate(name, suite, lambda rate, seconds: run(rate, seconds, next(seeds)))
    if folder is None:
        return found
    from loadtest.curve import write_saturation

    return write_saturation(found, folder)
