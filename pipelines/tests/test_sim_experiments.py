"""Experiments on simulated users: how often they err where there is nothing, and whether they find what there is."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from definitions.assignment import Split, assigned, place
from definitions.events import EventColumns
from definitions.impressions import packed
from definitions.interleaving import team_draft
from definitions.usecase import find_usecase
from millrace.decisions.v1 import decisions_pb2 as pb
from millrace.events.v1 import events_pb2
from pipelines.experiments import sequential
from pipelines.experiments.comparing import ALPHA, Estimate, compare, estimate, p_value
from pipelines.experiments.design import Design, Metric, metrics_of
from pipelines.experiments.interleaving import Preference, preference
from pipelines.experiments.judging import ALARM, judge, sample_ratio_p
from pipelines.experiments.page import render
from pipelines.experiments.reading import Units
from simulator.policies import Greedy, Serving, Softmax, ViewScorer
from simulator.profile import DAY_US, profile_of
from simulator.reacting import Slates
from simulator.running import Kept, run
from simulator.world import Requests, World, WorldSpec
from stores.offline import Lake
from stores.offline.rows import impressions_table, interactions_table

pytestmark = pytest.mark.sim
USECASES = Path(__file__).parents[2] / "usecases"

RUNS = 5_000
WORLDS, USERS, REQUESTS, SLOTS = 5, 800, 16, 5
LOOKS = 20
PER_USER = Metric("clicks_per_user", "clicks")
PER_REQUEST = Metric("clicks_per_request", "clicks", "requests")


def spec_of(seed: int, users: int = USERS) -> WorldSpec:
    return WorldSpec(profile_of("movies"), seed=seed, users=users, items=200, candidates=20)


def matching(spec: WorldSpec, temperature: float = 1.0) -> Softmax:
    """By attributes, with some chance."""
    return Softmax(ViewScorer(World(spec).views), SLOTS, temperature=temperature, explore=0.1, seed=spec.seed)


@dataclass
class Log:
    """Clicks of n requests, users from 0; the experiment begins a day into the world."""

    spec: WorldSpec
    kept: Kept
    begin_us: int = field(init=False)

    def __post_init__(self) -> None:
        self.begin_us = self.spec.start_us + DAY_US

    def sums(self, until_us: int | None = None) -> dict[str, npt.NDArray[np.float64]]:
        """By user, up to a look."""
        user, time_us, clicks = self.kept.requests.user, self.kept.requests.time_us, self.kept.clicked.sum(axis=1)
        since = (time_us >= self.begin_us) & (time_us < (until_us or 2**62))
        before = time_us < self.begin_us
        return {
            f"{name}{suffix}": np.bincount(user[rows], weights[rows], self.spec.users).astype(np.float64)
            for suffix, rows in (("", since), ("_before", before))
            for name, weights in (("clicks", clicks), ("requests", np.ones(len(user))))
        }

    def looks(self) -> list[int]:
        """Points in time, evenly over the requests of the experiment."""
        times = self.kept.requests.time_us
        return np.quantile(times[times >= self.begin_us], np.linspace(0.1, 1, LOOKS)).astype(np.int64).tolist()


@pytest.fixture(scope="module")
def logs() -> list[Log]:
    """Worlds in which everybody gets the same: any difference between arms is chance."""
    specs = [spec_of(seed) for seed in range(WORLDS)]
    return [Log(spec, run(spec, matching(spec), REQUESTS)) for spec in specs]


def arms_of(run_: int, users: int = USERS) -> npt.NDArray[np.int64]:
    """Of users 1 ... by the hash that serving uses, half and half under the run's own name."""
    return np.fromiter((place(f"aa-{run_}", user) < 0.5 for user in range(1, users + 1)), np.int64, users)


@pytest.mark.parametrize(
    ("metric", "cuped"), [(PER_USER, True), (PER_REQUEST, False), (PER_REQUEST, True)], ids=["cuped", "ratio", "both"]
)
def test_a_single_look_at_two_equal_arms_errs_in_five_of_a_hundred(
    logs: list[Log], metric: Metric, cuped: bool
) -> None:
    """5,000 A/A runs, users reshuffled by the hash of each run: 4 to 6 % below .05, for means and for ratios."""
    wrong = 0
    for world, log in enumerate(logs):
        columns = log.sums()
        came = columns["requests"] > 0
        kept = {name: column[came] for name, column in columns.items()}
        for run_ in range(world, RUNS, WORLDS):
            wrong += estimate(Units(arms_of(run_)[came], kept), metric, 0, 1, cuped=cuped).fixed_p < ALPHA

    assert 0.04 <= wrong / RUNS <= 0.06


