"""Classic models learn, and their graphs score as they do: encodings, missing values, item-item scores inside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from bundle import OnnxScorer
from bundle.admission import check_graph
from definitions.layout import layout_of
from definitions.learning import Objective
from definitions.usecase import UseCase
from pipelines.datasets import build_dataset, split_times
from pipelines.datasets.synthetic import synthetic_world
from pipelines.errors import TrainingError
from pipelines.evaluation.metrics import auc, gauc
from pipelines.export.parity import compare, unstable
from pipelines.progress import SILENT
from pipelines.training import history, trees, xgb
from pipelines.training.encoding import Hashed, Native, OneHot, fit_encoder
from pipelines.training.examples import Log, build_examples
from pipelines.training.history import fit_history, interactions, past_scores
from pipelines.training.ranker import RANKERS, Ranker, Rows, TrainData, ranker, sessions, train_data
from servicekit.settings import checkout_root

CLASSIC = ("lr", "lr_one_hot", "lr_hashed", "lightgbm", "lambdarank", "xgboost")


class World:
    """A small use case with a history, its rows, and everything that models of it need."""

    def __init__(self, **said: dict[str, str]) -> None:
        """`said`: feature -> `encode` and `missing`."""
        content = yaml.safe_load((checkout_root() / "usecases" / "movies.yaml").read_text())
        for feature in content["features"]:
            feature.update(said.get(feature["name"], {}))
        self.layout = layout_of(UseCase.model_validate(content))
        dataset = build_dataset(self.layout.usecase, synthetic_world(users=80, items=90, events=4000, seed=1))
        self.log = Log.of_dataset(dataset)
        self.examples = build_examples(self.layout, self.log)
        self.split = split_times(self.examples.time_us)
        self.data, self.test = train_data(self.layout, self.examples, self.split, log=self.log)


@pytest.fixture(scope="module")
def world() -> World:
    patch = pytest.MonkeyPatch()
    patch.setattr(history, "BLOCKS", 4)
    try:
        return World()
    finally:
        patch.undo()


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to tell models apart."""
    monkeypatch.setattr(trees, "MAX_TREES", 40)
    monkeypatch.setattr(xgb, "MAX_TREES", 40)
    monkeypatch.setattr(history, "BLOCKS", 4)


def fitted(name: str, data: TrainData) -> Ranker:
    return ranker(name)(data, seed=0, threads=1, progress=SILENT)


def same_in_onnx(model: Ranker, rows: Rows, path: Path) -> npt.NDArray[np.float32]:
    """Its graph is admitted, agrees on rows with unknown codes too, and has the same bits whatever the batch."""
    model.export(path)
    check_graph(path)
    scorer = OnnxScorer(path)
    ints = rows.ints.copy()
    ints[::7] = 0
    scores = scorer.score(rows.features, ints)
    compare(model.name, model.score(rows.features, ints), scores, rows.user_id)
    assert {} == unstable(scorer.score, rows.features, ints, tries=8)
    return scores


@pytest.mark.parametrize("name", CLASSIC)
def test_a_classic_model_learns_and_exports(name: str, world: World, tmp_path: Path) -> None:
    """Better than chance on later rows; one graph from the bundle's inputs; the same seed, the same model."""
    model = fitted(name, world.data)

    scores = model.score(world.test.features, world.test.ints)

    assert (auc(world.test.label, scores) or 0) > 0.55
    assert name == model.name
    same_in_onnx(model, world.test, tmp_path / "m.onnx")
    np.testing.assert_array_equal(scores, fitted(name, world.data).score(world.test.features, world.test.ints))


def test_every_name_has_a_trainer() -> None:
    """And an unknown name says which there are."""
    assert set(CLASSIC) < set(RANKERS)
    with pytest.raises(TrainingError, match="use one of lr, "):
        ranker("oracle")


