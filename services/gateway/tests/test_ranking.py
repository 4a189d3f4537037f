"""The core with fakes of ours: which rung answers, why others were left, and what every answer says."""

import asyncio
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from definitions.assembly import RequestContext
from definitions.features import HistoryScore, Mean, Prior, RecentResidual
from definitions.records import LogRecord
from gateway.errors import DeadlineTooShort, InvalidRequest, Overloaded, Unavailable
from gateway.ladder import StoredList
from gateway.query import Priority, Query, Rung

USER, STRANGER, NOW_US = 7, 8, 1_700_000_000_000_000


def ids(ranking: Any) -> list[int]:
    return ranking.item_ids.tolist()


def stored(*items: int) -> StoredList:
    return StoredList(np.array(items, np.uint64), np.linspace(0.9, 0.5, len(items), dtype=np.float32), "trees", 2)


def test_the_model_orders_the_callers_items(world: Any) -> None:
    """Best score first, positions by order, the pinned version and rung MODEL in the answer."""
    world.model.scores = lambda _: np.array([0.1, 0.9, 0.5], np.float32)

    ranking = world.rank(2, 4, 6)

    assert ([4, 6, 2], Rung.MODEL, "trees", 3) == (
        ids(ranking),
        ranking.rung,
        ranking.model_name,
        ranking.model_version,
    )
    assert ("requested",) * 3 == ranking.reasons
    assert "" == ranking.reason


def test_duplicates_are_merged_and_ties_go_by_item_id(world: Any) -> None:
    """An id named twice is ranked once; equal scores are ordered by id."""
    world.model.scores = lambda features: np.zeros(len(features), np.float32)
    assert [3, 5, 9] == ids(world.rank(9, 3, 9, 5, 3))


def test_a_limit_shortens_the_list_and_the_impression_keeps_the_rest(world: Any) -> None:
    """All candidates were scored; those not shown have no position."""
    ranking = world.rank(1, 2, 3, 4, limit=2)
    [shown] = world.sink.shown
    assert [4, 3] == ids(ranking)
    assert [4, 3, 2, 1] == shown.item_ids.tolist()
    assert shown.features[shown.order][:, world.layout.feature_names.index("i_rated_all")].tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize("reason", ["error", "rejected", "in_flight", "unknown_version", "bad_scores", "time"])
def test_any_failure_of_the_model_is_answered_by_the_local_model(world: Any, reason: Any) -> None:
    """The request never fails: the next rung answers, named, with the reason counted and told."""
    world.model.raises = Unavailable(reason)
    ranking = world.rank(1, 2)
    assert Rung.LOCAL_MODEL == ranking.rung
    assert [("MODEL", reason)] == world.meter.left
    assert f"MODEL:{reason}" == ranking.reason


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([1.0, np.nan], np.float32),
        np.array([1.0, np.inf], np.float32),
        np.array([1.0], np.float32),
        np.array([1.0, 2.0], np.float64),
        np.array([[1.0], [2.0]], np.float32),
    ],
)
def test_bad_scores_are_never_served(world: Any, wrong: np.ndarray) -> None:
    """NaN, infinity, another shape or type on both model rungs: popularity answers."""
    world.model.scores = world.local.scores = lambda _: wrong
    ranking = world.rank(1, 2)
    assert Rung.POPULAR == ranking.rung
    assert [2, 1] == ids(ranking)
    assert np.isfinite(ranking.scores).all()
    assert [("MODEL", "bad_scores"), ("LOCAL_MODEL", "bad_scores"), ("PRECOMPUTED", "no_row")] == world.meter.left


def test_a_slow_model_ends_at_its_budget(world: Any) -> None:
    """MODEL gets what is left but 12 ms; the local model answers within the deadline."""
    world.model.takes_s = 9.0
    began = world.clock.now
    ranking = world.rank(1, 2, budget_s=0.05)
    assert Rung.LOCAL_MODEL == ranking.rung
    assert pytest.approx(0.038) == world.model.budgets[0]
    assert world.clock.now - began < 0.05


