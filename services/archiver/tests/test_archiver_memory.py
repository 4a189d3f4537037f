"""What the libraries are told before they are loaded."""

import os
import subprocess
import sys

TOLD = ("ARROW_DEFAULT_MEMORY_POOL", "_RJEM_MALLOC_CONF", "TOKIO_WORKER_THREADS")


def test_allocators_are_told_before_they_are_loaded() -> None:
    """The process takes the allocator that keeps memory; a process of its own, since ours has loaded them already."""
    program = "import archiver.__main__, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    bare = {name: value for name, value in os.environ.items() if name not in TOLD}
    done = subprocess.run([sys.executable, "-c", program], env=bare, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "system"
