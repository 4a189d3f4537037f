"""Backfill on Ray: a local cluster of two workers gives what one process gives. `make ray` runs it."""

from collections.abc import Iterator

import numpy as np
import pytest
from definitions.backfill import Queries, backfill, bucket_of
from definitions.events import EventColumns
from definitions.layout import layout_of
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb
from pipelines.training.examples import Log

ray = pytest.importorskip("ray", reason="ray is a dependency group of its own: make ray")

pytestmark = pytest.mark.real


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def log_and_queries(n: int = 4_000) -> tuple[Log, Queries]:
    """Events of 300 users on 40 items, some late, and as many rows asked for."""
    random = np.random.default_rng(3)
    times = 1_700_000_000_000_000 + np.sort(random.integers(0, 30 * 86_400_000_000, n))
    times[random.integers(0, n, n // 20)] -= 3_600_000_000
    events = EventColumns.of(
        n,
        event_id=range(1, n + 1),
        user_id=random.integers(1, 301, n),
        item_id=random.integers(1, 41, n),
        action=random.integers(0, 2, n),
        value=random.integers(1, 6, n),
        event_time_us=times,
        category=random.integers(0, 5, n),
        offset=range(n),
    )
    users = {5: pb.User(id=5, deleted=True)}
    items = {
        item: pb.Item(id=item, attributes={"year": pb.AttributeValue(number=1900 + item)}) for item in range(1, 41)
    }
    queries = Queries.of(random.integers(1, 311, n), random.integers(1, 41, n), times + random.integers(0, 2, n))
    return Log(events, users, items, "made"), queries


def test_tasks_by_user_bucket_give_the_same_bits_as_one_process(cluster: None, films: UseCase) -> None:
    """Whatever the buckets; one of them may be empty."""
    from pipelines.training.on_ray import backfill_on_ray

    layout = layout_of(films)
    log, queries = log_and_queries()
    whole = backfill(layout, log.events, log.users, log.items, queries)

    for buckets in (1, 3):
        parts = backfill_on_ray(layout, log, queries, buckets)
        assert len(set(bucket_of(queries.user_id, buckets).tolist())) == buckets
        np.testing.assert_array_equal(whole.features, parts.features)
        np.testing.assert_array_equal(whole.user_ints, parts.user_ints)
        np.testing.assert_array_equal(whole.item_ints, parts.item_ints)
    few = queries.take(np.arange(3))
    np.testing.assert_array_equal(whole.features[:3], backfill_on_ray(layout, log, few, 8).features)