def test_encodings_and_missing_values_are_inside_the_graph(tmp_path: Path) -> None:
    """Each policy of the use case, by the columns that it makes and by the exported scores, NaN among the inputs."""
    world = World(
        u_occupation={"encode": "hashing"},
        i_genre={"encode": "native", "missing": "own_code"},
        u_gender={"encode": "one_hot", "missing": "own_code"},
        u_age={"missing": "train_median"},
        i_year={"missing": "indicator"},
    )
    encoder = fit_encoder(world.data, native=True)
    kinds = {group.name: type(group) for group in encoder.groups}
    features = world.test.features.copy()
    age, year = (world.layout.feature_names.index(name) for name in ("u_age", "i_year"))
    features[::3, age], features[::5, year], features[1::5, year] = np.nan, np.nan, 1990
    rows = replace(world.test, features=features)

    x = encoder.expand(rows.features, rows.ints)

    assert {"u_occupation": Hashed, "i_genre": Native, "u_gender": OneHot} == kinds
    assert not np.isnan(x[:, : encoder.numbers][:, encoder.names.index("u_age")]).any()
    assert {0.0, 1.0} == set(x[:, encoder.names.index("i_year?")].tolist())
    assert "u_gender=0" in encoder.names
    for name in ("lr", "lightgbm", "xgboost"):
        same_in_onnx(fitted(name, world.data), rows, tmp_path / f"{name}.onnx")


def test_native_nan_is_for_trees_alone(tmp_path: Path) -> None:
    """Trees read NaN; LR takes the median of the rows that have a value."""
    world = World(u_age={"missing": "native_nan"})
    features = world.test.features.copy()
    age = world.layout.feature_names.index("u_age")
    features[::2, age] = 32  # the declared default
    rows = replace(world.test, features=features)

    assert np.isnan(fit_encoder(world.data).expand(rows.features, rows.ints)[::2, age]).all()
    for name in ("lr", "lightgbm", "xgboost"):
        assert np.isfinite(same_in_onnx(fitted(name, world.data), rows, tmp_path / f"{name}.onnx")).all()


def test_sets_of_codes_split_natively(tmp_path: Path) -> None:
    """LightGBM's categorical splits, also for codes that training never met."""
    world = World(u_occupation={"encode": "native"}, i_genre={"encode": "native"})
    rng = np.random.default_rng(0)
    place = next(c.places[0] for c in world.data.inputs.codes if c.name == "u_occupation")

    def told(rows: Rows) -> Rows:
        return replace(rows, label=((rows.ints[:, place] % 3 == 1) ^ (rng.random(len(rows)) < 0.1)).astype(np.int64))

    data = replace(world.data, fit=told(world.data.fit), valid=told(world.data.valid))
    settings = {**trees.PARAMETERS, "min_data_per_group": 5, "cat_smooth": 1.0}
    model = trees.fit(data, seed=0, threads=1, progress=SILENT, parameters=settings)
    rows = replace(world.test, ints=world.test.ints.copy())
    rows.ints[::4, place] = 500

    same_in_onnx(model, rows, tmp_path / "m.onnx")

    assert "==" in model.model.booster.trees_to_dataframe()["decision_type"].tolist()


def test_a_raw_booster_ends_at_its_best_tree(world: World, tmp_path: Path) -> None:
    """The trap: a Booster that stopped early still holds, and would score with, the trees past the best."""
    settings = {**xgb.PARAMETERS, "learning_rate": 0.9, "max_depth": 8, "min_child_weight": 0}
    model = xgb.fit(world.data, seed=0, threads=1, progress=SILENT, parameters=settings)

    assert model.model.booster.num_boosted_rounds() < 20
    same_in_onnx(model, world.test, tmp_path / "m.onnx")


