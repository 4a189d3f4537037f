"""torchrun with two processes (gloo) against one, sharded tables, and a SIGKILL in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle.admission import check_graph
from pipelines.deep.__main__ import main
from pipelines.deep.heads import Head
from pipelines.deep.rankers import fit_network
from pipelines.evaluation.metrics import auc

from .small_world import PLAN, World

pytestmark = pytest.mark.deep

DEADLINE_S = 240
MEMBER = Path(__file__).parent / "member.py"
PAIR = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*command: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=DEADLINE_S, env=environment(), check=False
    )
    assert 0 == done.returncode, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def pair() -> dict[str, dict[str, Any]]:
    """Two processes, with a copy of the table each and with half of it each.

    They have checked gradients through all_gather and all_to_all, with uneven and empty shares, before they trained.
    """
    return run(*PAIR, MEMBER)


@pytest.mark.parametrize("way", ["copies", "sharded"])
def test_two_processes_train_as_one(way: str, pair: dict[str, dict[str, Any]], world: World) -> None:
    """The same global batches: the same loss at each step to 1e-4, though sums are in another order; AUC to .0005."""
    one = fit_network("dcn_v2", world.columns, world.fit, world.valid, [Head("label")], plan=PLAN)
    other = pair[way]

    np.testing.assert_allclose(one.state.curve, other["curve"], rtol=1e-4)
    np.testing.assert_allclose(one.state.valid, other["valid"], rtol=1e-4)
    label = world.valid.labels[:, 0].astype(bool)
    score = one.score(world.valid.features, world.valid.ints)
    assert auc(label, score) == pytest.approx(auc(label, np.array(other["score"])), abs=5e-4)
    assert one.state.curve != other["curve"]  # two processes indeed


def test_a_training_killed_with_sigkill_resumes_to_the_same_result(
    tmp_path: Path, pair: dict[str, dict[str, Any]]
) -> None:
    """Both processes and their parent die after a checkpoint; the same command ends with the scores of no kill."""
    folder = tmp_path / "checkpoints"
    with subprocess.Popen(
        [*PAIR, str(MEMBER), str(folder)], start_new_session=True, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as victim:  # fmt: skip
        deadline = time.monotonic() + DEADLINE_S
        while not list(folder.glob("[0-9]*")) and victim.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.002)
        for process in [*descendants(victim.pid), victim.pid]:
            os.kill(process, signal.SIGKILL)
        victim.wait()
        assert victim.stdout is not None
        assert b"" == victim.stdout.read()  # it had not finished
    newest = int(max(folder.glob("[0-9]*")).name)
    assert 0 < newest < len(pair["sharded"]["curve"])

    resumed = run(*PAIR, MEMBER, folder)

    assert pair["sharded"] == resumed


def test_the_command_trains_on_a_data_set_and_writes_the_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m pipelines.deep`, alone: one JSON object, one graph that serving admits; bad input is told."""
    out = tmp_path / "model.onnx"
    assert 0 == main(["--model", "fm", "--dataset", "synthetic", "--epochs", "1", "--batch", "4096", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert found["auc"] > 0.6
    assert 1 == found["processes"]
    assert out.stat().st_size > 1000
    check_graph(out)

    assert 2 == main(["--dataset", "no-such"])
    assert "unknown" in capsys.readouterr().err


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs: torchrun's workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *descendants(child))]
