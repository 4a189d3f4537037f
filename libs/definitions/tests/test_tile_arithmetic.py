"""The arithmetic of windows, at the borders of tiles."""

import numpy as np
import pytest
from definitions.tiles import decayed, end_tile, first_tile, oldest_kept_tile, ratio, ring_length

HOP, WINDOW = 300, 3600


@pytest.mark.parametrize("time_us", [-601, -600, -1, 0, 1, 299, 300, 301, 7199, 7200, 7201])
def test_a_window_is_the_tiles_that_begin_before_t_back_to_a_whole_one(time_us: int) -> None:
    """[floor((t - W) / hop) * hop, t), also before 1970."""
    begins = np.arange(-10_000, 10_000, HOP) // HOP * HOP
    inside = begins[(begins >= np.floor((time_us - WINDOW) / HOP) * HOP) & (begins < time_us)] // HOP

    assert list(range(first_tile(time_us, WINDOW, HOP), end_tile(time_us, HOP))) == inside.tolist()


@pytest.mark.parametrize("newest_us", [-601, -600, -1, 0, 1, 299, 300, 301, 7199, 7200, 7201])
def test_a_tile_is_kept_unless_it_ended_before_the_window_and_two_hops(newest_us: int) -> None:
    """So the ring of the longest window holds every kept tile at once."""
    begins = np.arange(-15_000, 15_000, HOP) // HOP * HOP
    kept = begins[begins + HOP >= newest_us - WINDOW - 2 * HOP] // HOP

    assert oldest_kept_tile(newest_us, WINDOW, HOP) == kept[0]
    assert newest_us // HOP - kept[0] < ring_length(WINDOW, HOP)


def test_a_ratio_has_the_same_bits_for_numbers_and_arrays() -> None:
    """Streaming evaluates one by one, backfill all at once; they must be equal."""
    random = np.random.default_rng(1)
    num, den = random.integers(-(10**12), 10**12, 2000), random.integers(0, 50, 2000)
    for prior in ((0.0, 0.0), (0.55, 10.0), (3.5, 0.1)):
        together = ratio(num, den, 1e6, *prior)
        assert [ratio(n, d, 1e6, *prior) for n, d in zip(num.tolist(), den.tolist(), strict=True)] == together.tolist()


def test_a_decayed_value_halves_and_never_grows_back() -> None:
    """A reader before the newest event takes the value as it is."""
    assert [decayed(8.0, age, 10) for age in (-50, 0, 10, 20)] == [8, 8, 4, 2]
