"""The process beside the gateway that takes its impressions from shared memory to Kafka: `python -m
gateway.impression_writer`. The gateway starts it, and starts it again if it dies; if the gateway dies, it first writes
what is there.
"""

import argparse
import contextlib
import os
import signal
import sys

from servicekit.logs import configure_logs

from gateway.impression_log import ImpressionLog
from gateway.ring import Ring
from gateway.sparing import Sparing
from gateway.writing import Writer, orphaned


def main() -> int:
    """Write until told to end."""
    parser = argparse.ArgumentParser(prog="gateway.impression_writer", description=__doc__)
    parser.add_argument("--ring", type=int, required=True, help="file descriptor of the shared memory")
    parser.add_argument("--kafka", required=True, help="host:port")
    parser.add_argument("--usecases", required=True, help="of the records' sources, in order, comma-separated")
    parser.add_argument("--log-level", default="INFO")
    asked = parser.parse_args()
    for each in (signal.SIGINT, signal.SIGTERM):  # sent to the group: the gateway drains first, then it ends us
        signal.signal(each, signal.SIG_IGN)
    configure_logs("gateway", asked.log_level)
    with contextlib.suppress(OSError):
        os.nice(1)  # a request goes first
    logs = [ImpressionLog(asked.kafka, usecase) for usecase in asked.usecases.split(",")]
    Writer(Ring(asked.ring), logs, Sparing("impression lost")).run(orphaned)
    return 0


if __name__ == "__main__":
    sys.exit(main())