def test_requests_taken_for_independent_err_more_often(logs: list[Log]) -> None:
    """Why the delta method is there: the same runs, the variance of requests instead of users."""
    wrong = 0
    for world, log in enumerate(logs):
        clicks, user = log.kept.clicked.sum(axis=1).astype(float), log.kept.requests.user
        masks = np.stack([arms_of(run_) for run_ in range(world, RUNS // 5, WORLDS)])[:, user] == 1
        means, spread, count = [], [], []
        for mask in (masks, ~masks):
            count.append(mask.sum(axis=1))
            means.append(mask @ clicks / count[-1])
            spread.append(mask @ clicks**2 / count[-1] - means[-1] ** 2)
        z = (means[0] - means[1]) / np.sqrt(spread[0] / count[0] + spread[1] / count[1])
        wrong += int((np.abs(z) > 1.96).sum())

    assert wrong / (RUNS // 5) > 0.07


def test_twenty_looks_at_two_equal_arms_err_in_five_of_a_hundred_at_most(logs: list[Log]) -> None:
    """5,000 A/A runs, stopped at the first look below .05: a fixed test errs in far more, the sequential one does not.

    Users come back between looks, so what a user adds up to grows, as it does in life.
    """
    wrong = {"sequential": 0, "fixed": 0}
    checked = 0
    for world, log in enumerate(logs):
        arms = np.stack([arms_of(run_) for run_ in range(world, RUNS, WORLDS)]) == 1
        looks = [look_at(log.sums(until_us), arms) for until_us in log.looks()]
        effect, error, users, fewest = (np.stack([look[part] for look in looks]) for part in range(4))
        variance = sequential.mixture(USERS, ALPHA)
        counted = fewest >= sequential.MIN_USERS
        ps = np.where(counted, sequential.p_values(effect, error, users, variance), 1.0)
        wrong["sequential"] += int((ps.min(axis=0) < ALPHA).sum())
        wrong["fixed"] += int((counted & (np.abs(effect / error) > 1.96)).any(axis=0).sum())
        for run_ in (0, 1):  # what is computed for all runs at once is what the report computes
            estimates = tuple(estimate_at(log, until_us, arms[run_]) for until_us in log.looks())
            assert p_value(estimates, variance) == pytest.approx(ps[:, run_].min(), rel=1e-6)
            checked += 1

    assert checked == 2 * WORLDS
    assert wrong["fixed"] / RUNS > 0.15
    assert wrong["sequential"] / RUNS <= 0.05


def look_at(columns: dict[str, npt.NDArray[np.float64]], arms: npt.NDArray[np.bool_]) -> tuple[npt.NDArray, ...]:
    """Welch's difference of mean clicks of all runs (runs, users) at once, of the users that have come."""
    came = columns["requests"] > 0
    clicks, means, errors, counts = columns["clicks"][came], [], [], []
    for mask in (arms[:, came].astype(float), (~arms[:, came]).astype(float)):
        count = mask.sum(axis=1)
        mean = mask @ clicks / count
        errors.append((mask @ clicks**2 / count - mean**2) * count / (count - 1) / count)
        means.append(mean)
        counts.append(count)
    users, fewest = counts[0] + counts[1], np.minimum(*counts)
    return means[0] - means[1], np.sqrt(errors[0] + errors[1]), users, fewest


def estimate_at(log: Log, until_us: int, arms: npt.NDArray[np.bool_]) -> Estimate:
    columns = log.sums(until_us)
    came = columns["requests"] > 0
    units = Units(arms[came].astype(np.int64), {name: column[came] for name, column in columns.items()})
    return estimate(units, PER_USER, 0, 1, cuped=False)


def test_the_sample_ratio_alarm_finds_one_percent_and_is_silent_without() -> None:
    """A treatment that loses every hundredth of its users, 2 million of them: found in 99 %; else 1 alarm in 1,000."""
    rng = np.random.default_rng(5)
    shares, users = np.array([0.5, 0.5]), 2_000_000
    alarms = {0.0: 0, 0.01: 0}
    for lost in alarms:
        for first in rng.binomial(users, 0.5, RUNS):
            counts = np.array([rng.binomial(first, 1 - lost), users - first])
            alarms[lost] += sample_ratio_p(counts, shares) < ALARM

    assert alarms[0.0] / RUNS < 0.003
    assert alarms[0.01] / RUNS > 0.99


def test_the_alarm_finds_an_imbalance_behind_the_real_hash() -> None:
    """51 % of users go where 50 % were planned; counted by distinct assigned users."""
    users = np.arange(1, 200_001, dtype=np.uint64)
    halves, tilted = (
        Split.of(pb.Experiment(name="tilt", layer="l", arms=[pb.Arm(name="a", share=a), pb.Arm(name="b", share=1 - a)]))
        for a in (0.5, 0.51)
    )

    fair, planted = (np.bincount(assigned(split, users)) for split in (halves, tilted))
    assert sample_ratio_p(fair, np.array([0.5, 0.5])) > ALARM
    assert sample_ratio_p(planted, np.array([0.5, 0.5])) < ALARM


def test_a_true_effect_is_found_and_the_users_past_narrows_its_interval() -> None:
    """Lists by attributes from the second day on, against lists by chance with some of them: true, and covered.

    The truth is the mean over all users of what either arm does, in the same world with the same luck.
    """
    spec = spec_of(11, users=3_000)
    better, worse = matching(spec, temperature=0.7), matching(spec, temperature=1.1)
    served = {name: Log(spec, run(spec, _from(spec, worse, policy), REQUESTS)) for name, policy in
              (("control", worse), ("treatment", better))}  # fmt: skip
    control, treatment = (served[name].sums() for name in ("control", "treatment"))
    came = control["requests"] > 0
    truth = (treatment["clicks"] - control["clicks"])[came].mean()
    arms = arms_of(0, spec.users)
    columns = {name: np.where(arms == 1, treatment[name], control[name])[came] for name in control}

    found = compare(Units(arms[came], columns), PER_USER, 0, 1, "treatment", planned=spec.users)

    assert truth > 0
    assert found.p < ALPHA
    assert found.low <= truth <= found.high
    assert 0 < found.relative_low < truth / control["clicks"][came].mean() < found.relative_high
    assert found.cuped
    assert found.variance_cut > 0.1
    plain = estimate(Units(arms[came], columns), PER_USER, 0, 1, cuped=False)
    assert found.estimate.error < 0.95 * plain.error


@dataclass(frozen=True)
class _from:  # noqa: N801  reads as a function
    """`before` on the first day, `after` from then on."""

    spec: WorldSpec
    before: Serving
    after: Serving

    def serve(self, requests: Requests) -> Slates:
        one, two = self.before.serve(requests), self.after.serve(requests)
        late = requests.time_us >= self.spec.start_us + DAY_US
        return Slates(np.where(late[:, None], two.items, one.items), one.propensity, one.request_id)


@dataclass
class Drafted:
    """Serves what both policies drafted, and remembers whose item stood where."""

    one: Serving
    other: Serving
    teams: dict[tuple[int, int], npt.NDArray[np.int8]] = field(default_factory=dict)

    def serve(self, requests: Requests) -> Slates:
        lists = [policy.serve(requests).items.astype(np.uint64) for policy in (self.one, self.other)]
        items = np.empty(lists[0].shape, np.int64)
        for row, (one, other) in enumerate(zip(*lists, strict=True)):
            key = int(requests.user[row]), int(requests.ordinal[row])
            drafted = team_draft(one, other, items.shape[1], key[0] << 20 | key[1])
            items[row], self.teams[key] = drafted.items, drafted.teams
        return Slates(items, np.ones(items.shape), np.zeros(len(requests), np.uint64))


def preferred(spec: WorldSpec, one: Serving, other: Serving, requests_each: int) -> Preference:
    policy = Drafted(one, other)
    kept = run(spec, policy, requests_each)
    keys = zip(kept.requests.user.tolist(), kept.requests.ordinal.tolist(), strict=True)
    teams = np.stack([policy.teams[key] for key in keys])
    clicks = [(kept.clicked & (teams == team)).sum(axis=1) for team in (0, 1)]
    return preference(kept.requests.user.astype(np.uint64), *clicks, planned=spec.users)


def test_interleaving_finds_with_few_users_what_arms_do_not() -> None:
    """300 users that compare both rankings themselves, against 300 in two arms."""
    spec = spec_of(21, users=300)
    views = World(spec).views
    one, other = matching(spec, temperature=1.1), Greedy(ViewScorer(views), SLOTS)
    found = preferred(spec, one, other, 6)
    clicks = [run(spec, policy, 6).clicked.sum(axis=1).reshape(spec.users, -1).sum(axis=1) for policy in (one, other)]
    arms = arms_of(0, spec.users)
    columns = {"clicks": np.where(arms == 1, clicks[1], clicks[0]).astype(float)}
    apart = compare(Units(arms, columns), PER_USER, 0, 1, "greedy", planned=spec.users)

    assert found.low > 0
    assert found.p < 0.1 * apart.p


def test_interleaving_two_equal_rankings_prefers_neither() -> None:
    """40 worlds, two draws of one policy in each: few are called different, and the sign is a coin's."""
    found = []
    for seed in range(40):
        spec = spec_of(100 + seed, users=150)
        views = ViewScorer(World(spec).views)
        one, other = (Softmax(views, SLOTS, explore=0.1, seed=10 * seed + each) for each in (1, 2))
        found.append(preferred(spec, one, other, 2))

    assert sum(each.p < ALPHA for each in found) <= 5  # P(> 5 of 40 at 5 %) = 1.4 %
    assert 10 <= sum(each.value > 0 for each in found) <= 30


def test_the_whole_way_from_the_lake_to_the_page(tmp_path: Path) -> None:
    """Impressions and events as the archiver writes them; the better arm is found, and the page says so."""
    spec = spec_of(31, users=1_200)
    usecase, split = find_usecase("movies", USECASES), Split.of(HALVES)
    arms = assigned(split, np.arange(1, spec.users + 1, dtype=np.uint64))
    worse, better = matching(spec, temperature=2.0), Greedy(ViewScorer(World(spec).views), SLOTS)
    logs = [Log(spec, run(spec, _from(spec, worse, policy), REQUESTS)) for policy in (better, worse)]
    lake = archived(Lake(tmp_path / "lake", "movies"), logs, arms)

    found = judge(lake, usecase, Design.of(HALVES))
    page = render(found, metrics_of(usecase), usecase="movies")

    assert {"new": "better"} == found.verdicts
    assert () == found.checks.void
    assert 0 == found.checks.moved == found.checks.misplaced
    assert found.found[0].cuped
    assert 5 <= len(found.looks["new"]) <= 30
    assert "new is better than control" in page
    assert page.count("<svg") == 2
    assert json.dumps(found.as_dict(), allow_nan=False)
    half = judge(archived(Lake(tmp_path / "lost", "movies"), logs, arms, lost=0.3), usecase, Design.of(HALVES))
    assert {"new": "void"} == half.verdicts
    assert "sample ratio mismatch" in half.checks.void[0]


HALVES = pb.Experiment(
    name="greedy",
    layer="rules",
    arms=[pb.Arm(name="new", share=0.5), pb.Arm(name="control", share=0.5)],
    primary="reward_per_user",
    planned_users=1_200,
    control="control",
)


def archived(lake: Lake, logs: list[Log], arms: npt.NDArray[np.int64], *, lost: float = 0.0) -> Lake:
    """What two worlds of the same users leave: those of the arm's own; a share of the first arm's users is `lost`."""
    chance = np.random.default_rng(3).random(len(arms))
    shown: list[events_pb2.Impression] = []
    columns: list[EventColumns] = []
    for arm, log in enumerate(logs):
        requests, happened = log.kept.requests, log.kept.happened
        kept = (arms[requests.user] == arm) & ((arm > 0) | (chance[requests.user] >= lost))
        names = ["new", "control"]
        for row in np.flatnonzero(kept).tolist():
            time_us = int(requests.time_us[row])
            shown.append(
                events_pb2.Impression(
                    request_id=arm << 40 | row + 1, user_id=int(requests.user[row]) + 1, time_us=time_us,
                    rung=events_pb2.RUNG_MODEL, arm=f"greedy={names[arm]}" if time_us >= log.begin_us else "",
                    stages=[events_pb2.StageTiming(stage="model", micros=500 + row % 50)],
                )
            )  # fmt: skip
        mine = kept[happened.row]
        count = int(mine.sum())
        columns.append(
            EventColumns.of(
                count, event_id=happened.event_id[mine], user_id=happened.user[mine] + 1,
                item_id=happened.item[mine] + 1, action=happened.reaction[mine] + 1, value=happened.value[mine],
                event_time_us=happened.time_us[mine], request_id=(arm << 40) + happened.row[mine] + 1,
                offset=np.arange(count) + sum(map(len, columns)), timestamp_us=np.ones(count, np.int64),
            )
        )  # fmt: skip
    rows = impressions_table("log", 0, [(offset, 1) for offset in range(len(shown))], list(map(packed, shown)))
    lake.append("impressions", rows, app_id="i", version=len(shown))
    for part in columns:
        lake.append("interactions", interactions_table("log", part), app_id="e", version=int(part.offset[-1]) + 1)
    return lake
