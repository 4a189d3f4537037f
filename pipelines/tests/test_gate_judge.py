"""The gate's rules on arrays: each refuses what it is there for, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from pipelines.export.parity import Parity
from pipelines.gate.judge import Bars, Evidence, Reason, Rows, Verdict, judge

USERS, EACH = 200, 20
PARITY = Parity(1e-7, 0, 60_000)
BARS = Bars(guards=("auc", "logloss", "calibration"), latency_ms=38.0)


class World:
    """Rows whose true probability is known; a model sees it through noise, so less noise is a better model."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        n = USERS * EACH
        self.logit = self.rng.normal(size=n)
        label = (self.rng.random(n) < 1 / (1 + np.exp(-self.logit))).astype(np.int64)
        users = np.repeat(np.arange(1, USERS + 1, dtype=np.uint64), EACH)
        cold = users <= USERS // 4
        self.rows = Rows(label, users, {"cold users": cold, "warm users": ~cold})

    def scores(self, noise: float) -> np.ndarray:
        """Bayes' probabilities given the noisy view, so calibrated whatever the noise."""
        seen = self.logit + self.rng.normal(size=len(self.logit)) * noise
        mean, spread = seen / (1 + noise**2), noise**2 / (1 + noise**2)
        return 1 / (1 + np.exp(-mean / np.sqrt(1 + np.pi * spread / 8)))

    def model(self, noise: float, model: str = "lightgbm", who: str = "challenger") -> Evidence:
        return Evidence(who, model, self.scores(noise), parity=PARITY, latency_ms=3.0)


@pytest.fixture
def world() -> World:
    return World()


def rules(verdict: Verdict) -> list[str]:
    return sorted({reason.rule for reason in verdict.reasons})


def test_a_better_model_is_promoted_with_the_figures(world: World) -> None:
    """Beats what is simpler, and the champion."""
    verdict = judge(world.rows, world.model(0.3), world.model(1.0, who="v1"), [world.model(2.0, "item_mean")], BARS)

    assert verdict.promoted, str(verdict)
    assert "of v1" in str(verdict)
    assert {"v1", "challenger"} == {each.against for each in verdict.comparisons}


def test_before_the_first_champion_the_simple_ones_are_enough(world: World) -> None:
    """Somebody has to be first."""
    assert judge(world.rows, world.model(0.3), None, [world.model(2.0, "lr")], BARS).promoted


def test_no_better_than_a_simpler_model_is_refused(world: World) -> None:
    """A tie keeps the simpler one."""
    lr = world.model(0.3, "lr", "lr")

    verdict = judge(world.rows, replace(lr, who="trees", model="lightgbm"), None, [lr], BARS)

    assert ["baseline"] == rules(verdict)


def test_models_that_are_no_simpler_need_not_be_beaten(world: World) -> None:
    """Logistic regression is not asked to beat trees that nobody promoted."""
    assert judge(world.rows, world.model(1.0, "lr"), None, [world.model(0.1, "lightgbm")], BARS).promoted


def test_an_equal_model_does_not_replace_the_champion(world: World) -> None:
    """Of twenty retrained ones that are as good none may serve by luck."""
    bars, promoted = Bars(guards=()), 0
    for seed in range(20):
        again = World(seed)
        rows = replace(again.rows, cohorts={})
        promoted += judge(rows, again.model(0.5), again.model(0.5, who="v1"), [], bars, seed=seed).promoted

    assert 0 == promoted


def test_as_good_and_simpler_replaces_the_champion(world: World) -> None:
    """The champion's scores by a simpler model; by a less simple one they are refused."""
    champion = world.model(0.5, "dcn_v2", "v1")

    assert judge(world.rows, replace(champion, who="lr", model="lr"), champion, [], BARS).promoted
    assert ["champion"] == rules(judge(world.rows, replace(champion, who="x", model="sequence"), champion, [], BARS))


def test_a_simpler_model_that_may_be_worse_does_not_replace_it(world: World) -> None:
    """A wide interval is no tie: up to MAX_LOSS, not further."""
    verdict = judge(world.rows, world.model(0.75, "lr"), world.model(0.5, "dcn_v2", "v1"), [], BARS)

    assert "champion" in rules(verdict)


def test_a_loss_on_cold_users_is_refused_though_the_whole_is_better(world: World) -> None:
    """Who is new must not pay for the others."""
    scores = np.where(world.rows.cohorts["cold users"], world.scores(3.0), world.scores(0.05))
    verdict = judge(world.rows, replace(world.model(1.0), scores=scores), world.model(1.0, who="v1"), [], BARS)

    assert ["cohort"] == rules(verdict)
    assert "cold users" in str(verdict)


def test_small_cohorts_say_nothing(world: World) -> None:
    """Five hundred rows at least."""
    few = np.arange(len(world.rows.label)) < 400
    rows = replace(world.rows, cohorts={"few": few})
    scores = np.where(few, world.scores(9.0), world.scores(0.05))

    assert judge(rows, replace(world.model(1.0), scores=scores), world.model(1.0, who="v1"), [], BARS).promoted


def test_better_order_with_worse_probabilities_is_refused(world: World) -> None:
    """GAUC up, log-loss down: too sure of itself, yet calibrated on the whole."""
    sure = 1 / (1 + np.exp(-6 * world.logit))
    verdict = judge(world.rows, replace(world.model(1.0), scores=sure), world.model(1.0, who="v1"), [], BARS)

    assert ["guard"] == rules(verdict)
    assert "logloss" in str(verdict)


def test_a_miscalibrated_model_is_refused(world: World) -> None:
    """A third too much promised, in perfect order."""
    verdict = judge(world.rows, replace(world.model(0.1), scores=world.scores(0.1) ** 0.5), None, [], BARS)

    assert ["calibration"] == rules(verdict)


def test_a_constant_is_refused(world: World) -> None:
    """It is calibrated, and orders nothing."""
    base = np.full(len(world.rows.label), world.rows.label.mean())
    verdict = judge(world.rows, replace(world.model(1.0), scores=base), None, [world.model(2.0, "item_mean")], BARS)

    assert ["baseline"] == rules(verdict)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"parity": None}, "parity"),
        ({"parity": Parity(2e-5, 0, 60_000)}, "parity"),
        ({"parity": Parity(1e-7, 1, 60_000)}, "parity"),
        ({"parity": Parity(1e-7, 0, 100)}, "parity"),
        ({"latency_ms": None}, "latency"),
        ({"latency_ms": 38.1}, "latency"),
        ({"scores": np.full(USERS * EACH, np.nan)}, "scores"),
        ({"scores": None, "faults": (Reason("signature", "not signed"),)}, "signature"),
        ({"faults": (Reason("leak", "u_future"),)}, "leak"),
    ],
)
def test_each_fault_alone_is_enough(world: World, changed: dict[str, object], rule: str) -> None:
    """However good the scores are."""
    assert [rule] == rules(judge(world.rows, replace(world.model(0.3), **changed), None, [], BARS))