def test_a_long_deadline_gives_the_model_80_ms(world: Any) -> None:
    """A hung Triton must not use up a patient caller's time."""
    world.rank(1, 2, budget_s=2.0)
    assert [0.08] == world.model.budgets


def test_with_little_left_the_model_is_not_tried(world: Any) -> None:
    """Below the reserve only the lower rungs are asked."""
    ranking = world.rank(1, 2, budget_s=0.010)
    assert (Rung.LOCAL_MODEL, []) == (ranking.rung, world.model.budgets)
    assert [("MODEL", "time")] == world.meter.left


def test_a_model_that_is_always_slower_than_the_deadline_is_not_tried(world: Any) -> None:
    """A rung needs 1.5 times its rolling p99: with less left the request goes straight to one that fits."""
    world.model.takes_s = 0.03
    for _ in range(60):
        world.rank(1, 2, budget_s=0.2)
    assert Rung.MODEL == world.rank(1, 2, budget_s=0.2).rung
    assert Rung.LOCAL_MODEL == world.rank(1, 2, budget_s=0.044).rung
    world.clock.now += 3.0  # old samples say nothing any more
    assert Rung.MODEL == world.rank(1, 2, budget_s=0.044).rung


def test_five_timeouts_open_the_breaker_and_probes_close_it(world: Any) -> None:
    """While it is open MODEL is not even tried but once a second; three good probes bring it back."""
    world.model.takes_s = 9.0
    for _ in range(5):
        world.rank(1, 2)
    world.model.takes_s, tried = 0.0, len(world.model.budgets)
    assert "MODEL:breaker" == world.rank(1, 2).reason
    assert tried == len(world.model.budgets)
    for _ in range(3):
        world.clock.now += 1.0
        assert Rung.MODEL == world.rank(1, 2).rung
    assert Rung.MODEL == world.rank(1, 2).rung


def test_a_model_that_answers_nonsense_leaves_the_breaker_alone(world: Any) -> None:
    """Triton is well; and if the breaker was open, three such answers close it as good ones would."""
    world.model.raises = Unavailable("time")
    for _ in range(5):
        world.rank(1)
    assert world.model_breaker.is_open
    world.model.raises = Unavailable("bad_scores")
    for _ in range(3):
        world.clock.now += 1.0
        world.rank(1)
    assert not world.model_breaker.is_open
    for _ in range(40):
        world.rank(1)
    assert not world.model_breaker.is_open


def test_without_models_the_nightly_list_orders_the_items(world: Any) -> None:
    """Stored scores first, items outside the list last, and the list's model named."""
    world.active = None
    world.lists.lists[USER] = stored(8, 3)
    ranking = world.rank(3, 5, 8)
    assert (Rung.PRECOMPUTED, [8, 3, 5], "trees", 2) == (
        ranking.rung,
        ids(ranking),
        ranking.model_name,
        ranking.model_version,
    )
    assert "MODEL:off,LOCAL_MODEL:off" == ranking.reason


@pytest.mark.parametrize(
    ("raises", "list_of", "reason"),
    [
        (Unavailable("error"), USER, "error"),
        (Unavailable("in_flight"), USER, "in_flight"),
        (None, STRANGER, "no_row"),
        (None, None, "no_overlap"),
    ],
)
def test_without_a_usable_list_popularity_answers(world: Any, raises: Any, list_of: Any, reason: str) -> None:
    """A dead store, a user without a list, a list without these items: the last rung has an answer."""
    world.active, world.lists.raises = None, raises
    world.lists.lists[list_of or USER] = stored(9) if list_of is None else stored(1, 2)
    ranking = world.rank(1, 2)
    assert (Rung.POPULAR, [2, 1]) == (ranking.rung, ids(ranking))
    assert ("PRECOMPUTED", reason) == world.meter.left[-1]


def test_a_hanging_batch_store_costs_at_most_50_ms_and_then_nothing(world: Any) -> None:
    """Its budget ends the wait; after five the breaker spares it."""
    world.active, world.lists.takes_s = None, 9.0
    for _ in range(5):
        began = world.clock.now
        world.rank(1, 2, budget_s=0.15)
        assert pytest.approx(0.05) == world.clock.now - began
    reads, began = world.lists.reads, world.clock.now
    assert Rung.POPULAR == world.rank(1, 2, budget_s=0.15).rung
    assert (reads, began) == (world.lists.reads, world.clock.now)


