"""Logs stay readable when a library repeats itself."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from servicekit import logs


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a process would write to stderr."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure_logs("example", "INFO")
    yield stream
    root.handlers, root.level = handlers, level


def test_a_library_that_repeats_itself_is_cut_short(written: io.StringIO) -> None:
    """One line of a kind each few seconds; other lines, and our own, are not touched."""
    for attempt in range(10):
        logging.getLogger("kafka.net").error("attempt %d failed", attempt)
    logging.getLogger("kafka.net").error("another line")
    for _ in range(3):
        logging.getLogger("collector").warning("ours")

    assert ["attempt 0 failed", "another line", "ours", "ours", "ours"] == [
        json.loads(line)["event"] for line in written.getvalue().splitlines()
    ]


def test_record_keys_in_a_librarys_details_are_not_written(written: io.StringIO) -> None:
    """kafka-python's DEBUG lines hold user ids."""
    logs.configure_logs("example", "DEBUG")

    logging.getLogger("kafka.producer.kafka").debug("Sending (key=%r)", b"user 7")

    assert "" == written.getvalue()
