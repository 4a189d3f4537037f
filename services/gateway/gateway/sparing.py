"""One line for many errors of a kind: a dead Kafka must not fill the disk with lines."""

import time
from typing import Final

import structlog

_EVERY_S: Final = 5.0

log = structlog.get_logger(__name__)


class Sparing:
    """Logs one line every few seconds however often it is called, and how many it kept back."""

    def __init__(self, event: str, **about: str) -> None:
        self._event = event
        self._about = about
        self._next = 0.0
        self._silent = 0

    def __call__(self, exc: BaseException) -> None:
        """One error more."""
        now = time.monotonic()
        if now < self._next:
            self._silent += 1
            return
        log.warning(self._event, **self._about, error=str(exc), more=self._silent)
        self._next, self._silent = now + _EVERY_S, 0