def test_popularity_puts_unknown_items_last(world: Any) -> None:
    """Items that the catalogue lacks are normal input, and follow all others."""
    world.active = None
    assert [9, 2, 77, 99] == ids(world.rank(99, 2, 77, 9))


def test_recommend_finds_popular_items_that_the_user_has_not_seen(world: Any) -> None:
    """Candidates come by popularity without seen and excluded items; the model orders them."""
    world.rows.rows[USER] = world.row_of(USER, rated=[10, 9])
    world.model.scores = lambda features: np.arange(len(features), 0, -1, dtype=np.float32)
    ranking = world.recommend(limit=3, exclude=[8])
    assert (Rung.MODEL, [7, 6, 5], ("popular",) * 3) == (ranking.rung, ids(ranking), ranking.reasons)


def test_rank_keeps_seen_items(world: Any) -> None:
    """A caller who names items gets all of them."""
    world.rows.rows[USER] = world.row_of(USER, rated=[10, 9])
    assert {9, 10, 1} == set(ids(world.rank(9, 10, 1)))


def test_recommend_takes_ten_where_no_limit_is_given(make_world: Any) -> None:
    """The default limit."""
    assert 10 == len(ids(make_world(range(1, 31)).recommend()))


def test_recommend_fills_a_short_nightly_list_with_popular_items(world: Any) -> None:
    """Stored items first, without seen ones; then popular ones, named as such."""
    world.active = None
    world.rows.rows[USER] = world.row_of(USER, rated=[4])
    world.lists.lists[USER] = stored(2, 4, 3)
    ranking = world.recommend(limit=4)
    assert (Rung.PRECOMPUTED, [2, 3]) == (ranking.rung, ids(ranking)[:2])
    assert {10, 9} == set(ids(ranking)[2:])
    assert ("precomputed", "precomputed", "popular", "popular") == ranking.reasons
    [shown] = world.sink.shown
    rated = shown.features[shown.order][:, world.layout.feature_names.index("i_rated_all")]
    assert shown.item_ids.tolist() == rated.tolist(), "features belong to the items that the rung brought"


def test_a_deleted_item_is_recommended_by_no_rung(world: Any) -> None:
    """Once the popularity order is renewed it is no candidate, and a stored list loses it at once."""
    world.lists.lists[USER] = stored(10, 9)
    world.items.take_items(0, [LogRecord(99, -1, (10).to_bytes(8, "big"), None)])
    world.items.refresh()
    assert 10 not in ids(world.recommend(limit=10))
    world.active = None
    assert 10 not in ids(world.recommend(limit=10))


def test_a_deleted_item_is_ranked_by_no_rung(world: Any) -> None:
    """At once, whatever the caller asks for; an item that the catalogue never had is ranked as an unknown one."""
    world.lists.lists[USER] = stored(10, 9)
    world.items.take_items(0, [LogRecord(99, -1, (10).to_bytes(8, "big"), None)])
    rungs = []
    for spoil in (lambda: None, lambda: setattr(world.model, "raises", Unavailable("error")),
                  lambda: setattr(world.local, "raises", Unavailable("error")), world.lists.lists.clear):  # fmt: skip
        spoil()
        ranking = world.rank(10, 9, 8, 777)
        rungs.append(ranking.rung)
        assert {9, 8, 777} == set(ids(ranking))
    assert list(Rung) == rungs
    assert ([], "no_candidates") == (ids(world.rank(10)), world.rank(10).reason)


def test_an_empty_catalogue_gives_an_empty_list_with_its_reason(make_world: Any) -> None:
    """The first start: nothing to recommend is an answer, not an error."""
    world = make_world([])
    ranking = world.recommend()
    assert (Rung.POPULAR, [], "no_catalogue") == (ranking.rung, ids(ranking), ranking.reason)
    assert [] == world.sink.shown


