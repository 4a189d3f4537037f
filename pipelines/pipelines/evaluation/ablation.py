"""The questions that the report answers by trials: which columns, encodings, missing values, and how fresh."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.evaluation.intervals import Bootstrap, Interval
from pipelines.evaluation.study import Encode, Missing, Scores, Study, Trial, missing_share
from pipelines.training.inputs import BASE, HISTORY, RELATIVE
from pipelines.training.ranker import lacking

METRICS = ("auc", "gauc", "logloss", "ndcg_at_10", "normalised_ce", "calibration", "ece")
HIDDEN = 0.3
MODEL_TITLES = {
    "constant": "Constant (base rate)",
    "item_mean": "Item mean so far",
    "lr": "Logistic regression",
    "lr_one_hot": "Logistic regression, ids one-hot",
    "lr_hashed": "Logistic regression, ids hashed",
    "lightgbm": "LightGBM",
    "xgboost": "XGBoost",
    "lambdarank": "LambdaRank",
    "fm": "Factorization machine",
    "dcn_v2": "DCN-v2",
    "dlrm": "DLRM",
    "sequence": "Sequence model",
    "two_tower": "Two towers",
}
LAGS = {
    "none": 0,
    "10 s": 10_000_000,
    "1 min": 60_000_000,
    "10 min": 600_000_000,
    "1 h": 3_600_000_000,
    "1 day": 86_400_000_000,
}
HOUR_US = LAGS["1 h"]


@dataclass(frozen=True)
class Alternative:
    """One row of a table: its trial, its metrics, and what it gains over the table's first row (paired)."""

    label: str
    trial: Trial
    metrics: dict[str, Interval]
    gain: dict[str, Interval] | None


@dataclass(frozen=True)
class Table:
    """A question, its alternatives on the same rows, and what must be said with them."""

    name: str
    title: str
    question: str
    note: str
    rows: tuple[Alternative, ...]


@dataclass(frozen=True)
class Question:
    """A table before it is computed."""

    name: str
    title: str
    question: str
    note: str
    trials: Sequence[tuple[str, Trial]]


def questions(study: Study) -> Iterator[Question]:
    """Those that this use case's columns allow."""
    titles = {BASE: "base", RELATIVE: "+ relative to other ratings", HISTORY: "+ item-item history"}
    groups = study.groups
    steps = [groups[: i + 1] for i in range(len(groups))]
    models = [("lr", "Logistic regression"), ("lightgbm", "LightGBM")]
    if len(steps) > 1:
        yield Question(
            "groups", "Groups of features", "What do richer features add?",
            "Each step keeps the columns of the one before. Gains are against the first row of the same model.",
            [(f"{title}, {titles[step[-1]]}", Trial(name, step)) for name, title in models for step in steps],
        )  # fmt: skip
    base = (BASE,)
    kinds = {each.kind for each in study.usecase.encodings.values()}
    if "category" in kinds:
        ways: list[tuple[str, Encode]] = [("left out", "none"), ("one-hot", "one_hot"), ("hashed", "hashing")]
        rows = [(f"{title}, {label}", Trial(name, base, encode=way)) for name, title in models for label, way in ways]
        rows.append(("LightGBM, native sets of codes", Trial("lightgbm", base, encode="native")))
        note = "Base columns only. Hashing differs from one-hot only where two codes share a weight."
        if lacking("dcn_v2"):
            note += " Embeddings need PyTorch (make deep), which is not installed here."
        else:
            deep: list[tuple[str, Encode]] = [("left out", "none"), ("embeddings", "embedding")]
            rows += [(f"DCN-v2, {label}", Trial("dcn_v2", base, encode=way)) for label, way in deep]
        yield Question(
            "categories", "Categorical columns", "How should categories (genre, occupation) be told to a model?",
            note, rows,
        )  # fmt: skip
    if kinds:
        policies: list[tuple[str, Missing]] = [
            ("declared default", "default"),
            ("default and an indicator", "indicator"),
            ("median of training", "train_median"),
        ]
        rows = [
            (f"{title}, {label}", Trial(name, base, missing=policy, hidden=HIDDEN))
            for name, title in models
            for label, policy in policies
        ]
        rows.append(("LightGBM, NaN as it is", Trial("lightgbm", base, missing="native_nan", hidden=HIDDEN)))
        yield Question(
            "missing", "Missing values", "What if attributes of users and items are missing?",
            f"A stress test: beyond the {missing_share(study):.1%} of attributes that the data really miss, those of "
            f"{HIDDEN:.0%} of the users and of the items were hidden, in training and test. Base columns only.", rows,
        )  # fmt: skip


def answer(study: Study, question: Question, seed: int = 0) -> Table:
    """All alternatives on the test rows; gains are against the first row of the same model."""
    scores = [(label, trial, study.scores(trial)) for label, trial in question.trials]
    first: dict[str, Scores] = {}
    rows = []
    for label, trial, score in scores:
        against = first.setdefault(trial.model, score)
        rows.append(compared(study, label, trial, score, None if against is score else against, seed=seed))
    return Table(question.name, question.title, question.question, question.note, tuple(rows))


def compared(
    study: Study, label: str, trial: Trial, scores: Scores, against: Scores | None, *, seed: int = 0
) -> Alternative:
    """Metrics with intervals of the test rows' scores, and their gains over `against`."""
    drawn = Bootstrap(study.users, seed=seed)
    metrics = {name: drawn.interval(name, study.labels, scores) for name in METRICS}
    gain = None
    if against is not None:
        gain = {name: drawn.difference(name, study.labels, scores, against) for name in ("auc", "gauc", "logloss")}
    return Alternative(label, trial, metrics, gain)


def freshness(study: Study, model: str = "lightgbm", seed: int = 0) -> Table:
    """The same model with features that are late; and, for an hour, a model that was trained on late features."""
    fresh = Trial(model, study.groups)
    scores = study.scores(fresh)
    rows = [compared(study, "none", fresh, scores, None, seed=seed)]
    for label, lag_us in LAGS.items():
        if lag_us:
            late = study.scores_at_lag(fresh, lag_us)
            rows.append(compared(study, label, fresh, late, scores, seed=seed))
    retrained = Trial(model, study.groups, lag_us=HOUR_US)
    rows.append(compared(study, "1 h, retrained", retrained, study.scores(retrained), scores, seed=seed))
    return Table(
        "freshness", "Freshness of features", "What does it cost when features are late?",
        f"{MODEL_TITLES[model]}, all columns. Every column of the test rows was computed again as of t - lag, by the "
        "same point-in-time function as at t: what a feature store would serve that is so far behind. Labels, requests "
        "and the model stay the same; the last row's model was also trained on features of that age.", tuple(rows),
    )  # fmt: skip
