"""Percentiles of the microsecond histogram."""

import random

from loadtest.histogram import Histogram, milliseconds


def test_an_empty_histogram_has_no_quantile() -> None:
    """No record is not 0 ms: a run without answers must not look fast."""
    assert Histogram().quantile_us(0.99) is None
    assert milliseconds(None) is None


def test_small_values_are_exact() -> None:
    """Below 256 us each microsecond has a bucket of its own."""
    histogram = Histogram()
    for us in range(1, 101):
        histogram.record(us)

    assert [50, 99, 100] == [histogram.quantile_us(q) for q in (0.5, 0.99, 1.0)]


def test_a_quantile_is_never_kinder_than_the_sorted_list() -> None:
    """The upper edge of the bucket: at or above the true value, by less than 0.8 %."""
    rng = random.Random(3)  # noqa: S311 - a seeded test
    values = sorted(int(rng.lognormvariate(9, 1.5)) for _ in range(20_000))
    histogram = Histogram()
    for us in values:
        histogram.record(us)

    for q in (0.01, 0.5, 0.9, 0.99, 0.999):
        true = values[int(q * len(values)) - 1]
        found = histogram.quantile_us(q)
        assert found is not None
        assert true <= found <= true * 1.008 + 1


def test_the_largest_record_is_kept_exactly() -> None:
    """No quantile exceeds what was seen."""
    histogram = Histogram()
    histogram.record(1_234_567)

    assert 1_234_567 == histogram.quantile_us(0.5) == histogram.max_us