def test_all_seen_gives_an_empty_list_with_its_reason(make_world: Any) -> None:
    """Nothing is left to show."""
    world = make_world([1, 2])
    assert "no_candidates" == world.recommend(exclude=[1, 2]).reason


def test_no_category_takes_more_than_its_share(world: Any) -> None:
    """Items 6 to 10 are one genre, 1 to 5 the other; half of four places each, by score within."""
    world.active = None
    assert [10, 9, 5, 4] == ids(world.recommend(limit=4, max_share=0.5))


def test_a_share_gives_way_where_nothing_else_is_left(make_world: Any) -> None:
    """A rule must not make the list shorter."""
    world = make_world([7, 8, 9])
    world.active = None
    assert [9, 8, 7] == ids(world.recommend(limit=3, max_share=0.4))


def test_the_row_is_read_evaluated_and_named(world: Any) -> None:
    """The answer says which row it used and how old its newest event is; the features are the row's."""
    world.rows.rows[USER] = world.row_of(USER, rated=[1, 2, 3], epoch=5)
    ranking = world.rank(1, 2)
    assert (5, 3, 0) == (ranking.row.epoch, ranking.row.interactions_offset, ranking.row.users_offset)
    assert 1_000_000 == ranking.feature_age_us
    [shown] = world.sink.shown
    assert [3, 3] == shown.features[:, world.layout.feature_names.index("u_rated_all")].tolist()
    assert ["found"] == world.meter.rows


def test_the_users_past_is_compared_with_what_others_think_of_it(world: Any) -> None:
    """Means of items that are no candidates come with the same view; the graph also gets the candidates' ids."""
    mean = Mean(name="i_mean", of="item", kind="mean", windows=("all",), prior=Prior(mean=1, weight=2))
    cross = {"of": "cross", "history": "u_recent"}
    past = RecentResidual(name="x_past", kind="recent_residual", last=(1, 2), item_mean="i_mean", **cross)
    score = HistoryScore(name="x_alike", kind="history_score", **cross)
    features = (*world.usecase.features, mean, past, score)
    world = type(world)(world.usecase.model_copy(update={"features": features}))
    world.rows.rows[USER] = world.row_of(USER, rated=[9, 2])
    world.rank(1, 3)
    [shown] = world.sink.shown

    gaps = [5 - (2 * 5 + 2) / 4, 5 - (9 * 5 + 2) / 11]  # item k was rated 5 by k users
    first = world.layout.feature_names.index("x_past_1")
    assert shown.features[:, first : first + 2].tolist() == [pytest.approx([gaps[0], sum(gaps) / 2])] * 2
    assert shown.item_ints[:, world.layout.item_id_int].tolist() == [1, 3]


def test_the_callers_time_is_the_features_time(world: Any) -> None:
    """Events at or after it do not exist yet."""
    world.rows.rows[USER] = world.row_of(USER, rated=[1, 2, 3])
    world.rank(1, 2, time_us=NOW_US - 2_000_000)
    [shown] = world.sink.shown
    assert [1, 1] == shown.features[:, world.layout.feature_names.index("u_rated_all")].tolist()
    assert NOW_US - 2_000_000 == shown.time_us


def test_a_row_with_too_many_later_events_is_counted(world: Any) -> None:
    """Its values cannot be taken back to the request's time exactly."""
    world.rows.rows[USER] = world.row_of(USER, rated=range(1, 18))
    world.rank(1, 2)
    assert 0 == world.meter.ties
    world.rank(1, 2, time_us=NOW_US - 17_000_000)
    assert 1 == world.meter.ties


@pytest.mark.parametrize("reason", ["time", "error", "breaker"])
def test_a_row_that_cannot_be_read_is_an_empty_history(world: Any, reason: Any) -> None:
    """The store's failure is counted; the model still answers."""
    world.rows.raises = Unavailable(reason)
    ranking = world.rank(1, 2)
    assert (Rung.MODEL, None, 0) == (ranking.rung, ranking.row, ranking.feature_age_us)
    assert [reason] == world.meter.rows


