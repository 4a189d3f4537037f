"""What this machine has and lacks for the stack, each with who needs it and the remedy."""

import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import psutil

from local_stack import process
from local_stack.components.tansu import tansu_program
from local_stack.components.triton import lacking as triton_lacking
from local_stack.components.valkey import REMEDY, find_valkey
from local_stack.errors import MissingProgram
from local_stack.home import Home
from local_stack.java import find_java, java_lacking, maven_lacking
from local_stack.ports import Ports, holder, is_free

REAL_RAM_GIB = 4.0  # measured: Cassandra 1.0, Kafka 0.4, Triton and Valkey 0.1, our four services 1, and the page cache
EMBEDDED_RAM_GIB = 2.0
DISK_GIB = 3.0  # jars 0.11, Triton's environment 0.3, the project's own 1.5, and data


@dataclass(frozen=True)
class Check:
    """One finding. `remedy` is empty where all is well; `weight` "must" marks what no profile can do without."""

    name: str
    found: str
    needed_by: str
    remedy: str = ""
    weight: Literal["must", "may"] = "may"

    @property
    def ok(self) -> bool:
        """Whether nothing is to be done."""
        return not self.remedy

    @property
    def fatal(self) -> bool:
        """Whether no profile can start."""
        return self.weight == "must" and not self.ok


def examine(home: Home, offset: int, environ: Mapping[str, str]) -> list[Check]:
    """Look at everything; nothing is changed or started."""
    return [_python(), *_java(environ), _glibc(), _valkey(environ), _tansu(), _ram(), _disk(home), _ports(home, offset)]


def _python() -> Check:
    remedy = "" if sys.version_info >= (3, 11) else "install Python 3.11"
    return Check("Python", platform.python_version(), "everything", remedy, "must")


def _java(environ: Mapping[str, str]) -> list[Check]:
    java = find_java(environ)
    maven = shutil.which("mvn", path=environ.get("PATH"))
    needed_by = "Kafka and Cassandra (profile real)"
    return [
        Check("Java 17", f"{java.version} ({java.path})" if java else "none", needed_by, java_lacking(java) or ""),
        Check("Maven", maven or "none", f"the jars of {needed_by}", maven_lacking(environ) or ""),
    ]


def _glibc() -> Check:
    reason = triton_lacking()
    found = f"{' '.join(platform.libc_ver())} on {platform.machine()}"
    remedy = f"{reason}; without it models are scored in the gateway" if reason else ""
    return Check("glibc", found, "Triton (profile real)", remedy)


def _valkey(environ: Mapping[str, str]) -> Check:
    program = find_valkey(environ)
    remedy = "" if program else f"{REMEDY}; without it rows are in LMDB"
    return Check("Valkey or Redis", program or "none", "online store (profile real)", remedy)


def _tansu() -> Check:
    try:
        return Check("Tansu", str(tansu_program()), "the log (profile embedded)")
    except MissingProgram as exc:
        return Check("Tansu", "none", "the log (profile embedded)", str(exc))


def _ram() -> Check:
    memory = psutil.virtual_memory()
    free_gib, total_gib = memory.available / 2**30, memory.total / 2**30
    needs = f"profile real {REAL_RAM_GIB:.0f} GiB, embedded {EMBEDDED_RAM_GIB:.0f} GiB"
    remedy = "" if free_gib >= REAL_RAM_GIB else "end other programs, or take --profile embedded"
    weight: Literal["must", "may"] = "must" if free_gib < EMBEDDED_RAM_GIB else "may"
    return Check("Memory", f"{free_gib:.1f} of {total_gib:.1f} GiB free", needs, remedy, weight)


def _disk(home: Home) -> Check:
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    free_gib = shutil.disk_usage(folder).free / 2**30
    remedy = "" if free_gib >= DISK_GIB else f"free {DISK_GIB:.0f} GiB there, or set MILLRACE_HOME to another disk"
    return Check("Disk", f"{free_gib:.1f} GiB free at {folder}", "downloads and data", remedy, "must")


def _ports(home: Home, offset: int) -> Check:
    ours = {port for run in process.run_files(home).values() if run.process() for port in run.ports.values()}
    busy = {name: port for name, port in Ports.at(offset).all().items() if port not in ours and not is_free(port)}
    found = "; ".join(f"{port} ({name}) is held by {holder(port)}" for name, port in busy.items())
    remedy = "end that process, or set MILLRACE_PORT_OFFSET to another multiple of 100" if busy else ""
    return Check("Ports", found or f"free, or ours, at offset {offset}", "each process its own", remedy, "must")
