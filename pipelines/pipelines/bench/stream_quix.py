"""What `bench stream` runs with Quix Streams, by its own environment: nothing here imports ours but the protos.

`python stream_quix.py produce|sum <arguments.json> <answer.json>`: confluent-kafka, which Quix Streams stands on, also
writes the log for all.
"""

import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any


def produce(bootstrap: str, topic: str, values: str, record: int, partitions: int) -> dict[str, Any]:
    """Write a file of records, `record` bytes each: an 8-byte key, then the value; user mod `partitions` has it."""
    from confluent_kafka import Producer  # type: ignore[import-not-found]  # of that environment

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": "none",
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
            "acks": "all",
        }
    )
    content = Path(values).read_bytes()
    for at in range(0, len(content), record):
        key = content[at : at + 8]
        while True:
            try:
                producer.produce(topic, content[at + 8 : at + record], key, int.from_bytes(key) % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        if at // record % 10_000 == 0:
            producer.poll(0)
    if left := producer.flush(120):
        raise SystemExit(f"{left} records were not taken within 120 s")
    return {"records": len(content) // record}


def tumbling_sum(bootstrap: str, topic: str, events: int) -> dict[str, Any]:
    """Read, parse, and keep one tumbling sum a user, for so many events; timed from the first to the last."""
    from millrace.events.v1.events_pb2 import Interaction
    from quixstreams import Application  # type: ignore[import-not-found]  # of that environment
    from quixstreams.models import Deserializer  # type: ignore[import-not-found]

    class Value(Deserializer):  # type: ignore[misc]
        def __call__(self, value: bytes, ctx: Any) -> float:  # noqa: ARG002  the interface's
            return float(Interaction.FromString(value).value)

    times: list[float] = []

    def stamp(total: Any) -> Any:
        times.append(time.perf_counter())
        return total

    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=bootstrap,
            consumer_group="bench-quix",
            auto_offset_reset="earliest",
            state_dir=folder,
            loglevel="ERROR",
        )
        source = app.topic(topic, key_deserializer="bytes", value_deserializer=Value())
        app.dataframe(source).tumbling_window(timedelta(minutes=5), grace_ms=7_200_000).sum().current().apply(stamp)
        app.run(count=events, timeout=60.0)
    return {"events_per_s": (len(times) - 1) / (times[-1] - times[0]), "events": len(times)}


if __name__ == "__main__":
    arguments = json.loads(Path(sys.argv[2]).read_text())
    answer = produce(**arguments) if sys.argv[1] == "produce" else tumbling_sum(**arguments)
    Path(sys.argv[3]).write_text(json.dumps(answer))
