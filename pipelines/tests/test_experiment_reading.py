"""What the lake says of an experiment's users, and whether that may be believed."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from definitions.assignment import INTERLEAVED
from definitions.events import EventColumns
from definitions.impressions import packed
from definitions.usecase import UseCase
from millrace.decisions.v1 import decisions_pb2
from millrace.events.v1 import events_pb2 as pb
from pipelines.errors import BadInputError
from pipelines.experiments.design import Design, design_of, metrics_of
from pipelines.experiments.interleaving import duel
from pipelines.experiments.judging import ALARM, check, rung_shares_p, sample_ratio_p
from pipelines.experiments.reading import BEFORE_US, Units, read, units_of
from stores.offline import Lake
from stores.offline.rows import decisions_table, impressions_table, interactions_table

VIEW, RATE = 0, 1
BEGIN = 1_700_000_000_000_000
SINCE = 50
"""Log time of the experiment's start; event times are other ones, as in a replay."""

EXPERIMENT = decisions_pb2.Experiment(
    name="mmr",
    layer="rules",
    arms=[decisions_pb2.Arm(name="new", share=0.5), decisions_pb2.Arm(name="control", share=0.5)],
    since_us=SINCE,
    primary="reward_per_user",
    planned_users=100,
    control="control",
)


@dataclass
class History:
    """Writes a lake as the archiver would; seconds are event time since BEGIN."""

    lake: Lake
    shown: list[tuple[int, pb.Impression]] = field(default_factory=list)
    events: list[tuple[int, int, int, float, int, int, int, int]] = field(default_factory=list)

    def show(
        self, request: int, user: int, seconds: int, arm: str = "", *, log_us: int = 60, session: int = 0,
        rung: pb.Rung = pb.RUNG_MODEL,
    ) -> None:  # fmt: skip
        impression = pb.Impression(
            request_id=request, user_id=user, time_us=BEGIN + seconds * 1_000_000, arm=arm, rung=rung,
            context=pb.Context(session_id=session), stages=[pb.StageTiming(stage="row", micros=7)] * 2,
        )  # fmt: skip
        self.shown.append((log_us, impression))

    def event(self, user: int, action: int, seconds: int, *, value: float = 0, request: int = 0, twice: bool = False,
              session: int = 0, item: int = 1) -> None:  # fmt: skip
        row = len(self.events) + 1, user, action, value, seconds, request, session, item
        self.events += [row] * (2 if twice else 1)

    def facts(self, films: UseCase) -> Units:
        return units_of(read(self.archived(), films, DESIGN), films)

    def archived(self) -> Lake:
        places = [(offset, log_us) for offset, (log_us, _) in enumerate(self.shown)]
        rows = impressions_table("log", 0, places, [packed(impression) for _, impression in self.shown])
        self.lake.append("impressions", rows, app_id="i", version=len(rows))
        if self.events:
            ids, users, actions, values, seconds, requests, sessions, items = zip(*self.events, strict=True)
            n = len(ids)
            columns = EventColumns.of(
                n, event_id=ids, user_id=users, item_id=items, action=actions, value=values, request_id=requests,
                session_id=sessions, event_time_us=BEGIN + np.array(seconds) * 1_000_000, offset=np.arange(n),
                timestamp_us=np.full(n, 61),
            )  # fmt: skip
            self.lake.append("interactions", interactions_table("log", columns), app_id="e", version=n)
        return self.lake


DESIGN = Design.of(EXPERIMENT)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(Lake(tmp_path / "lake", "films"))


