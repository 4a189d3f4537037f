"""Every value at read time t against a brute-force oracle that reads the plain list of events."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from definitions.assembly import Assembled, RequestContext, assemble, past_items
from definitions.events import EventColumns
from definitions.item_snapshot import ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout
from definitions.packed import unpack_user_row
from definitions.user_state import UserTable
from definitions.user_values import UserAt
from hypothesis import given, settings
from hypothesis import strategies as st
from millrace.events.v1 import events_pb2 as pb

S, H, D = 1_000_000, 3_600_000_000, 86_400_000_000
BASE = 19_700 * D  # a midnight
UNITS = {"m": 60 * S, "h": H, "d": D}
HOPS = {"1h": 300 * S, "2h": 300 * S, "24h": H, "7d": H, "30d": D}  # as the design says, not as the code computes
GENRES = {10: 1, 11: 2, 12: 2, 13: 3}  # item -> category; 14 has none
ITEMS = [10, 11, 12, 13, 14]


def us(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


class Oracle:
    """Values straight from the definition, by counting in a list. `exact`: ties are left out, as for users."""

    def __init__(self, features: Sequence[dict[str, Any]], actions: Sequence[str], *, exact: bool) -> None:
        self.features, self.actions, self.exact = features, actions, exact

    def matching(self, events: Sequence[Any], names: Any) -> list[Any]:
        if not names:
            return list(events)
        if isinstance(names, str):
            names = [names]
        if isinstance(names, list):
            names = dict.fromkeys(names)
        bounds = {self.actions.index(k): (v or {}).get("if_value_at_least", -math.inf) for k, v in names.items()}
        return [e for e in events if e.action in bounds and e.value >= bounds[e.action]]

    def window(self, events: Sequence[Any], window: str, t: int) -> list[Any]:
        if window == "all":
            return [e for e in events if e.time_us < t or not self.exact]
        hop = HOPS[window]
        end = t if self.exact else math.ceil(t / hop) * hop
        return [e for e in events if (t - us(window)) // hop * hop <= e.time_us < end]

    def decayed(self, events: Sequence[Any], half_life: str, t: int) -> list[float]:
        return [2.0 ** (-max(0, t - e.time_us) / us(half_life)) for e in events]

    def values(self, events: Sequence[Any], t: int, owner: str) -> dict[str, float]:
        found = {}
        before = [e for e in events if e.time_us < t] if self.exact else list(events)
        for f in self.features:
            if f["of"] != owner:
                continue
            mine = before
            if "ttl" in f and (not before or t - max(e.time_us for e in before) > us(f["ttl"])):
                mine = []
            for window in f.get("windows", []):
                found[f"{f['name']}_{window}"] = self.windowed(f, self.window(mine, window, t))
            if f["kind"].startswith("decayed"):
                found[f["name"]] = self.faded(f, mine, t)
            if f["kind"] == "recency":
                times = [e.time_us for e in self.matching(mine, f.get("action"))]
                age = t - max(times) if times else us(f["cap"])
                found[f["name"]] = max(0, min(age, us(f["cap"]))) / S
        return found

    def windowed(self, f: dict[str, Any], events: list[Any]) -> float:
        if f["kind"] == "count":
            return len(self.matching(events, f.get("action")))
        if f["kind"] == "sum":
            return math.fsum(e.value for e in self.matching(events, f.get("action")))
        if f["kind"] == "mean":
            den = self.matching(events, f.get("action"))
            return smooth(f, math.fsum(e.value for e in den), len(den))
        return smooth(f, len(self.matching(events, f["num"])), len(self.matching(events, f["den"])))

    def faded(self, f: dict[str, Any], events: list[Any], t: int) -> float:
        den = self.matching(events, f.get("den", f.get("action")))
        if not self.exact:  # an item's decayed sum is never read back before its newest event
            t = max([t, *(e.time_us for e in den)])
        weights = self.decayed(den, f["half_life"], t)
        if f["kind"] == "decayed_count":
            return math.fsum(weights)
        if f["kind"] == "decayed_mean":
            return smooth(f, math.fsum(e.value * w for e, w in zip(den, weights, strict=True)), math.fsum(weights))
        num = self.decayed(self.matching(events, f["num"]), f["half_life"], t)
        return smooth(f, math.fsum(num), math.fsum(weights))

    def cross(self, events: Sequence[Any], t: int, item: int) -> dict[str, float]:
        found = {"x_seen": float(item in [e.item for e in self.last(events, t, "u_recent")])}
        tables = {f["name"]: f for f in self.features if f["kind"] == "affinity"}
        for f in self.features:
            if f["kind"] not in ("affinity_share", "affinity_rate"):
                continue
            table = tables[f["table"]]
            known = [e for e in self.matching(events, table.get("action")) if e.time_us < t and e.category]
            mine = [e for e in known if e.category == GENRES.get(item)]
            weight = math.fsum(self.decayed(mine, table["half_life"], t))
            liked = math.fsum(self.decayed(self.matching(mine, table["positive"]), table["half_life"], t))
            total = math.fsum(self.decayed(known, table["half_life"], t))
            share = weight / total if total else 0.0
            found[f["name"]] = smooth(f, liked, weight) if f["kind"] == "affinity_rate" else share
        return found

    def residuals(self, mine: Sequence[Any], means: dict[int, float], t: int, item: int) -> dict[str, float]:
        found = {}
        for f in self.features:
            if f["kind"] != "recent_residual":
                continue
            past = self.last(mine, t, f["history"])
            gaps = [e.value - means[e.item] for e in past]
            alike = [gap for gap, e in zip(gaps, past, strict=True) if e.category and e.category == GENRES.get(item)]
            found |= {f"{f['name']}_{n}": math.fsum(gaps[:n]) / (len(gaps[:n]) or 1) for n in f["last"]}
            found[f"{f['name']}_category"] = math.fsum(alike) / (len(alike) or 1)
            found[f"{f['name']}_category_n"] = len(alike)
        return found

    def last(self, events: Sequence[Any], t: int, name: str) -> list[Any]:
        f = next(f for f in self.features if f["name"] == name)
        ordered = sorted((e for e in self.matching(events, f.get("action")) if e.time_us < t), key=lambda e: e.time_us)
        return ordered[::-1][: f["k"]]  # sorted() is stable: of equal times the later arrival is newer


def smooth(f: dict[str, Any], num: float, den: float) -> float:
    mean, weight = f.get("prior", {}).get("mean", 0), f.get("prior", {}).get("weight", 0)
    return (num + mean * weight) / (den + weight) if den + weight else 0.0


@pytest.fixture(scope="session")
def raw() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text())
    return content


@pytest.fixture(scope="session")
def serve(layout: Layout, columns: Callable[[Sequence[Any]], EventColumns]) -> Callable[..., Assembled]:
    """The real way: fold in log order, pack, unpack, snapshot, assemble."""

    def build(events: Sequence[Any], user: int, t: int) -> Assembled:
        users, items, snapshot = UserTable(layout), ItemTable(layout), ItemSnapshot(layout)
        users.fold(columns(events))
        items.fold(columns(events))
        for item, genre in GENRES.items():
            codes = pb.AttributeValue(categories=pb.CategoryCodes(codes=[genre]))
            snapshot.put_item(pb.Item(id=item, attributes={"genre": codes}))
        for item in items.take_dirty().tolist():
            snapshot.apply(0, item, items.partial(item))
        snapshot.mark(0, len(events))
        user_at = UserAt(layout, unpack_user_row(layout, users.row(user, epoch=1)), t)
        view = snapshot.view(np.array(ITEMS, np.uint64), t, past_items(user_at))
        return assemble(user_at, view, RequestContext())

    return build


def assert_agrees(
    layout: Layout, raw: dict[str, Any], got: Assembled, events: Sequence[Any], user: int, t: int
) -> None:
    """Every float column and every history of one request."""
    names = [action["name"] for action in raw["actions"]]
    users = Oracle(raw["features"], names, exact=True)
    items = Oracle(raw["features"], names, exact=False)
    mine = [e for e in events if e.user == user]
    means = {item: items.values([e for e in events if e.item == item], t, "item")["i_mean_all"] for item in ITEMS}
    for row, item in enumerate(ITEMS):
        expected = users.values(mine, t, "user") | users.cross(mine, t, item) | {"u_age": 30, "i_year": 1990}
        expected |= items.values([e for e in events if e.item == item], t, "item")
        expected |= users.residuals(mine, means, t, item)
        actual = dict(zip(layout.feature_names, got.features[row].tolist(), strict=True))
        assert actual == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-6, abs=1e-6)
    start = 0
    for name, k in (("u_recent", 5), ("u_long", 20)):
        last = users.last(mine, t, name)
        pad = [0] * (k - len(last))
        assert got.user_ints[start : start + k].tolist() == [e.item for e in last] + pad
        assert got.user_ints[start + k : start + 2 * k].tolist() == [round(e.value * 1e6) for e in last] + pad
        start += 2 * k


def event_times() -> st.SearchStrategy[int]:
    """Times on, just before and just after tile boundaries, within forty days."""
    hop = st.sampled_from([300 * S, H, D])
    near = st.tuples(hop, st.integers(0, 500), st.sampled_from([-1, 0, 0, 1, 17 * S]))
    return near.map(lambda drawn: BASE + min(drawn[0] * drawn[1], 40 * D) + drawn[2])


@pytest.fixture(scope="session")
def event_lists(event: type[Any]) -> st.SearchStrategy[list[Any]]:
    def build(drawn: tuple[int, int, int, int, int]) -> Any:
        user, item, action, value, time_us = drawn
        return event(user, item, action, value / 2, time_us, GENRES.get(item, 0))

    one = st.tuples(
        st.sampled_from([1, 1, 1, 2]), st.sampled_from(ITEMS), st.integers(0, 2), st.integers(0, 10), event_times()
    )
    return st.lists(one.map(build), max_size=45)


@pytest.mark.property
def test_every_value_is_what_counting_the_events_gives(
    layout: Layout, raw: dict[str, Any], serve: Callable[..., Assembled], event_lists: st.SearchStrategy[list[Any]]
) -> None:
    """Late, tied and shuffled events, read at, just before and long after the newest one."""

    @settings(max_examples=400, deadline=None)
    @given(events=event_lists, data=st.data())
    def holds(events: list[Any], data: st.DataObject) -> None:
        times = [e.time_us for e in events] or [BASE]
        newest = max(times)
        recent = sorted(times)[-15:]  # at most 15 events are at or after any of them: no row is tied
        recent = [time for time in recent if time > newest - 600 * S]
        after = st.sampled_from([1, 300 * S, H - 1, H, 2 * H, D, 31 * D]).map(lambda gap: newest + gap)
        t = data.draw(st.one_of(st.sampled_from(recent), after))
        assert_agrees(layout, raw, serve(events, 1, t), events, 1, t)

    holds()


@pytest.mark.parametrize("seed", range(6))
def test_a_long_shuffled_log_gives_the_same_values(
    layout: Layout, raw: dict[str, Any], serve: Callable[..., Assembled], event: type[Any], seed: int
) -> None:
    """Most events have left the newest sixteen, many came late, a few are at or after t."""
    random = np.random.default_rng(seed)
    times = BASE + np.concatenate([random.integers(0, 35 * 24, 90) * H, 35 * D + random.integers(0, 9, 10) * 300 * S])
    events = [
        event(int(u), int(i), int(a), int(v) / 2, int(t), GENRES.get(int(i), 0))
        for t, (u, i, a, v) in zip(times, random.integers([1, 10, 0, 0], [3, 15, 3, 11], (100, 4)), strict=True)
    ]
    events = [events[index] for index in random.permutation(100)]

    for t in (sorted(times)[-5], max(times) + 1, max(times) + 2 * H):
        assert_agrees(layout, raw, serve(events, 1, int(t)), events, 1, int(t))


def test_a_burst_of_ties_is_left_out_of_every_value(
    layout: Layout, raw: dict[str, Any], serve: Callable[..., Assembled], event: type[Any]
) -> None:
    """Fifteen events at t itself: none is seen, and what came before is whole."""
    t = BASE + 7 * H + 120 * S
    older = [event(1, 10 + i % 5, i % 3, i % 6, t - (30 - i) * 600 * S, GENRES.get(10 + i % 5, 0)) for i in range(30)]
    tied = [event(1, 12, i % 3, 5, t + i // 8 * 100 * S, 2) for i in range(15)]

    assert_agrees(layout, raw, serve(older + tied, 1, t), older + tied, 1, t)


def test_a_row_whose_newest_events_are_all_at_or_after_t_is_flagged(
    serve: Callable[..., Assembled], event: type[Any]
) -> None:
    """Sixteen are the most that a row can take out again."""
    t = BASE + H
    fifteen, sixteen = ([event(1, 10, 0, 1, t) for _ in range(n)] for n in (15, 16))
    old = [event(1, 10, 0, 1, t - S)]

    assert not serve(old + fifteen, 1, t).tied
    assert serve(old + sixteen, 1, t).tied


@pytest.mark.parametrize(("age_us", "counted"), [(H, 1), (H + 300 * S - 1, 1), (H + 300 * S, 0), (0, 0)])
def test_a_window_reaches_back_to_a_whole_tile(
    layout: Layout, serve: Callable[..., Assembled], event: type[Any], age_us: int, counted: int
) -> None:
    """Read 1 us before a tile ends: an hour and the rest of its first tile count; the event at t does not."""
    t = BASE + 10 * H + 300 * S - 1
    got = serve([event(1, 10, 0, 1, t - age_us)], 1, t)

    assert got.features[0][layout.feature_names.index("u_all_1h")] == counted


def test_a_late_event_counts_while_a_reader_can_see_its_tile(
    layout: Layout, serve: Callable[..., Assembled], event: type[Any]
) -> None:
    """Kept within W + 2 hops of the newest, for ever in `all`."""
    new = BASE + 5 * H
    events = [event(1, 10, 0, 1, new), event(1, 10, 0, 1, new - H), event(1, 10, 0, 1, new - 3 * H)]
    got = dict(zip(layout.feature_names, serve(events, 1, new + 1).features[0].tolist(), strict=True))

    assert (got["u_all_1h"], got["u_all_24h"], got["u_all_all"]) == (2, 3, 3)


def test_sums_are_exact(layout: Layout, serve: Callable[..., Assembled], event: type[Any]) -> None:
    """A thousand times 0.7 are 700, though float32 has no 0.7."""
    got = serve([event(1, 10, 2, 0.7, BASE + i * S) for i in range(1000)], 1, BASE + H)

    assert got.features[0][layout.feature_names.index("u_sum_all")] == np.float32(700)


def test_times_at_the_ends_of_int64_break_nothing(serve: Callable[..., Assembled], event: type[Any]) -> None:
    """Hostile clocks that passed the checks must not stop a consumer or give NaN."""
    events = [event(1, 10, 2, 1e9, time, 1) for time in (-(2**63) + 1, BASE, 0, BASE + 1)]

    assert np.isfinite(serve(events * 9, 1, BASE + H).features).all()


def test_a_user_without_history_is_empty_not_an_error(layout: Layout) -> None:
    """Counts 0, rates at their priors, recency at its cap, candidates unknown; no NaN."""
    items = ItemSnapshot(layout).view(np.array([7, 8], np.uint64), BASE)
    got = assemble(UserAt(layout, None, BASE), items, RequestContext(device=3, country=4))
    values = dict(zip(layout.feature_names, got.features[1].tolist(), strict=True))

    assert got.features.shape == (2, len(layout.feature_names))
    assert (values["u_all_all"], values["u_mean_1h"], values["u_bare_all"], values["u_idle"]) == (0, 3.5, 0, 30 * 86400)
    assert (values["x_rate"], values["x_share"], values["i_year"]) == (0.5, 0, 1990)
    assert got.user_ints.tolist() == [0] * 54 + [3, 4]
    assert not items.known.any()
