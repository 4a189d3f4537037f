"""A model in this process: ONNX Runtime, one thread. Rung LOCAL_MODEL, and rung MODEL where there is no Triton."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import numpy as np
from bundle import BundleError

from gateway.errors import Unavailable
from gateway.query import Floats, Ints

INLINE_S: Final = 0.001  # longer work would hold up the event loop
MAX_WAITING: Final = 8
_PROBE_ROWS: Final = 128


class Graph(Protocol):
    """What `bundle.OnnxScorer` is."""

    columns: int
    int_columns: int

    def predictions(self, features: Floats, ints: Ints | None = None) -> Floats:
        """Scores float32 (n,), or heads float32 (n, H)."""
        ...


class Worker:
    """The one thread for long scoring, with a bounded queue. Shared by all models of the process."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="score")
        self.max_waiting = max_waiting
        self.waiting = 0

    def close(self) -> None:
        """Let running work end, drop what waits."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class LocalModel:
    """One graph behind the `Scorer` interface: short work inline, long work on the worker."""

    def __init__(self, graph: Graph, worker: Worker) -> None:
        self._graph = graph
        self._worker = worker
        self._row_s = _seconds_per_row(graph)

    async def score(self, features: Floats, ints: Ints | None, budget_s: float) -> Floats:
        """Scores float32 (n,) or heads (n, H); NaN is the caller's to refuse.

        Raises:
            Unavailable: `time`, `in_flight` (the queue is full) or `error`.
        """
        try:
            if self._row_s * len(features) <= INLINE_S:
                return self._graph.predictions(features, ints)
            return await self._on_worker(features, ints, budget_s)
        except BundleError as exc:
            raise Unavailable("error", str(exc)) from exc

    async def _on_worker(self, features: Floats, ints: Ints | None, budget_s: float) -> Floats:
        worker = self._worker
        if worker.waiting >= worker.max_waiting:
            raise Unavailable("in_flight", f"{worker.waiting} scorings wait")
        worker.waiting += 1
        work = asyncio.get_running_loop().run_in_executor(worker.pool, self._graph.predictions, features, ints)
        work.add_done_callback(lambda done: self._ended(done))
        try:
            async with asyncio.timeout(budget_s):
                return await asyncio.shield(work)  # a thread cannot be cancelled: it runs on and keeps its place
        except TimeoutError:
            raise Unavailable("time", f"no scores in {budget_s * 1e3:.0f} ms") from None

    def _ended(self, work: "asyncio.Future[Floats]") -> None:
        self._worker.waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody may be waiting for it any more


def _seconds_per_row(graph: Graph) -> float:
    """Measured once at load, which also warms the graph. The best of three: the first also allocates."""
    features = np.zeros((_PROBE_ROWS, graph.columns), np.float32)
    ints = np.zeros((_PROBE_ROWS, graph.int_columns), np.int64) if graph.int_columns else None
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        graph.predictions(features, ints)
        best = min(best, time.perf_counter() - began)
    return best / _PROBE_ROWS