def test_a_users_row_holds_what_was_done_since_the_first_list_and_before_it(films: UseCase, history: History) -> None:
    """By event time, each event once; only what answers a list of the experiment counts as answered."""
    history.show(1, 5, -200, log_us=10)  # before the experiment began
    history.show(2, 5, 100, "other=x,mmr=new")
    history.show(3, 5, 110, "mmr=new", rung=pb.RUNG_POPULAR)
    history.show(9, 5, -BEFORE_US // 1_000_000, log_us=10)  # too long ago
    history.event(5, RATE, -190, value=5, request=1)
    history.event(5, VIEW, -180)
    history.event(5, VIEW, 105, request=2, twice=True)
    history.event(5, RATE, 106, value=4, request=2)
    history.event(5, RATE, 107, value=2)  # a bad rating, organic
    history.event(6, RATE, 107, value=5)  # nobody of ours

    units = history.facts(films)

    assert [0] == units.arm.tolist()
    found = {name: column[0] for name, column in units.columns.items() if column[0]}
    expected = {
        "requests": 2, "degraded": 1, "on_popular": 1, "micros": 28, "did_view": 1, "answered_view": 1, "did_rate": 2,
        "answered_rate": 1, "reward": 1, "answered_reward": 1, "requests_before": 1, "micros_before": 14,
        "did_view_before": 1, "did_rate_before": 1, "answered_rate_before": 1, "reward_before": 1,
        "answered_reward_before": 1,
    }  # fmt: skip
    assert expected == found


def test_sessions_stand_for_users_who_are_absent(films: UseCase, history: History) -> None:
    """As the gateway draws their arm; who has neither id is not there."""
    history.show(1, 0, 100, "mmr=control", session=77)
    history.show(2, 0, 100, "mmr=control")
    history.event(0, VIEW, 120, session=77)

    units = history.facts(films)

    assert ([1], [1.0]) == (units.arm.tolist(), units.columns["did_view"].tolist())


def test_who_was_in_two_arms_is_counted_once_and_left_out(films: UseCase, history: History) -> None:
    """In the sample ratio by the first arm; nowhere else."""
    history.show(1, 5, 100, "mmr=new")
    history.show(2, 5, 200, "mmr=control")
    history.show(3, 6, 100, "mmr=control")

    facts = read(history.archived(), films, DESIGN)

    assert ([1, 1], 1) == (facts.assigned.tolist(), facts.moved)
    assert [6] == facts.people["unit"].to_list()
    assert check(DESIGN, facts, units_of(facts, films)).void[-1].startswith("1 users were in more than one arm")


def test_a_look_sees_what_had_happened_by_then(films: UseCase, history: History) -> None:
    """Users who had not come are not there yet."""
    history.show(1, 5, 100, "mmr=new")
    history.show(2, 6, 200, "mmr=control")
    history.event(5, VIEW, 120, request=1)
    history.event(5, VIEW, 190, request=1)
    facts = read(history.archived(), films, DESIGN)

    early = units_of(facts, films, BEGIN + 150 * 1_000_000)
    assert (1, [1.0]) == (len(early), early.columns["did_view"].tolist())
    assert [2.0, 0.0] == units_of(facts, films).columns["did_view"].tolist()


def test_an_ended_experiment_is_known_from_the_archived_decisions(films: UseCase, tmp_path: Path) -> None:
    """As it was last, and until when; an unknown one is bad input."""
    lake = Lake(tmp_path / "lake", "films")
    running = decisions_pb2.ServingState(experiments=[EXPERIMENT])
    states = [running, running, decisions_pb2.ServingState()]
    made = [
        decisions_pb2.Decision(usecase=name, state=state, time_us=time_us)
        for name, state, time_us in zip(("films", "other", "films"), states, (60, 65, 70), strict=True)
    ]
    places = [(offset, each.time_us) for offset, each in enumerate(made)]
    lake.append("decisions", decisions_table("log", 0, places, made), app_id="d", version=3)

    found = design_of(lake, "films", "mmr")

    assert (SINCE, 70, ("new",)) == (found.since_us, found.until_us, found.treatments)
    assert design_of(lake, "other", "mmr").until_us is None
    with pytest.raises(BadInputError, match="know none; there are mmr"):
        design_of(lake, "films", "x")


def test_the_sample_ratio_is_pearsons_chi_square() -> None:
    """By hand: (60 - 50)^2 / 50 twice is 4.0, p .0455 with one degree of freedom; 1 % of a million alarms."""
    assert sample_ratio_p(np.array([60, 40]), np.array([0.5, 0.5])) == pytest.approx(0.0455, abs=1e-4)
    assert sample_ratio_p(np.array([495_000, 505_000]), np.array([0.5, 0.5])) < ALARM
    assert 1.0 == sample_ratio_p(np.array([0, 0]), np.array([0.5, 0.5]))


def test_unequal_shares_of_a_rung_are_found_even_where_one_arm_has_all_of_it() -> None:
    """An arm whose model never answers has no variance at all; equal outages are no alarm."""
    arm = np.arange(400) % 2
    columns = {"requests": np.full(400, 3.0), "on_local_model": 3.0 * arm, "on_precomputed": np.ones(400),
               "on_popular": np.zeros(400)}  # fmt: skip

    assert {"LOCAL_MODEL": True, "PRECOMPUTED": False, "POPULAR": False} == {
        rung: p < ALARM for rung, p in rung_shares_p(DESIGN, Units(arm, columns)).items()
    }


def test_every_use_case_has_its_metrics(films: UseCase) -> None:
    """Of each action, by user and by list, and guards for which less is better."""
    found = metrics_of(films)

    assert {"reward_per_user", "view_per_user", "rate_per_request", "requests_per_user"} < set(found)
    assert {"degraded_per_request", "micros_per_request"} == {
        name for name, metric in found.items() if not metric.higher_is_better
    }


def test_an_interleaved_list_is_won_by_the_arm_whose_items_earned_more(films: UseCase, history: History) -> None:
    """Reward by team; a list that the control made alone counts for neither, a list without reward is a tie of none."""
    design = replace(DESIGN, interleaved=True)
    teams = ["popular@new", "popular@control", "popular"]
    for request, user, reasons in ((1, 5, teams), (2, 5, teams), (3, 6, teams), (4, 6, ["popular"] * 3)):
        history.show(request, user, 100 + request, f"mmr={INTERLEAVED}")
        history.shown[-1][1].item_ids.extend([10, 20, 30])
        history.shown[-1][1].reasons.extend(reasons)
    for request, item, value in ((1, 10, 5), (1, 20, 2), (2, 20, 5), (3, 10, 5), (4, 10, 5), (3, 30, 5)):
        history.event(5, RATE, 150 + item + request, value=value, request=request, item=item)

    found = duel(history.archived(), films, design)

    assert ("control", "new", 3, 1) == (found.control, found.other, found.lists, found.alone)
    assert (1, 2, 0) == found.preference.wins
    assert (2, 0.5) == (found.preference.users, found.preference.value)  # user 5: +1 -1; user 6: +1
    assert found.verdict.startswith("too few users")
