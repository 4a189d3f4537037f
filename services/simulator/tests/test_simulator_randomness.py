"""Random numbers by counter: numpy's own, in any batch."""

import numpy as np
import pytest
from simulator.randomness import Stream, normal, uniform, words


@pytest.mark.parametrize(("user", "ordinal", "item"), [(1, 0, 0), (7, 3, 1682), (2**40, 2**33, 2**63)])
def test_words_are_numpys_philox(user: int, ordinal: int, item: int) -> None:
    """The algorithm is the published one: numpy's generator at the same key and counter gives the same bits."""
    theirs = np.random.Philox(
        key=np.array([42, Stream.REACTION], np.uint64),
        counter=np.array([user - 1, ordinal, item, 0], np.uint64),  # numpy counts up before it draws
    ).random_raw(4)

    assert theirs.tolist() == [int(word[()]) for word in words(42, Stream.REACTION, user, ordinal, item)]


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    """One by one or 20,000 at once: the same bits."""
    users = np.arange(20_000)
    together = words(1, Stream.GAP, users, 5, 0)

    for user in (0, 8_191, 8_192, 19_999):
        alone = words(1, Stream.GAP, user, 5, 0)
        assert [int(each[user]) for each in together] == [int(each[()]) for each in alone]


def test_uniforms_and_normals_have_their_moments() -> None:
    """50,000 draws: mean and deviation within five standard errors."""
    first, second, third, _ = words(3, Stream.SAMPLE, np.arange(50_000), 0, 0)
    flat, bell = uniform(first), normal(second, third)

    assert abs(flat.mean() - 0.5) < 5 * (1 / 12) ** 0.5 / 50_000**0.5
    assert flat.min() > 0
    assert flat.max() < 1
    assert abs(bell.mean()) < 5 / 50_000**0.5
    assert abs(bell.std() - 1) < 5 / (2 * 50_000) ** 0.5
