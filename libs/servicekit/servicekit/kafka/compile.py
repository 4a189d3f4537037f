"""`python -m servicekit.kafka.compile`: have the column reader's kernels compiled, so that no process start does it.

Set-up and image builds run it. A kernel is compiled for the types that it is called with, so it reads a batch.
"""

import sys
import time

from kafka import TopicPartition
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from servicekit.kafka.column_reader import ColumnRecords


def main() -> int:
    """Read one record."""
    began = time.monotonic()
    builder = MemoryRecordsBuilder(2, 0, 1 << 10)
    builder.append(0, b"key", b"value")
    builder.close()
    if len(ColumnRecords(0, TopicPartition("compile", 0), MemoryRecords(bytes(builder.buffer()))).take(1)) != 1:
        raise AssertionError("one batch of one record was not read as one value")
    sys.stdout.write(f"the column reader is compiled ({time.monotonic() - began:.0f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
