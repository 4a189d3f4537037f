"""`python -m servicekit.kafka.compile`: have the kernels of columns compiled, so that no process start does it.

Set-up and image builds run it. A kernel is compiled for the types that it is called with: it reads and writes a batch.
"""

import sys
import time

import numpy as np
from kafka import TopicPartition
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from servicekit.kafka.batches import write_records
from servicekit.kafka.column_reader import ColumnRecords


def main() -> int:
    """Read one record and write one."""
    began = time.monotonic()
    builder = MemoryRecordsBuilder(2, 0, 1 << 10)
    builder.append(0, b"key", b"value")
    builder.close()
    if len(ColumnRecords(0, TopicPartition("compile", 0), MemoryRecords(bytes(builder.buffer()))).take(1)) != 1:
        raise AssertionError("one batch of one record was not read as one value")
    key, value, ends = np.zeros((1, 3), np.uint8), np.zeros(5, np.uint8), np.array([0, 5])
    if write_records(key, np.frombuffer(b"p", np.uint8), value, ends, 0, np.empty(64, np.uint8)) != (1, 16):
        raise AssertionError("one record was not written as one")
    sys.stdout.write(f"kernels of the log are compiled ({time.monotonic() - began:.0f} s)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
