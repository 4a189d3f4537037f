"""The newest requests are read back from the log, as they were asked."""

import numpy as np
import pytest
from gateway.replayed import recent_queries
from local_stack.topics import create_topics, declared_topics
from millrace.events.v1 import events_pb2 as pb
from servicekit.kafka import make_producer
from servicekit.settings import checkout_root
from servicekit.topics import id_key, topic

pytestmark = pytest.mark.real


def impression(user: int, *, asked: bool = True, shown: int = 2, arm: str = "") -> bytes:
    return pb.Impression(
        request_id=user, user_id=user, item_ids=[30, 10, 20], positions=[k if k <= shown else 0 for k in (1, 2, 3)],
        reasons=["requested" if asked else "popular"] * 3, arm=arm,
        context=pb.Context(device=1, surface=2, country=3, session_id=4, time_us=5),
    ).SerializeToString()  # fmt: skip


@pytest.fixture(scope="module")
def log(kafka: str) -> str:
    """Kafka with a use case of our own: eighty requests, a shadow's record, and bytes that are no impression."""
    create_topics(kafka, declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", ["replayed"]))
    producer = make_producer(kafka)
    for user in range(1, 81):
        producer.send(topic("replayed", "impressions"), value=impression(user), key=id_key(user))
    for value in (impression(7, asked=False), impression(8, shown=0, arm="shadow:3"), b"\xff\xff\xff"):
        producer.send(topic("replayed", "impressions"), value=value, key=id_key(7))
    producer.close()
    return kafka


def test_the_newest_of_each_partition_are_asked_again(log: str) -> None:
    """The caller's items, limit and context, as of now; candidates of ours are found anew; shadows never were asked."""
    queries = recent_queries(log, "replayed", 40)
    assert 30 <= len(queries) <= 83  # a partition may have fewer than its part
    mine = [query for query in queries if query.item_ids is not None]
    query = mine[0]
    assert query.item_ids is not None
    assert ([10, 20, 30], np.uint64, 2) == (query.item_ids.tolist(), query.item_ids.dtype, query.limit)
    context = query.context
    assert (1, 2, 3, 4, None) == (context.device, context.surface, context.country, query.session_id, query.time_us)
    assert [7] == [each.user_id for each in queries if each.item_ids is None]
    assert 8 not in [each.user_id for each in queries if each.limit == 0]


def test_no_log_no_topic_no_requests(log: str) -> None:
    """A process starts all the same, with made-up ones."""
    create_topics(log, declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", ["unasked"]))
    assert [] == recent_queries(log, "unasked", 40)
    assert [] == recent_queries(log, "nothere", 40)
    assert [] == recent_queries("127.0.0.1:1", "replayed", 40)
