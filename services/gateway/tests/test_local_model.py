"""A graph in this process: short work inline, long work on one thread with a bounded queue."""

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from bundle import ScoringError
from gateway.errors import Unavailable
from gateway.local_model import LocalModel, Worker


class FakeGraph:
    """Sums columns; holds its thread while `gate` is closed; may fail."""

    columns, int_columns = 2, 0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.threads: list[str] = []
        self.fails = False

    def predictions(self, features: np.ndarray, ints: np.ndarray | None = None) -> np.ndarray:
        assert ints is None
        self.threads.append(threading.current_thread().name)
        self.gate.wait(5.0)
        if self.fails:
            raise ScoringError("model.onnx: ONNX Runtime failed")
        return features.sum(axis=1)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(max_waiting=2)
    yield worker
    worker.close()


def slow(graph: FakeGraph, worker: Worker) -> LocalModel:
    """A model that is known to need the worker."""
    model = LocalModel(graph, worker)
    model._row_s = 1.0
    return model


async def test_short_work_runs_inline(worker: Worker) -> None:
    """A small graph costs less than handing it to a thread."""
    graph = FakeGraph()
    scores = await LocalModel(graph, worker).score(np.ones((3, 2), np.float32), None, 0.5)
    assert [2, 2, 2] == scores.tolist()
    assert {threading.current_thread().name} == set(graph.threads)


async def test_long_work_runs_on_the_worker(worker: Worker) -> None:
    """The event loop stays free."""
    graph = FakeGraph()
    scores = await slow(graph, worker).score(np.ones((3, 2), np.float32), None, 5.0)
    assert [2, 2, 2] == scores.tolist()
    assert graph.threads[-1].startswith("score")


async def test_work_that_outlives_its_budget_keeps_its_place(worker: Worker) -> None:
    """The request goes on; the queue is bounded by what really runs and waits, and drains afterwards."""
    graph = FakeGraph()
    model = slow(graph, worker)
    graph.gate.clear()
    reasons = []
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await model.score(np.ones((1, 2), np.float32), None, 0.01)
        reasons.append(caught.value.reason)
    assert ["time", "time", "in_flight"] == reasons
    graph.gate.set()
    await asyncio.get_running_loop().run_in_executor(worker.pool, int)  # one thread: what was before it has ended
    assert 0 == worker.waiting
    assert [2] == (await model.score(np.ones((1, 2), np.float32), None, 5.0)).tolist()


@pytest.mark.parametrize("inline", [True, False])
async def test_a_failing_graph_is_an_error(worker: Worker, inline: bool) -> None:
    """Its reason is counted, and the next rung answers."""
    graph = FakeGraph()
    model = LocalModel(graph, worker) if inline else slow(graph, worker)
    graph.fails = True
    with pytest.raises(Unavailable) as caught:
        await model.score(np.ones((1, 2), np.float32), None, 5.0)
    assert "error" == caught.value.reason
