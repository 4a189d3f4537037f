"""What a bundle retrieves is what the model would, and towers of different versions are refused."""

import threading
from pathlib import Path

import numpy as np
import pytest
from bundle import GoldenError, IntegrityError, NeighbourRetrieval, OnnxScorer, TowerRetrieval, load_retrieval
from bundle.retrieval import UserTower
from pipelines.retrieval.export import export_neighbours, export_scorer, export_towers
from pipelines.retrieval.item_item import ItemItem
from pipelines.retrieval.towers import TwoTower
from scipy.sparse import csr_array

ITEMS, WIDTH, NEWEST = 300, 16, 12
IDS = np.cumsum(np.random.default_rng(9).integers(1, 2**50, ITEMS)).astype(np.uint64)


def model(seed: int) -> TwoTower:
    rng = np.random.default_rng(seed)
    history, items = (rng.standard_normal((ITEMS, WIDTH)).astype(np.float32) for _ in range(2))
    return TwoTower(history, items, rng.standard_normal(WIDTH).astype(np.float32))


def histories(n: int, seed: int = 0) -> np.ndarray:
    """int64 (n, NEWEST) of distinct codes, the shorter ones padded with 0."""
    rng = np.random.default_rng(seed)
    codes = np.argsort(rng.random((n, ITEMS)), axis=1)[:, :NEWEST] + 1
    return np.where(np.arange(NEWEST) < rng.integers(0, NEWEST + 1, n)[:, None], codes, 0)


def best(of: TwoTower, codes: np.ndarray, limit: int) -> list[list[int]]:
    """By definition: all scores, sorted."""
    scores = of.users_of(codes) @ of.items.T
    return IDS[np.argsort(-scores, axis=1)[:, :limit]].tolist()


def found(source: TowerRetrieval, codes: np.ndarray, limit: int) -> list[list[int]]:
    ids = np.where(codes > 0, IDS[np.maximum(codes - 1, 0)], 0).astype(np.uint64)
    return [source.retrieve(row, limit).item_ids.tolist() for row in ids]


def test_users_by_row_and_users_by_newest_items_are_the_same() -> None:
    """The ladder measures what serving computes."""
    codes = histories(20)
    user, slot = np.nonzero(codes)
    rows = csr_array((np.ones(len(user), np.float32), (user, codes[user, slot] - 1)), shape=(20, ITEMS))

    np.testing.assert_allclose(model(0).users(rows), model(0).users_of(codes), atol=1e-5)


def test_the_bundle_finds_exactly_the_best_and_after_a_swap_those_of_the_new_version(tmp_path: Path) -> None:
    """Recall 1 on each side of the swap; version 1 answers with little of what version 2 would."""
    versions = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        export_towers(model(seed), IDS, tmp_path / str(seed), newest=NEWEST)
        versions.append(load_retrieval(tmp_path / str(seed)).towers)
    codes = histories(40)
    first, second = versions
    assert first is not None
    assert second is not None

    assert best(model(1), codes, 10) == found(first, codes, 10)
    assert best(model(2), codes, 10) == found(second, codes, 10)
    overlap = [len(set(a) & set(b)) for a, b in zip(found(first, codes, 10), found(second, codes, 10), strict=True)]
    assert np.mean(overlap) < 2


def test_a_swap_under_load_never_mixes_versions(tmp_path: Path) -> None:
    """One reference holds tower and index: each answer is wholly the old version's or wholly the new one's."""
    sources = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        export_towers(model(seed), IDS, tmp_path / str(seed), newest=NEWEST)
        sources.append(TowerRetrieval.of(tmp_path / str(seed)))
    codes = histories(1, seed=3)
    expected = [found(source, codes, 5) for source in sources]
    active, done, seen = [sources[0]], threading.Event(), []

    def serve() -> None:
        while not done.is_set():
            seen.append(found(active[0], codes, 5))

    thread = threading.Thread(target=serve)
    thread.start()
    for swap in range(200):
        active[0] = sources[swap % 2]
        seen.append(found(active[0], codes, 5))
    done.set()
    thread.join()
    assert all(answer in expected for answer in seen)