def test_xgboost_orders_lists_where_the_objective_is_pairwise(world: World, tmp_path: Path) -> None:
    """Inside a session, and no longer by log-loss. Converters fail on rank objectives; a graph of the trees does not
    ask for the objective.
    """
    usecase = world.layout.usecase.model_copy(update={"objective": Objective(name="pairwise")})
    model = fitted("xgboost", replace(world.data, layout=layout_of(usecase)))
    scores = model.score(world.test.features, world.test.ints)

    assert "rank:pairwise" in model.model.booster.save_config()  # type: ignore[attr-defined]
    assert (gauc(world.test.label, scores, world.test.session) or 0) > 0.55
    assert 0.9 < scores.mean() / world.test.label.mean() < 1.1  # Platt's mapping makes probabilities of them
    same_in_onnx(model, world.test, tmp_path / "m.onnx")


def test_item_item_scores_are_the_same_bits_in_the_graph(world: World, tmp_path: Path) -> None:
    """No threshold of a tree may be crossed by rounding, so the graph's scores equal the trainer's exactly."""
    from pipelines.export.graphs import Graph, put_history

    learnt = world.data.history
    assert learnt is not None
    scores = learnt.score(world.test.ints)
    for column, name in enumerate(learnt.names):
        graph = Graph(world.data.inputs)
        put_history(graph, learnt)
        graph.constants(column=np.array([column], np.int64))
        graph.node("Gather", ["history_scores", "column"], "score", axis=1)
        graph.save(tmp_path / "m.onnx")
        found = OnnxScorer(tmp_path / "m.onnx").score(world.test.features, world.test.ints)
        np.testing.assert_array_equal(scores[:, column], found, err_msg=name)
    assert (np.abs(scores).sum(axis=0) > 0).all()


def test_training_rows_are_scored_by_their_past_alone(world: World) -> None:
    """Values changed from a time on leave the scores of all earlier rows as they are; those of later rows move."""
    inputs = world.data.inputs
    events = interactions(world.layout, inputs, world.log)
    ints = inputs.ints_of(world.layout, world.examples.user_ints, world.examples.item_ints)
    time_us, until = world.examples.time_us, world.split.test_from_us
    t = int(np.quantile(time_us, 0.6))
    changed = replace(events, value=np.where(events.time_us >= t, 6 - events.value, events.value))

    _, before = past_scores(inputs, events, ints, time_us, until)
    _, after = past_scores(inputs, changed, ints, time_us, until)

    np.testing.assert_array_equal(before[time_us <= t], after[time_us <= t])
    assert (before[time_us > t] != after[time_us > t]).any()


def test_one_matrix_of_the_training_time_on_its_own_rows_is_a_leak(world: World) -> None:
    """Planted: it looks better than it is on the rows that it was made of, and not on later ones."""
    inputs = world.data.inputs
    events = interactions(world.layout, inputs, world.log)
    end = fit_history(inputs, events.before(world.split.test_from_us))
    place = end.names.index("x_alike_ridge")

    def lift(scores: npt.NDArray[np.float32], rows: Rows) -> float:
        return (auc(rows.label, scores[:, place]) or 0) - 0.5

    own, honest = lift(end.score(world.data.fit.ints), world.data.fit), lift(world.data.fit.history, world.data.fit)

    assert own > 1.5 * max(honest, lift(end.score(world.test.ints), world.test))


def test_a_use_case_without_a_history_score_has_no_history(world: World) -> None:
    """Nothing to score against, and models on the base columns take no history either."""
    data, _ = train_data(world.layout, world.examples, world.split, groups=("base",), log=world.log)

    assert data.history is None
    assert data.inputs.history is None
    assert 0 == data.fit.history.shape[1]
    with pytest.raises(TrainingError, match="history_score"):
        interactions(world.layout, data.inputs, world.log)


def test_sessions_end_with_half_an_hour_of_silence_or_with_the_request() -> None:
    """Rows of one request are one list, whatever their times."""
    minute = 60_000_000
    user = np.array([1, 1, 1, 2, 2, 2], np.uint64)
    time = np.array([0, 20, 60, 0, 90, 91]) * minute
    request = np.array([0, 0, 0, 7, 7, 0], np.uint64)

    assert [0, 0, 1, 3, 3, 2] == sessions(user, time, request).tolist()
