"""Each rung of the ladder is measured by its own order, with nothing of the test rows' time in the lower two."""

import numpy as np
import pytest
from definitions.layout import Layout, layout_of
from definitions.rules import Filter
from definitions.usecase import find_usecase
from pipelines.datasets import build_dataset, split_times
from pipelines.datasets.synthetic import synthetic_world
from pipelines.evaluation.metrics import ndcg
from pipelines.training.examples import Examples, Log, build_examples
from pipelines.training.rungs import LIST_LENGTH, rung_quality
from servicekit.settings import checkout_root


@pytest.fixture(scope="module")
def world() -> tuple[Layout, Log, Examples]:
    movies = find_usecase("movies", checkout_root() / "usecases")
    log = Log.of_dataset(build_dataset(movies, synthetic_world(users=60, items=130, events=2500, seed=1)))
    layout = layout_of(movies)
    return layout, log, build_examples(layout, log)


@pytest.mark.parametrize("until", [2100, 1985], ids=["all years", "a filter of the rules"])
def test_lists_and_popularity_are_of_the_night_before_the_first_test_row(
    world: tuple[Layout, Log, Examples], until: int
) -> None:
    """By a model that likes small item ids: the hundred smallest that the user had not met and that the rules let pass,
    all others behind.
    """
    layout, log, examples = world
    layout = layout_of(layout.usecase.model_copy(update={"filters": (Filter(by="year", at_most=until),)}))
    allowed = {item for item, told in log.items.items() if told.attributes["year"].number <= until}
    split = split_times(examples.time_us)
    test = split.test
    users, items, label = examples.user_id[test], examples.item_id[test], examples.label[test]
    place = layout.item_int_names.index("item_id")

    def likes_small_ids(features: np.ndarray, user_ints: np.ndarray, item_ints: np.ndarray) -> np.ndarray:
        assert len(features) == len(user_ints)
        return -item_ints[:, place].astype(np.float32)

    found = rung_quality(
        layout, log, examples, split,
        model=label.astype(np.float32), fallback=-label.astype(np.float32), score=likes_small_ids,
    )  # fmt: skip

    events = log.events.take(log.events.event_time_us < split.test_from_us)
    liked = layout.usecase.is_positive(events.action, events.value)
    total = {item: int(liked[events.item_id == item].sum()) for item in np.unique(events.item_id).tolist()}
    met = {user: set(events.item_id[events.user_id == user].tolist()) for user in np.unique(users).tolist()}
    known = sorted(total.keys() & allowed)
    by_list = [
        -float(item) if item in [each for each in known if each not in met[user]][:LIST_LENGTH] else -1e9
        for user, item in zip(users.tolist(), items.tolist(), strict=True)
    ]
    popular = [float(total.get(item, 0)) for item in items.tolist()]
    assert 1.0 == found["MODEL"]
    assert found["LOCAL_MODEL"] < found["MODEL"]
    assert pytest.approx(ndcg(label, np.array(popular), users, k=10)) == found["POPULAR"]
    assert pytest.approx(ndcg(label, np.array(by_list), users, k=10)) == found["PRECOMPUTED"]
    assert -1e9 in by_list