def test_a_tower_beside_vectors_of_another_training_is_refused(tmp_path: Path) -> None:
    """Both are well-formed and of one shape; only their version tells that nothing would be found."""
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        export_towers(model(seed), IDS, tmp_path / str(seed), newest=NEWEST)
    (tmp_path / "1" / "user_tower.onnx").write_bytes((tmp_path / "2" / "user_tower.onnx").read_bytes())

    with pytest.raises(IntegrityError, match="towers of different versions"):
        load_retrieval(tmp_path / "1")


def test_ids_moved_against_their_vectors_are_refused(tmp_path: Path) -> None:
    """A catalogue that grew by one item is another index."""
    export_towers(model(1), IDS, tmp_path, newest=NEWEST)
    np.save(tmp_path / "item_ids.npy", IDS + np.uint64(1))

    with pytest.raises(IntegrityError, match="towers of different versions"):
        TowerRetrieval.of(tmp_path)


def test_recorded_vectors_must_come_out_again(tmp_path: Path) -> None:
    """As golden scores of a ranker."""
    export_towers(model(1), IDS, tmp_path, newest=NEWEST)
    with np.load(tmp_path / "tower_golden.npz") as arrays:
        changed = dict(arrays)
    changed["user_vector"][3, 0] += 1e-3
    np.savez(tmp_path / "tower_golden.npz", **changed)

    with pytest.raises(GoldenError, match="other vectors"):
        TowerRetrieval.of(tmp_path)


def test_the_tower_agrees_with_the_model_at_any_batch(tmp_path: Path) -> None:
    """1, 7 and 512 histories; none, some and all slots filled."""
    export_towers(model(4), IDS, tmp_path, newest=NEWEST)
    tower = UserTower(tmp_path / "user_tower.onnx")

    for n in (1, 7, 512):
        np.testing.assert_allclose(tower.vectors(histories(n, n)), model(4).users_of(histories(n, n)), atol=1e-5)


def test_the_ranker_graph_scores_as_the_towers(tmp_path: Path) -> None:
    """The sigmoid of the product, which an unknown candidate has none of; no other columns are read."""
    rng = np.random.default_rng(0)
    codes, item = histories(50), rng.integers(0, ITEMS + 1, 50)
    ints = rng.integers(0, 9, (50, NEWEST + 3))
    ints[:, 2 : 2 + NEWEST], ints[:, 0] = codes, item
    places = np.arange(2, 2 + NEWEST)
    path = tmp_path / "model.onnx"
    export_scorer(model(5), path, features=4, ints=NEWEST + 3, history=places, item=0, slope=0.1, shift=-0.5)

    scores = OnnxScorer(path).score(np.full((50, 4), np.nan, np.float32), ints)
    users, items = model(5).users_of(codes), model(5).items[np.maximum(item - 1, 0)]
    products = np.where(item > 0, (users * items).sum(axis=1), 0)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(0.5 - 0.1 * products)), atol=1e-6)


def test_neighbours_in_the_bundle_are_the_nearest_of_each_item(tmp_path: Path) -> None:
    """Scores of what is kept equal the model's, cut to its 20 largest positive weights a row."""
    weights = np.random.default_rng(0).standard_normal((ITEMS, ITEMS)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    export_neighbours(ItemItem(weights), IDS, tmp_path, neighbours=20)
    codes = histories(30)
    user, slot = np.nonzero(codes)
    rows = csr_array((np.ones(len(user), np.float32), (user, codes[user, slot] - 1)), shape=(30, ITEMS))

    expected = ItemItem(weights).kept(20).scores(rows)
    source = NeighbourRetrieval.of(tmp_path)
    for code, row in zip(codes, expected, strict=True):
        got = source.retrieve(np.where(code > 0, IDS[np.maximum(code - 1, 0)], 0).astype(np.uint64), 10)
        at = np.searchsorted(IDS, got.item_ids)
        np.testing.assert_allclose(got.scores, row[at], atol=1e-5)
        np.testing.assert_allclose(got.scores, -np.sort(-row)[: len(got.scores)], atol=1e-5)
