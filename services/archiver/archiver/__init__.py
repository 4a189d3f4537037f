"""Kafka to Delta Lake: each log record exactly once."""

import os

# Read when the libraries are loaded, so set before anything imports them. Arrow's own allocator and delta-rs's jemalloc
# give a commit's memory back to the kernel and take it anew for the next one, and all of it is cleared: 31 page faults
# an impression, 9 so. And one worker: a commit is in no hurry, and must not take all cores.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:120000")
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")
