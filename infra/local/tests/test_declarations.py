"""What is declared in files: topics, schema, environment of a service."""

from pathlib import Path

import pytest
from local_stack.cql import statements
from local_stack.errors import DeclarationError
from local_stack.home import checkout_root
from local_stack.service import ServiceSpec, service, without_settings
from local_stack.topics import alike, declared_topics

TOPICS = checkout_root() / "infra" / "kafka" / "topics.yaml"


def test_each_use_case_has_its_topics_and_shares_two() -> None:
    """`decisions` and `dead-letters` are one for all."""
    names = [topic.name for topic in declared_topics(TOPICS, ["a", "b"])]
    own = ["impressions", "interactions", "item-features", "items", "users"]

    assert sorted(names) == sorted(
        [f"{usecase}.{name}" for usecase in "ab" for name in own] + ["dead-letters", "decisions"]
    )


def test_the_policies_are_those_of_the_contract() -> None:
    """Days, compaction, the broker's clock, and room for a dead letter that carries a whole record.

    What was decided is never removed: the cleaner could keep the one of two decisions that does not hold.
    """
    topics = {topic.name: topic for topic in declared_topics(TOPICS, ["m"])}
    day_ms = 24 * 3600 * 1000

    assert {topic.settings["message.timestamp.type"] for topic in topics.values()} == {"LogAppendTime"}
    compacted = {name for name, topic in topics.items() if topic.settings["cleanup.policy"] == "compact"}
    assert compacted == {"m.items", "m.users", "m.item-features"}
    kept = {name: topics[name].settings["retention.ms"] for name in sorted(topics.keys() - compacted)}
    assert kept == {
        "dead-letters": str(28 * day_ms),
        "decisions": "-1",
        "m.impressions": str(3 * day_ms),
        "m.interactions": str(28 * day_ms),
    }
    assert topics["dead-letters"].settings["max.message.bytes"] == str(2 * 2**20)
    assert topics["m.users"].partitions == topics["m.interactions"].partitions


def test_a_topic_can_be_like_a_declared_one() -> None:
    """A further revision's item features differ by name alone."""
    declared = declared_topics(TOPICS, ["m"])
    (found,) = alike(declared, {"m.item-features.2": "m.item-features"})
    (like,) = (topic for topic in declared if topic.name == "m.item-features")
    assert ("m.item-features.2", like.partitions, like.settings) == (found.name, found.partitions, found.settings)
    with pytest.raises(DeclarationError, match=r"m\.none"):
        alike(declared, {"a": "m.none"})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("topics: {a: {config: {}}}", "topic a: KeyError"),
        ("topics: {a: {partitions: many}}", "topic a: ValueError"),
        ("topics: [", "expected"),
        ("{}", "topics"),
    ],
)
def test_a_malformed_declaration_is_named(tmp_path: Path, text: str, named: str) -> None:
    """The message names the file and the entry."""
    path = tmp_path / "topics.yaml"
    path.write_text(text)

    with pytest.raises(DeclarationError, match=r"topics\.yaml") as refused:
        declared_topics(path, ["m"])
    assert named in str(refused.value)


def test_a_schema_is_its_statements() -> None:
    """A comment may hold a semicolon."""
    assert statements("-- one; two\nCREATE a; // b;\nCREATE\n c;\n") == ["CREATE a", "CREATE\n c"]


def test_a_service_gets_only_what_it_declares() -> None:
    """Processes refuse unknown MILLRACE_ names."""
    spec = ServiceSpec("small", "small", frozenset({"MILLRACE_KAFKA", "MILLRACE_HOME"}), 3, {"metrics": 9})

    environment = service(spec, {"MILLRACE_KAFKA": "k:1", "MILLRACE_TRITON": "t:1"}).environment()

    assert environment == {"MILLRACE_KAFKA": "k:1"}


def test_children_inherit_no_setting() -> None:
    """What one process of ours reads is not for another one, in whatever case it is written."""
    assert without_settings({"PATH": "/bin", "MILLRACE_KAFKA": "k:1", "millrace_home": "x"}) == {"PATH": "/bin"}
