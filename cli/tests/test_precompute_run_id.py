"""Which generation `millrace precompute` writes."""

from millrace_cli.nightly import generation_id

HOUR_US = 3_600_000_000
MIDNIGHT_US = 1_769_817_600_000_000  # 2026-01-31T00:00:00Z


def test_today_is_one_generation_until_midnight_utc() -> None:
    """A retry of the nightly job goes on with the generation that it began; the next day's job begins another."""
    at_two, retried, at_the_end = (
        generation_id("today", MIDNIGHT_US + after) for after in (2 * HOUR_US, 5 * HOUR_US + 1, 24 * HOUR_US - 1)
    )

    assert "20260131T000000Z" == at_two == retried == at_the_end
    assert "20260201T000000Z" == generation_id("today", MIDNIGHT_US + 24 * HOUR_US)


def test_without_a_name_each_run_is_its_own() -> None:
    """To the second."""
    assert "20260131T020000Z" == generation_id(None, MIDNIGHT_US + 2 * HOUR_US)


def test_a_given_name_is_taken_as_it_is() -> None:
    """The store refuses what is none."""
    assert "20260130T000000Z-again" == generation_id("20260130T000000Z-again", MIDNIGHT_US)
