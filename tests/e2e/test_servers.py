"""The servers that fixtures start alone answer in their own protocols."""

from pathlib import Path

import pytest
from local_stack import topics
from local_stack.cql import session
from local_stack.home import checkout_root
from local_stack.probes import Probe, split

pytestmark = pytest.mark.real


def test_kafka_takes_every_declared_topic_once(kafka: str) -> None:
    """Creating the topics again changes nothing, so `up` can always do it."""
    declared = topics.declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", ["first", "second"])
    own = [topic for topic in declared if "." in topic.name]  # the session may have made the shared ones

    created = topics.create_topics(kafka, own)

    assert sorted(topic.name for topic in own) == created
    topics.create_topics(kafka, declared)
    assert topics.create_topics(kafka, declared) == []


def test_cassandra_answers_a_query(cassandra: str) -> None:
    """The release is the one that is pinned."""
    with session(*split(cassandra)) as connected:
        (version,) = connected.execute("SELECT release_version FROM system.local").one()

    assert version == "5.0.8"


def test_valkey_answers(valkey: str) -> None:
    """PING is answered."""
    assert Probe("valkey", valkey).ask() is None


def test_triton_is_ready_on_an_empty_repository(triton_http: str, triton_repository: Path) -> None:
    """The gateway starts before the first deployment, so Triton must as well."""
    assert list(triton_repository.iterdir()) == []
    assert Probe("triton", triton_http, str(triton_repository)).ask() is None
