"""One data set, one time split, and every model or variant of it that is asked for: test scores, computed once.

Scores are kept in a folder under a key of all that made them (rows, split, variant, seed, the trainers' code), so a
report that was cut off, or has one more row, trains only what is new.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from definitions.backfill import Queries, backfill
from definitions.features import Attribute, ContextCode
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase
from threadpoolctl import threadpool_limits

import pipelines
from pipelines.datasets.split import Split, split_times
from pipelines.progress import SILENT, Progress
from pipelines.retrieval.ladder import evaluate_retrieval
from pipelines.training import baselines
from pipelines.training.encoded import EncodedRanker
from pipelines.training.examples import Examples, Log, build_examples
from pipelines.training.inputs import ALL_GROUPS, BASE, HISTORY, RELATIVE
from pipelines.training.ranker import Ranker, Rows, TrainData, ranker, train_data

Scores = npt.NDArray[np.float64]

Encode = Literal["one_hot", "hashing", "native", "embedding", "none"]
Missing = Literal["default", "indicator", "native_nan", "train_median"]

FLOORS = ("constant", "item_mean")
_CODE = ("datasets", "training", "deep")  # packages whose change makes kept scores stale


@dataclass(frozen=True)
class Trial:
    """A model on some groups of columns.

    `encode`: of all categories, instead of the use case's, or `none` to leave them out; `missing`: of all attributes;
    `hidden`: share of users and items whose attributes are taken away; `lag_us`: how old the features are that it is
    trained on.
    """

    model: str
    groups: tuple[str, ...] = ALL_GROUPS
    encode: Encode | None = None
    missing: Missing | None = None
    hidden: float = 0.0
    lag_us: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trial's model with what it was fitted on and the test rows as it reads them."""

    ranker: Ranker
    data: TrainData
    test: Rows


