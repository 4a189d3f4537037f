"""The estimators on a real log: one logging policy judged by the choices of the other, whose own log is the truth."""

from dataclasses import dataclass

import numpy as np

from pipelines.datasets.open_bandit import LoggedBandit
from pipelines.errors import BadInputError
from pipelines.evaluation.metrics import Vector
from pipelines.evaluation.ope import Estimates, Feedback, cross_fitted, estimate


@dataclass(frozen=True)
class Judged:
    """What the estimators say of a policy, and `truth`: the click rate that its own log shows."""

    estimates: Estimates
    truth: float


def judge(log: LoggedBandit, other: LoggedBandit, *, seed: int = 0) -> Judged:
    """The click rate of `other`'s policy, estimated from the choices of `log`.

    A policy of Open Bandit knows nothing of the user, so its choices' shares by position are its probabilities. There
    are no user ids: rows are drawn one by one.

    Raises:
        BadInputError: the logs are of different campaigns.
        MissingPropensities: `log` has none.
    """
    if log.campaign != other.campaign:
        raise BadInputError(f"Open Bandit: {log.campaign} and {other.campaign} have other items; take one campaign")
    feedback, target = Feedback(log.reward, log.propensity, log.item, np.arange(len(log))), shares(other)[log.position]
    rewards = cross_fitted(_features(log), feedback.chosen, feedback.reward, feedback.unit, seed=seed)
    return Judged(estimate(feedback, target, rewards, seed=seed), float(other.reward.mean()))


def shares(log: LoggedBandit) -> Vector:
    """How often each item was chosen at each position: float64 (positions, items), rows add up to 1."""
    counts = np.zeros((log.positions, log.items))
    np.add.at(counts, (log.position, log.item), 1.0)
    out: Vector = counts / counts.sum(axis=1, keepdims=True)
    return out


def _features(log: LoggedBandit) -> Vector:
    """Item and position as indicators, and the user's past clicks on the item: float64 (n, items, ...)."""
    rows, items = len(log), log.items
    item = np.broadcast_to(np.eye(items), (rows, items, items))
    position = np.broadcast_to(np.eye(log.positions)[log.position][:, None, :], (rows, items, log.positions))
    return np.concatenate([item, position, log.affinity[:, :, None]], axis=2)
