"""Kafka to Delta Lake: each log record exactly once."""

import os

# Read when delta-rs is loaded, so set before anything imports it. Its jemalloc gives a commit's pages back within ten
# seconds and takes them anew for the next one, and each is cleared: 29 page faults an impression, 9 when kept for two
# minutes. And one worker: a commit is in no hurry, and must not take all cores.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:120000")
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")
