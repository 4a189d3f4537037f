"""Finds what others wrote to `item-features` where only the owner of an origin may.

A worker that was stopped between the check of its lease and its send still sends when it wakes, and no broker refuses
it. Readers ignore it by its epoch, but the topic's cleaner keeps the last record of a key, whoever wrote it. So the
owner counts: a partition that grew by more than what it sent is read from where it was last known, and whatever an
older epoch wrote is sent again.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from definitions.item_feed import parse_item_features_key, parse_partial_value
from kafka import KafkaConsumer, TopicPartition
from servicekit.errors import LogUnavailable
from servicekit.kafka import bounds_of, make_consumer, translated

from features.log import Found, Lease, Origin

_READ_S: Final = 10.0


class Audit:
    """Compares what a partition of `item-features` has grown by with what was sent to it. Connects when first asked."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._consumer: KafkaConsumer | None = None
        self._sent: Counter[TopicPartition] = Counter()
        self._known: dict[TopicPartition, int] = {}

    def sent(self, name: TopicPartition, records: int) -> None:
        """So many more records are on their way."""
        self._sent[name] += records

    def look(self, names: Mapping[Origin, TopicPartition], leases: Mapping[Origin, Lease]) -> dict[Origin, Found]:
        """After a flush: what older epochs have written since the last look. LogUnavailable: ask again."""
        if not names:
            return {}
        if self._consumer is None:
            self._consumer = make_consumer(self._bootstrap, connect_s=1.0)
        for name in set(names.values()) - self._known.keys():
            self._known[name] = min(leases[origin].known for origin in names if names[origin] == name)
        ends = {
            name: max(end, self._known[name])
            for name, (_, end) in bounds_of(self._consumer, sorted(set(names.values()))).items()
        }
        found = {origin: Found(set(), ends[name]) for origin, name in names.items()}
        for name, end in ends.items():
            if end - self._known[name] != self._sent[name]:
                theirs = {origin.partition: origin for origin in names if names[origin] == name}
                self._read(name, end, theirs, leases, found)
        self._known |= ends
        self._sent.clear()
        return found

    def close(self) -> None:
        """Give the connection back."""
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=500)
            self._consumer = None

    def _read(
        self,
        name: TopicPartition,
        end: int,
        origins: Mapping[int, Origin],
        leases: Mapping[Origin, Lease],
        found: Mapping[Origin, Found],
    ) -> None:
        consumer: Any = self._consumer
        due = time.monotonic() + _READ_S
        with translated("reading item-features"):
            consumer.assign([name])
            first = consumer.beginning_offsets([name])[name]
            consumer.seek(name, max(first, self._known[name]))
            while (consumer.position(name, timeout_ms=1_000) or 0) < end:
                if time.monotonic() > due:
                    raise LogUnavailable(f"{name.topic}, partition {name.partition}: not read within {_READ_S} s")
                for record in consumer.poll(timeout_ms=100).get(name, []):
                    _judge(record.key, record.value, origins, leases, found)


def _judge(
    key: bytes | None,
    value: bytes | None,
    origins: Mapping[int, Origin],
    leases: Mapping[Origin, Lease],
    found: Mapping[Origin, Found],
) -> None:
    try:
        item, partition = parse_item_features_key(key)
        if not item or value is None or partition not in origins:
            return
        epoch, _ = parse_partial_value(value)
    except ValueError:  # no reader can use it either
        return
    origin = origins[partition]
    if epoch < leases[origin].epoch:
        found[origin].items.add(item)
    else:  # the owner has sent it again already
        found[origin].items.discard(item)