def test_a_row_of_another_layout_is_missing_and_counted(world: Any) -> None:
    """So is one that is cut short."""
    row = world.row_of(USER, rated=[1])
    world.rows.rows[USER] = row[:1] + bytes([row[1] ^ 1]) + row[2:]
    assert world.rank(1, 2).row is None
    world.rows.rows[USER] = row[:-1]
    assert world.rank(1, 2).row is None
    world.rows.rows[USER] = row[:9]
    assert world.rank(1, 2, min_interactions_offset=1).row is None
    assert ["layout", "corrupt", "corrupt"] == world.meter.rows


def test_an_unknown_user_is_normal_input(world: Any) -> None:
    """No row, no error; user 0 is nobody and costs no read."""
    assert world.rank(1, 2, user_id=STRANGER).row is None
    assert ["absent"] == world.meter.rows
    world.rank(1, 2, user_id=0)
    assert 1 == world.rows.reads


def test_a_caller_reads_its_own_writes(world: Any) -> None:
    """The row is read again until it has the offset that the caller asked for."""
    world.rows.rows[USER] = world.row_of(USER, rated=[1])
    newer = world.row_of(USER, rated=[1, 2])

    def written() -> None:
        if world.rows.reads == 3:
            world.rows.rows[USER] = newer

    world.rows.then = written
    ranking = world.rank(1, 2, budget_s=1.0, min_interactions_offset=2)
    assert (2, 4) == (ranking.row.interactions_offset, world.rows.reads)
    assert ["found"] == world.meter.rows


def test_waiting_for_a_row_ends_at_half_of_the_deadline(world: Any) -> None:
    """What is there is used, and the model still has its time."""
    world.rows.rows[USER] = world.row_of(USER, rated=[1])
    began = world.clock.now
    ranking = world.rank(1, 2, budget_s=0.2, min_interactions_offset=99)
    assert (Rung.MODEL, 1) == (ranking.rung, ranking.row.interactions_offset)
    assert 0.099 < world.clock.now - began < 0.11


def test_nobody_waits_for_a_store_that_does_not_answer(world: Any) -> None:
    """Asking a store again and again that is gone keeps the loop busy, which is what it was gone for."""
    world.rows.raises = Unavailable("breaker")
    began = world.clock.now
    assert world.rank(1, 2, budget_s=0.2, min_interactions_offset=1).row is None
    assert 1 == world.rows.reads
    assert world.clock.now - began < 0.01


def test_the_wait_for_a_row_asks_less_and_less_often(world: Any) -> None:
    """A late row costs tens of reads, not hundreds; the last row that was read is used if the store then fails."""
    world.rows.rows[USER] = world.row_of(USER, rated=[1])

    def fails() -> None:
        if world.rows.reads == 25:
            world.rows.raises = Unavailable("time")

    world.rows.then = fails
    ranking = world.rank(1, 2, budget_s=1.0, min_interactions_offset=99)
    assert (1, 26) == (ranking.row.interactions_offset, world.rows.reads)
    assert world.clock.now > 0.2


def test_only_the_models_integer_columns_are_sent(world: Any) -> None:
    """Those that the manifest names, in its order, user columns (newest first) repeated for each candidate."""
    world.rows.rows[USER] = world.row_of(USER, rated=[4, 6])
    world.deploy(int_names=[*world.layout.item_int_names, "u_recent_ids_0"])
    world.rank(2, 9)
    codes = [2, 1]  # their genres
    assert [[code, 6] for code in codes] == world.model.ints[0].tolist()
    world.deploy()
    world.rank(2, 9)
    assert world.model.ints[1] is None


def test_a_request_keeps_the_model_that_it_began_with(world: Any) -> None:
    """A swap during a request does not mix versions."""
    begun = world.active
    world.rows.then = lambda: world.deploy(version=4)
    assert 3 == world.rank(1, 2).model_version
    assert world.active is not begun


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"items": []}, "item_ids: empty"),
        ({"items": [1, 0, 2]}, "item_ids[1]: 0 means absent"),
        ({"items": range(1, 2_002)}, "item_ids: 2001 ids; at most 2000"),
        ({"items": [1], "time_us": -5}, "context.time_us: -5"),
        ({"items": [1], "time_us": 2**62}, "context.time_us"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_field(world: Any, query: dict[str, Any], message: str) -> None:
    """The message names the field and the remedy."""
    with pytest.raises(InvalidRequest) as caught:
        world.rank(*query.pop("items"), **query)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("limit", "exclude", "field"), [(2_001, [], "limit"), (5, [3, 0], "exclude_ids[1]")])
