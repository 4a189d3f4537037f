"""The Kafka side of impressions: a producer made on first use, so that the gateway starts without Kafka's leave."""

from collections.abc import Callable
from typing import Any, Final

from servicekit.errors import LogError, ProducerBroken
from servicekit.kafka import make_producer, translate, translated
from servicekit.topics import id_key, topic

LINGER_MS: Final = 200  # impressions are in no hurry: a few requests a second to the broker, each with many
BATCH_BYTES: Final = 512 * 1024
CONNECT_S: Final = 5.0


class ImpressionLog:
    """Topic `<usecase>.impressions`. Used by one thread."""

    def __init__(self, bootstrap: str, usecase: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic(usecase, "impressions")
        self._producer: Any = None
        self._broken = False

    def send(self, user_id: int, value: bytes, on_lost: Callable[[BaseException], None]) -> None:
        """Hand one record to the producer; `on_lost` is told if Kafka never takes it.

        Raises:
            LogError: no broker, or the record cannot be taken.
        """
        if self._broken:
            self._producer.close(timeout=0)
            self._producer, self._broken = None, False
        if self._producer is None:
            self._producer = make_producer(
                self._bootstrap, linger_ms=LINGER_MS, batch_bytes=BATCH_BYTES, connect_s=CONNECT_S
            )

        def failed(exc: BaseException) -> None:
            error = exc if isinstance(exc, LogError) else translate(exc, f"writing {self._topic}")
            self._broken = self._broken or isinstance(error, ProducerBroken)
            on_lost(error)

        with translated(f"writing {self._topic}"):
            self._producer.send(self._topic, value=value, key=id_key(user_id)).add_errback(failed)

    def close(self, timeout_s: float) -> None:
        """Send what is buffered, for at most `timeout_s`, and close. Raises LogError if that was not enough."""
        if self._producer is None:
            return
        try:
            with translated(f"flushing {self._topic}"):
                self._producer.flush(timeout=timeout_s)
        finally:
            self._producer.close(timeout=0)
            self._producer = None