@dataclass(eq=False)
class Study:
    """Trials on one split. `kept`: folder of their scores; None keeps none. `told`: one unit for each trial done."""

    usecase: UseCase
    log: Log
    kept: Path | None = None
    revision: int = 1
    threads: int = 1
    told: Progress = SILENT
    _fitted: dict[Trial, Fitted] = field(default_factory=dict, repr=False)
    _scores: dict[tuple[str, Trial], Scores] = field(default_factory=dict, repr=False)
    _lagged: dict[int, Examples] = field(default_factory=dict, repr=False)
    _prepared: dict[Trial, tuple[TrainData, Rows]] = field(default_factory=dict, repr=False)

    @cached_property
    def layout(self) -> Layout:
        """Of the use case as it is."""
        return layout_of(self.usecase, self.revision)

    @cached_property
    def examples(self) -> Examples:
        """All rows, features point in time."""
        return build_examples(self.layout, self.log)

    @cached_property
    def split(self) -> Split:
        """The split that training makes."""
        return split_times(self.examples.time_us, gap_us=self.usecase.attribution_us)

    def prepare(self) -> None:
        """Build examples and split now.

        Raises:
            TrainingError: too little data.
        """
        _ = self.examples, self.split

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Of the test rows."""
        return self.examples.label[self.split.test]

    @property
    def users(self) -> npt.NDArray[np.uint64]:
        """Of the test rows."""
        return self.examples.user_id[self.split.test]

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of columns that the use case has, simplest first."""
        there = {BASE, *self.layout.feature_groups} | ({HISTORY} if self.layout.graph_scores else set())
        return tuple(group for group in (BASE, RELATIVE, HISTORY) if group in there)

    def context_codes(self) -> dict[str, npt.NDArray[np.int64]]:
        """What the requests of the test rows brought (device, surface, country), by the columns that hold it."""
        rows = self.examples.user_ints[self.split.test]
        return {place.source: rows[:, place.start] for place in self.layout.context_ints}

    def scores(self, trial: Trial) -> Scores:
        """Of the test rows, float64 (n,); trained if they are not kept.

        Raises:
            TrainingError: no such model, or a library that it needs is not installed.
        """
        if trial.model in FLOORS:
            return self._floor(trial.model)
        return self._kept("scores", trial, lambda: self._score(trial))

    def valid_scores(self, trial: Trial) -> Scores:
        """Of the validation rows, float64 (n,): what models are chosen by. The trial is of a model, not of FLOORS."""
        return self._from_folder("valid scores", trial, lambda: self._valid_score(trial))

    def scores_at_lag(self, trial: Trial, lag_us: int) -> Scores:
        """Of the test rows with features as they were `lag_us` before each request; the model is the trial's own."""
        return self.scores(trial) if lag_us == trial.lag_us else self._kept(
            f"scores at {lag_us}", trial, lambda: self._score_at(self.fitted(trial), lag_us)
        )  # fmt: skip

    def fitted(self, trial: Trial) -> Fitted:
        """The trial's model itself."""
        if trial not in self._fitted:
            data, test = self._data(trial)
            with threadpool_limits(self.threads):
                model = ranker(trial.model)(data, seed=trial.seed, threads=self.threads, progress=SILENT)
            self._fitted[trial] = Fitted(model, data, test)
        return self._fitted[trial]

    def retrieval(self, models: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Lists of ten out of the catalogue, of one split of every user's items: `retrieval.ladder`'s figures."""
        told = json.dumps(["retrieval", *models, self.key, code_digest(("retrieval",))])
        path = None if self.kept is None else self.kept / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.json"
        if path is not None and path.exists():
            found: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))
            return found
        chosen = self.usecase.is_example(self.log.events.action)
        users, items = self.log.events.user_id[chosen], self.log.events.item_id[chosen]
        with threadpool_limits(self.threads):
            found = evaluate_retrieval(users, items, models=models, seeds=(0,))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found), encoding="utf-8")
        return found

    def _score(self, trial: Trial) -> Scores:
        fitted = self.fitted(trial)
        return fitted.ranker.score(fitted.test.features, fitted.test.ints)

    def _valid_score(self, trial: Trial) -> Scores:
        fitted = self.fitted(trial)
        rows, model = fitted.data.valid, fitted.ranker
        if isinstance(model, EncodedRanker):  # its graph's item-item matrices know these rows
            return np.asarray(model.score_rows(rows), np.float64)
        return model.score(rows.features, rows.ints)

    def _score_at(self, fitted: Fitted, lag_us: int) -> Scores:
        late = self.late(lag_us)
        ints = fitted.data.inputs.ints_of(self.layout, late.user_ints[self.split.test], late.item_ints[self.split.test])
        return fitted.ranker.score(late.features[self.split.test], ints)

    def _floor(self, model: str) -> Scores:
        rows, split = self.examples, self.split
        if model == "constant":
            return baselines.constant(rows.label[split.fit], int(split.test.sum()))
        rate = float(rows.label[split.fit].mean())
        return baselines.streaming_item_mean(rows.item_id, rows.time_us, rows.label, rate)[split.test]

    def _data(self, trial: Trial) -> tuple[TrainData, Rows]:
        """The same for all models of the same columns."""
        columns = replace(trial, model="", seed=0)
        if columns not in self._prepared:
            layout = layout_of(variant(self.usecase, trial), self.revision)
            examples = self.late(trial.lag_us)
            if trial.hidden:
                examples = without_attributes(layout, examples, trial.hidden)
            with threadpool_limits(self.threads):
                data, test = train_data(layout, examples, self.split, groups=trial.groups, log=self.log)
            if trial.encode == "none":
                data = replace(data, inputs=replace(data.inputs, codes=()))
            self._prepared[columns] = data, test
        return self._prepared[columns]

    def late(self, lag_us: int) -> Examples:
        """The rows with features as they were `lag_us` before each: what a store that is so far behind would serve.

        User and item columns are those of time - lag, windows and recency included, as a store keeps them that wrote
        its values then. What the request itself brings (device, surface, country) is never late.
        """
        if lag_us == 0:
            return self.examples
        if lag_us not in self._lagged:
            rows, layout = self.examples, self.layout
            queries = Queries.of(rows.user_id, rows.item_id, rows.time_us - lag_us)
            filled = backfill(layout, self.log.events, self.log.users, self.log.items, queries)
            user_ints = filled.user_ints
            for place in layout.context_ints:
                user_ints[:, place.start] = rows.user_ints[:, place.start]
            self._lagged[lag_us] = replace(
                rows, features=filled.features, user_ints=user_ints, item_ints=filled.item_ints
            )
        return self._lagged[lag_us]

    def _kept(self, what: str, trial: Trial, make: Callable[[], Scores]) -> Scores:
        """From memory, from the folder, or made."""
        if (what, trial) not in self._scores:
            self._scores[what, trial] = self._from_folder(what, trial, make)
            self.told.advance(1)
        return self._scores[what, trial]

    def _from_folder(self, what: str, trial: Trial, make: Callable[[], Scores]) -> Scores:
        if self.kept is None:
            return make()
        told = json.dumps([what, self.key, asdict(trial)], sort_keys=True)
        path = self.kept / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.npy"
        if path.exists():
            return np.asarray(np.load(path, allow_pickle=False), np.float64)
        scores = make()
        self.kept.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part.npy")
        np.save(aside, scores)
        aside.replace(path)
        return scores

    @cached_property
    def key(self) -> str:
        """Of rows, split, use case and code."""
        split = (self.split.valid_from_us, self.split.test_from_us, int(self.split.fit.sum()))
        return f"{self.examples.digest()} {split} {self.usecase.model_dump_json()} {code_digest(_CODE)}"


def variant(usecase: UseCase, trial: Trial) -> UseCase:
    """The use case with the trial's way to tell categories and what is missing."""
    if trial.encode in (None, "none") and trial.missing is None:
        return usecase
    features: list[Any] = []
    for feature in usecase.features:
        if isinstance(feature, Attribute | ContextCode):
            number = usecase.encodings[feature.name].kind == "number"
            changed: dict[str, Any] = {}
            if trial.encode not in (None, "none") and not number:
                changed["encode"] = trial.encode
            if trial.missing is not None:
                own = "own_code" if trial.missing == "indicator" else None
                changed["missing"] = own if not number else None if trial.missing == "default" else trial.missing
            feature = feature.model_copy(update=changed)
        features.append(feature)
    return usecase.model_copy(update={"features": tuple(features)})


def missing_share(study: Study) -> float:
    """Share of the rows' attribute cells that say nothing: numbers at their default, categories without a code."""
    layout, rows = study.layout, study.examples
    absent = [
        (rows.features[:, column] == np.float32(feature.default)).mean()
        for feature, column, _ in _attributes(layout)
        if column is not None
    ]
    ints = {"user": rows.user_ints, "item": rows.item_ints}
    absent += [
        (ints[feature.of][:, codes] == 0).all(axis=1).mean() for feature, _, codes in _attributes(layout) if codes
    ]
    return float(np.mean(absent)) if absent else 0.0


def without_attributes(layout: Layout, examples: Examples, share: float) -> Examples:
    """The rows as if nothing but their history were known of `share` of the users and of the items, the same ones in
    every row: numbers at their default, categories at code 0.
    """
    features, ints = examples.features.copy(), {"user": examples.user_ints.copy(), "item": examples.item_ints.copy()}
    ids = {"user": examples.user_id, "item": examples.item_id}
    for feature, column, codes in _attributes(layout):
        # Fibonacci hashing: the same ids in every run, spread evenly.
        hidden = (ids[feature.of] * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) < np.uint64(int(share * 2**24))
        if column is not None:
            features[hidden, column] = feature.default
        ints[feature.of][np.ix_(np.flatnonzero(hidden), np.array(codes, np.intp))] = 0
    return replace(examples, features=features, user_ints=ints["user"], item_ints=ints["item"])


def _attributes(layout: Layout) -> list[tuple[Attribute, int | None, list[int]]]:
    """Each attribute with the place of its float column, or the places of its codes among its side's int columns."""
    found = []
    for feature in layout.usecase.features:
        if isinstance(feature, Attribute):
            names = layout.user_int_names if feature.of == "user" else layout.item_int_names
            slot = re.compile(rf"{feature.name}(_\d+)?")
            column = layout.feature_names.index(feature.name) if feature.name in layout.feature_names else None
            found.append((feature, column, [place for place, name in enumerate(names) if slot.fullmatch(name)]))
    return found


def code_digest(packages: Sequence[str]) -> str:
    """sha256 of the modules of some packages of `pipelines`, in hex: what is kept is of this code."""
    root = Path(pipelines.__file__).parent
    state = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).glob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()