def test_recommend_refuses_by_field_too(world: Any, limit: int, exclude: list[int], field: str) -> None:
    """Limit and excluded ids have their bounds."""
    with pytest.raises(InvalidRequest) as caught:
        world.recommend(limit=limit, exclude=exclude)
    assert str(caught.value).startswith(field + ":")


def test_the_time_may_be_chosen_only_where_that_is_on(world: Any) -> None:
    """Production answers at its own time."""
    query = Query(USER, np.array([1], np.uint64), 0, RequestContext(), time_us=NOW_US)
    with pytest.raises(InvalidRequest, match=r"context\.time_us: a caller may not choose"):
        asyncio.run(world.ranker(allow_time=False).rank(query, 0.1))


@pytest.mark.parametrize("left_s", [-1.0, 0.0, 0.004])
def test_too_little_time_is_refused(world: Any, left_s: float) -> None:
    """Also exactly 0, which is not the same as no deadline; and not before anything was tried."""
    with pytest.raises(DeadlineTooShort):
        world.rank(1, 2, budget_s=left_s)
    assert 0 == world.rows.reads


def test_time_lost_in_our_own_queue_is_overload(world: Any) -> None:
    """The same little time, with a late event loop: the caller should keep away for a while."""
    world.lag_s = 0.05
    with pytest.raises(Overloaded):
        world.rank(1, 2, budget_s=0.004)


@pytest.mark.parametrize(
    ("waited_s", "answered"),
    [
        (0.001, [Priority.INTERACTIVE, Priority.PREFETCH, Priority.BATCH]),
        (0.007, [Priority.INTERACTIVE, Priority.PREFETCH]),
        (0.012, [Priority.INTERACTIVE]),
        (0.040, []),
    ],
)
def test_those_for_whom_nobody_waits_are_shed_first(world: Any, waited_s: float, answered: list[Priority]) -> None:
    """The longer the queue that stands, the fewer classes are answered; nobody gives a quarter of 100 ms to it."""
    for _ in range(2):
        world.queue.taken(waited_s)
        world.clock.now += 0.1
    got = []
    for priority in Priority:
        with suppress(Overloaded):
            world.rank(1, 2, priority=priority)
            got.append(priority)
    assert answered == got


def test_less_time_than_our_own_work_takes_is_overload(world: Any) -> None:
    """Not even POPULAR would be in time."""
    for _ in range(60):
        world.admission.note("own", 0.02)
    with pytest.raises(Overloaded):
        world.rank(1, 2, budget_s=0.025)
    assert Rung.MODEL == world.rank(1, 2, budget_s=0.05).rung


def test_stages_tell_where_the_time_went(world: Any) -> None:
    """The answer, the metrics and the impression name the same steps, the rung's own among them."""
    world.model.takes_s = 0.005
    ranking = world.rank(1, 2)
    names = [stage.name for stage in ranking.stages]
    assert ["row", "retrieval", "features", "model", "rerank", "answer"] == names
    assert 5_000 == ranking.stages[3].micros
    assert names == world.meter.stages


def test_the_impression_is_an_exact_cut(world: Any) -> None:
    """What was applied of each partition of item aggregates is logged with what it led to."""
    world.rank(1, 2, budget_s=0.25)
    [shown] = world.sink.shown
    assert ({0: 55}, 250) == (shown.item_markers, shown.deadline_ms)


def test_an_answer_and_its_impression_name_the_arm(world: Any) -> None:
    """Experiments count by it."""
    world.arm = "canary,layout=b"
    assert "canary,layout=b" == world.rank(1, 2).arm
    assert "canary,layout=b" == world.sink.shown[-1].ranking.arm
