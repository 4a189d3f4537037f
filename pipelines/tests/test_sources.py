"""Candidate sources: what training puts into a bundle, and how well each finds what users like later."""

from pathlib import Path

import numpy as np
import pytest
from bundle import load_retrieval
from definitions.assembly import RequestContext
from definitions.events import EventColumns
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import layout_of
from definitions.rules import Candidates
from definitions.usecase import UseCase, load_usecase
from millrace.events.v1 import events_pb2 as pb
from pipelines.datasets.dataset import Dataset
from pipelines.errors import TrainingError
from pipelines.evaluation.sources import evaluate_sources, find, requests
from pipelines.retrieval import sources
from pipelines.retrieval.sources import export_sources
from pipelines.training.examples import Log
from pipelines.training.run import train

YAML = """
usecase: clips
actions: [{name: view, label: 0}, {name: watch, label: 1}]
attributes: {item: {day: number}}
seen: {actions: [watch]}
features:
  - {name: u_watched, of: user, kind: count, action: watch, windows: [all]}
  - {name: u_recent, of: user, kind: last_k, action: watch, k: 8}
  - {name: i_watched, of: item, kind: count, action: watch, windows: [all]}
label: {examples: [watch, view], positive: {watch: {}}, window: 1m}
heads: {watch: 1, view: -2}
candidates:
  sources: [{neighbours: 0.5}, {fresh: {by: day, quota: 0.2}}, {popular: {by: [surface, country], quota: 0.3}}]
  limit: 10
"""
USERS, ITEMS, WATCHED = 120, 40, 12
SECOND_US = 1_000_000


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    path: Path = tmp_path_factory.mktemp("clips") / "clips.yaml"
    path.write_text(YAML)
    return load_usecase(path)


@pytest.fixture(scope="module")
def log() -> Log:
    """Two worlds of 20 items: odd users watch items 1 to 20 on surface 1, even ones 21 to 40 on surface 2."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(1, USERS + 1):
        world = user % 2
        items = rng.permutation(20)[:WATCHED] + (1 if world else 21)
        rows += [(user, int(item), 1 if world else 2, int(rng.integers(1, 10_000))) for item in items]
    rows.sort(key=lambda row: row[3])
    n = len(rows)
    events = EventColumns.of(
        n,
        event_id=range(1, n + 1),
        user_id=[row[0] for row in rows],
        item_id=[row[1] for row in rows],
        action=[1] * n,
        value=[1.0] * n,
        event_time_us=[row[3] * SECOND_US for row in rows],
        surface=[row[2] for row in rows],
        country=[7] * n,
        offset=range(n),
    )
    items = {}
    for item_id in range(1, ITEMS + 1):
        items[item_id] = pb.Item(id=item_id)
        items[item_id].attributes["day"].number = item_id
    return Log(events, {}, items, "two worlds")


@pytest.fixture(scope="module")
def folder(clips: UseCase, log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("bundle")
    assert ("neighbours", "popular") == export_sources(clips, log, 8_000 * SECOND_US, made)
    return made


def test_neighbours_are_of_the_users_own_world(folder: Path) -> None:
    """Who watched items of one world is shown more of it."""
    found = load_retrieval(folder).neighbours.retrieve(np.array([3, 5], np.uint64), 8)
    assert 8 == len(found.item_ids)
    assert found.item_ids.max() <= 20


def test_popular_lists_are_of_surface_and_country(folder: Path) -> None:
    """Of both, of either; what was never watched there is not in them."""
    popular = load_retrieval(folder).popular
    for place in ((1, 7), (1, 9), (1, 0)):
        assert popular.retrieve(*place, 40).max() <= 20
    assert 21 <= popular.retrieve(2, 7, 40).min()
    assert {40} == {len(popular.retrieve(9, 7, 99))}


def test_sources_see_nothing_from_the_tests_time_on(clips: UseCase, log: Log, folder: Path, tmp_path: Path) -> None:
    """Events of the last fifth, whatever they are, leave every byte as it is."""
    late = log.events.event_time_us >= 8_000 * SECOND_US
    events = log.events.take(np.flatnonzero(~late))
    export_sources(clips, Log(events, log.users, log.items, "cut"), 8_000 * SECOND_US, tmp_path)
    assert late.any()
    for path in folder.iterdir():
        with np.load(path) as one, np.load(tmp_path / path.name) as other:
            assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_an_erased_user_is_in_no_source(clips: UseCase, log: Log, tmp_path: Path) -> None:
    """The log still holds what he did; without the others nothing would be known."""
    users = {user: pb.User(id=user, deleted=True) for user in range(1, USERS + 1)}
    assert ("popular",) == export_sources(clips, Log(log.events, users, log.items, "erased"), 10**12, tmp_path)
    assert [] == load_retrieval(tmp_path).popular.retrieve(1, 7, 9).tolist()


def test_a_source_without_its_library_is_left_out_and_told(
    clips: UseCase, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on: popular items take the place of two_tower."""

    def absent(*_: object, **__: object) -> None:
        raise TrainingError("two_tower needs PyTorch; install it: make deep")

    told: list[str] = []

    class Told:
        def stage(self, name: str, total: int | None = None) -> None:
            """Nothing."""

        def advance(self, done: int) -> None:
            """Nothing."""

        def note(self, text: str) -> None:
            told.append(text)

    monkeypatch.setattr(sources, "two_tower", absent)
    wanted = clips.model_copy(update={"candidates": Candidates.model_validate({"sources": ["two_tower", "popular"]})})
    assert () == export_sources(wanted, log, 10**12, tmp_path, progress=Told())
    assert ["candidates without two_tower: two_tower needs PyTorch; install it: make deep"] == told


