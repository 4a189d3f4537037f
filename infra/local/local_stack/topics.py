"""Reads `infra/kafka/topics.yaml` and creates what is missing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from local_stack.errors import DeclarationError, StackError

USECASE = "<usecase>"


@dataclass(frozen=True)
class Topic:
    """One topic as declared: its name, partitions and Kafka's own settings."""

    name: str
    partitions: int
    settings: dict[str, str]


def declared_topics(path: Path, usecases: Sequence[str]) -> list[Topic]:
    """The topics of `path`, those that name `<usecase>` once for each use case.

    Raises:
        DeclarationError: the file is missing or malformed; names the entry.
    """
    try:
        document: dict[str, Any] = yaml.safe_load(path.read_text())
        entries = dict(document["topics"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as exc:
        raise DeclarationError(f"{path}: {exc!r}; it must be a mapping with `topics`") from exc
    topics = []
    for template, entry in entries.items():
        names = [template.replace(USECASE, usecase) for usecase in usecases] if USECASE in template else [template]
        try:
            settings = {
                key: str(value) for key, value in (document.get("defaults", {}) | entry.get("config", {})).items()
            }
            topics += [Topic(name, int(entry["partitions"]), settings) for name in names]
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise DeclarationError(f"{path}: topic {template}: {exc!r}") from exc
    return topics


def alike(declared: Sequence[Topic], names: Mapping[str, str]) -> list[Topic]:
    """Further topics with the settings of declared ones: `names` maps each to the one that it is like.

    Raises:
        DeclarationError: the other is not declared.
    """
    known = {topic.name: topic for topic in declared}
    if missing := sorted(set(names.values()) - known.keys()):
        raise DeclarationError(f"{missing[0]}: not declared; topics like it cannot be made")
    return [replace(known[like], name=name) for name, like in names.items()]


def log_id_of(bootstrap: str) -> str:
    """Cluster id of a running Kafka; StackError where it says none."""
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            identity = admin.describe_cluster().get("cluster_id")
        finally:
            admin.close()
    except KafkaError as exc:
        raise StackError(f"{bootstrap} does not say its cluster id: {type(exc).__name__}: {exc}") from exc
    if not identity:
        raise StackError(f"{bootstrap} has no cluster id, so its log cannot be told from another one")
    return str(identity)


def create_topics(bootstrap: str, topics: Sequence[Topic], *, replication: int = 1) -> list[str]:
    """Create those that are missing and return their names; an existing topic keeps its settings.

    `replication` copies of each; with three or more, a write is acknowledged by at least two.
    """
    durable = {"min.insync.replicas": "2"} if replication > 2 else {}
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            existing = set(admin.list_topics())
            missing = {
                topic.name: {
                    "num_partitions": topic.partitions,
                    "replication_factor": replication,
                    "configs": durable | topic.settings,
                }
                for topic in topics
                if topic.name not in existing
            }
            if missing:
                admin.create_topics(missing, wait_for_metadata=True)
        finally:
            admin.close()
    except TopicAlreadyExistsError:  # another process was faster
        return []
    except KafkaError as exc:
        raise StackError(f"the topics could not be created at {bootstrap}: {type(exc).__name__}: {exc}") from exc
    return sorted(missing)


def delete_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Remove those of `names` that are there, with all that they hold. StackError where Kafka does not."""
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError, UnknownTopicOrPartitionError

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            if present := sorted(set(names) & set(admin.list_topics())):
                admin.delete_topics(present)
        finally:
            admin.close()
    except UnknownTopicOrPartitionError:  # another process was faster
        return
    except KafkaError as exc:
        raise StackError(f"the topics could not be removed at {bootstrap}: {type(exc).__name__}: {exc}") from exc
