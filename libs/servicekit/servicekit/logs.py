"""Logs of a process: one JSON object a line on stderr, also from libraries."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Final

import structlog

# Libraries whose DEBUG and INFO lines hold record keys (user ids) or only noise.
_QUIET: Final = ("kafka", "asyncio", "urllib3")
# A broker that is away made kafka-python write 20 lines a second; one of a kind each 5 s says the same.
_REPEATS: Final = "kafka."
_EVERY_S: Final = 5.0


def configure_logs(name: str, level: str) -> None:
    """One JSON object a line on stderr, for structlog and for libraries that log through the standard library."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        lambda _logger, _method, event: {"service": name, **event},
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a later configure (a test, a second kit) must take effect
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.set_name("servicekit")
    handler.addFilter(_Sparse())
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if h.get_name() != "servicekit"] + [handler]
    root.setLevel(level)
    for library in _QUIET:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))


class _Sparse(logging.Filter):
    """Lets one line of a kind pass each 5 s from libraries that repeat themselves; the next one tells how many did not.

    A kind is a logger and a line of its code.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if not record.name.startswith(_REPEATS):
            return True
        kind, now = (record.name, record.lineno), self._clock()
        last, held_back = self._seen.get(kind, (-_EVERY_S, 0))
        if now - last < _EVERY_S:
            self._seen[kind] = (last, held_back + 1)
            return False
        self._seen[kind] = (now, 0)
        if held_back:
            record.msg, record.args = f"{record.getMessage()} ({held_back} like it were not written)", None
        return True