def test_only_the_items_that_most_users_met_have_neighbours(
    clips: UseCase, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue beyond the limit: its matrix would not fit."""
    monkeypatch.setattr(sources, "NEIGHBOUR_ITEMS", 25)
    export_sources(clips, log, 10**12, tmp_path)
    assert 25 == len(load_retrieval(tmp_path).neighbours.item_ids)


def test_a_request_knows_what_was_before_it_and_wants_what_came_after(clips: UseCase, log: Log) -> None:
    """Half of what the user watched in the test part is wanted; nothing that he had seen, nothing twice."""
    asked = requests(clips, log, 8_000 * SECOND_US)
    assert len(asked) > 50
    for request in asked:
        own = log.events.take(np.flatnonzero(log.events.user_id == request.user_id))
        before = own.event_time_us < request.time_us
        assert set(own.item_id[before].tolist()) == set(request.seen.tolist())
        assert set(own.item_id[~before].tolist()) == set(request.wanted.tolist())
        newest = own.item_id[before][np.argsort(own.event_time_us[before], kind="stable")][::-1][:8]
        assert newest.tolist() == request.history.tolist()


def test_the_mixture_takes_its_quotas_and_nothing_seen_or_deleted(clips: UseCase, log: Log, folder: Path) -> None:
    """As Recommend does."""
    items = ItemSnapshot(layout_of(clips))
    items.put_items([*log.items.values(), pb.Item(id=40, deleted=True)])
    request = next(each for each in requests(clips, log, 8_000 * SECOND_US) if each.context == RequestContext(0, 2, 7))
    found = find(request, clips.candidates, load_retrieval(folder), items)
    assert 10 == len(set(found.item_ids.tolist()))
    assert not np.isin(found.item_ids, [*request.seen, 40]).any()
    assert 5 == int((found.source == 0).sum())
    assert found.item_ids[found.source == 0].min() > 20


@pytest.mark.filterwarnings("ignore")
def test_a_trained_bundle_has_sources_and_heads(clips: UseCase, log: Log, tmp_path: Path) -> None:
    """Neighbours find far more of what is watched next than the newest items do; the mixture is measured beside. Each
    head of the YAML is a column of the graph, and its weight data of the manifest, which rules may change.
    """
    rng = np.random.default_rng(1)
    n = len(log.events)
    ignored = log.events.take(rng.permutation(n)[:600])  # views that no watch follows: the negatives
    views = EventColumns.of(
        600,
        event_id=range(n + 1, n + 601),
        user_id=ignored.user_id.tolist(),
        item_id=(1 + ignored.item_id % ITEMS).tolist(),
        action=[0] * 600,
        value=[0.0] * 600,
        event_time_us=(ignored.event_time_us + 90 * SECOND_US).tolist(),
        offset=range(n, n + 600),
    )
    dataset = Dataset(EventColumns.concat([log.events, views]), (), tuple(log.items.values()), "clips", "")

    result = train(clips, dataset, bundles=tmp_path)

    assert ("neighbours", "popular") == result.sources
    assert {"neighbours.npz", "popular.npz"} <= result.bundle.manifest.files.keys()
    rows = result.bundle.golden.features
    model = result.bundle.model()
    predictions = model.predictions(rows)
    assert ({"watch": 1, "view": -2}, (len(rows), 2)) == (result.bundle.manifest.heads, predictions.shape)
    assert np.allclose(predictions[:, 0], model.score(rows), atol=1e-6)  # the label is the first head
    assert np.allclose(predictions @ [1, -2], result.bundle.weighed(predictions), atol=1e-6)
    assert np.allclose(predictions @ [1, 5], result.bundle.weighed(predictions, {"view": 5}), atol=1e-6)
    assert (len(rows), 2) == result.bundle.fallback().predictions(rows).shape
    measured = evaluate_sources(
        layout_of(clips), Log.of_dataset(dataset), result.bundle, rules=clips.candidates, limits=(20,)
    )
    figures = measured.figures
    assert {f"{name}@{n}" for n in (10, 20) for name in ("neighbours", "fresh", "popular", "mixed")} == figures.keys()
    assert figures["neighbours@10"]["candidate_recall"] > figures["fresh@10"]["candidate_recall"] + 0.2
    assert figures["mixed@20"]["candidate_recall"] >= figures["mixed@10"]["candidate_recall"]
    for each in figures.values():
        assert each["ndcg_at_10_lo"] <= each["ndcg_at_10"] <= each["ndcg_at_10_hi"]
