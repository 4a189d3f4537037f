"""What the processes behind the target take meanwhile: processor, memory, and Triton's own figures."""

import os
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

SCRAPE_S: Final = 2.0
# Prometheus name -> ours, cumulative over all models and versions (Triton's user guide, metrics)
TRITON: Final = {
    "nv_inference_request_success": "requests",
    "nv_inference_request_failure": "failures",
    "nv_inference_exec_count": "executions",
    "nv_inference_count": "rows",
    "nv_inference_queue_duration_us": "queue_us",
    "nv_inference_compute_infer_duration_us": "compute_us",
}


@dataclass(frozen=True)
class Watch:
    """Whom to look at: process name -> pid (its children count with it), and the URL of Triton's metrics."""

    pids: Mapping[str, int] = field(default_factory=dict)
    triton_metrics: str | None = None

    def opened(self) -> "Watcher":
        """Find the processes' children: once, for it looks at every process of the machine."""
        families = {}
        for name, pid in self.pids.items():
            try:
                process = psutil.Process(pid)
                families[name] = [process, *process.children(recursive=True)]
            except psutil.Error:
                continue
        return Watcher(families, self.triton_metrics)


@dataclass(frozen=True)
class Watcher:
    """Reads what a `Watch` names."""

    families: Mapping[str, Sequence[psutil.Process]]
    triton_metrics: str | None

    def read(self) -> "Reading":
        """How things stand now. What cannot be read is left out: watching must not end a run."""
        used = psutil.cpu_times()
        idle = used.idle + getattr(used, "iowait", 0.0) + getattr(used, "steal", 0.0)
        return Reading(
            at_s=time.monotonic(),
            machine_s=sum(used) - idle - getattr(used, "guest", 0.0) - getattr(used, "guest_nice", 0.0),
            stolen_s=getattr(used, "steal", 0.0),
            own_s=time.process_time(),
            processes={name: found for name, all_ in self.families.items() if (found := _process(all_)) is not None},
            triton=_get(self.triton_metrics) if self.triton_metrics else "",
        )


@dataclass(frozen=True)
class Process:
    """One process with its children: seconds of processor, those of its main thread, resident bytes."""

    cpu_s: float
    main_s: float
    rss: int


@dataclass(frozen=True)
class Reading:
    """Cumulative figures at one moment."""

    at_s: float
    machine_s: float
    stolen_s: float
    own_s: float
    processes: Mapping[str, Process]
    triton: str  # the page as it came: parsing takes time that a running load has not


@dataclass(frozen=True)
class Resources:
    """What was taken between two readings. Cores = seconds of processor a second.

    `machine_cores` counts everybody on this machine, the generator too; `main_cores` is the main thread of a process,
    which for the gateway is its event loop. Triton: None where its metrics were not read or it scored nothing.
    """

    machine_cores: float = 0.0
    machine_has: int = 0
    stolen_cores: float = 0.0
    generator_cores: float = 0.0
    cores: Mapping[str, float] = field(default_factory=dict)
    main_cores: Mapping[str, float] = field(default_factory=dict)
    rss_mib: Mapping[str, float] = field(default_factory=dict)
    rss_growth_mib: Mapping[str, float] = field(default_factory=dict)
    triton: Mapping[str, float] | None = None

    @classmethod
    def between(cls, before: Reading, after: Reading) -> "Resources":
        """The difference; a process that was not there at both ends is left out."""
        span_s = max(after.at_s - before.at_s, 1e-9)
        both = [name for name in after.processes if name in before.processes]
        ends = {name: (before.processes[name], after.processes[name]) for name in both}
        return cls(
            machine_cores=_rate(before.machine_s, after.machine_s, span_s),
            machine_has=os.cpu_count() or 1,
            stolen_cores=_rate(before.stolen_s, after.stolen_s, span_s),
            generator_cores=_rate(before.own_s, after.own_s, span_s),
            cores={name: _rate(a.cpu_s, b.cpu_s, span_s) for name, (a, b) in ends.items()},
            main_cores={name: _rate(a.main_s, b.main_s, span_s) for name, (a, b) in ends.items()},
            rss_mib={name: round(b.rss / 2**20, 1) for name, (_, b) in ends.items()},
            rss_growth_mib={name: round((b.rss - a.rss) / 2**20, 1) for name, (a, b) in ends.items()},
            triton=_triton(parse_triton(before.triton), parse_triton(after.triton)),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def parse_triton(page: str) -> dict[str, float]:
    """The counters of a page of Triton's metrics, summed over models; empty for an empty page."""
    if not page:
        return {}
    found = dict.fromkeys(TRITON.values(), 0.0)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = TRITON.get(sample.name.removesuffix("_total"))
            if name is not None:
                found[name] += sample.value
    return found


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=SCRAPE_S) as answer:  # noqa: S310 - the caller's own server
            page: bytes = answer.read()
            return page.decode()
    except (OSError, ValueError):
        return ""


def _triton(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float] | None:
    if not before or not after:
        return None
    took = {name: after[name] - before[name] for name in after}
    requests, executions = took["requests"], took["executions"]
    if requests <= 0 or executions <= 0:
        return None
    return {
        "requests": requests,
        "failures": took["failures"],
        "requests_per_execution": round(requests / executions, 3),
        "rows_per_execution": round(took["rows"] / executions, 1),
        "queue_us": round(took["queue_us"] / requests, 1),
        "compute_us": round(took["compute_us"] / requests, 1),
    }


def _process(family: Sequence[psutil.Process]) -> Process | None:
    """All of a family; None once its head has ended."""
    head = family[0]
    try:
        cpu_s, rss = _taken(head)
        main_s = sum(thread.user_time + thread.system_time for thread in head.threads() if thread.id == head.pid)
    except psutil.Error:
        return None
    for child in family[1:]:
        try:
            child_s, child_rss = _taken(child)
        except psutil.Error:
            continue
        cpu_s, rss = cpu_s + child_s, rss + child_rss
    return Process(cpu_s, main_s, rss)


def _taken(process: psutil.Process) -> tuple[float, int]:
    times = process.cpu_times()
    return times.user + times.system, process.memory_info().rss


def _rate(before: float, after: float, span_s: float) -> float:
    return round((after - before) / span_s, 4)
