"""What a process and Triton take between two readings."""

import os
import time

from loadtest.watching import Reading, Resources, Watch, parse_triton

PAGE = """# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="movies",version="1"}} {requests}
nv_inference_request_success{{model="movies",version="2"}} 5
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{{model="movies",reason="OTHER",version="1"}} 1
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{{model="movies",version="1"}} {executions}
# TYPE nv_inference_count counter
nv_inference_count{{model="movies",version="1"}} {rows}
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{{model="movies",version="1"}} {queue}
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{{model="movies",version="1"}} {queue}
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{{gpu_uuid="x"}} 0.5
"""


def reading(triton: str) -> Reading:
    return Reading(at_s=0, machine_s=0, stolen_s=0, own_s=0, processes={}, triton=triton)


def test_tritons_counters_become_figures_of_the_run() -> None:
    """Summed over versions, as differences: what went before the run is not of it."""
    before = PAGE.format(requests=100, executions=100, rows=10_000, queue=1_000)
    after = PAGE.format(requests=400, executions=200, rows=40_000, queue=61_000)

    triton = Resources.between(reading(before), reading(after)).triton

    assert triton is not None
    assert (300, 0, 3.0, 300.0) == tuple(
        triton[name] for name in ("requests", "failures", "requests_per_execution", "rows_per_execution")
    )
    assert triton["queue_us"] == 200.0
    assert parse_triton(before)["requests"] == 105


def test_a_triton_that_scored_nothing_has_no_figures() -> None:
    """And one whose metrics could not be read neither."""
    same = PAGE.format(requests=1, executions=1, rows=1, queue=1)

    assert Resources.between(reading(same), reading(same)).triton is None
    assert Resources.between(reading(""), reading(same)).triton is None


def test_a_process_is_seen_at_work() -> None:
    """Processor and memory of a pid; one that is not there is left out."""
    watcher = Watch({"me": os.getpid(), "nobody": 2**22 + 1}).opened()
    before, ends = watcher.read(), time.process_time() + 0.05
    while time.process_time() < ends:
        pass
    taken = Resources.between(before, watcher.read())

    assert {"me"} == taken.cores.keys()
    assert 0.2 < taken.cores["me"] <= 1.5
    assert taken.generator_cores > 0.2
    assert taken.rss_mib["me"] > 5
