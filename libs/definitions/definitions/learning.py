"""How a use case is learned: task, label, objective, heads, negatives, models. Nothing here changes a stored byte."""

from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from definitions.features import ActionSet, DurationUs, Spec

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
MetricName = Literal[
    "auc", "gauc", "logloss", "normalised_ce", "ece", "calibration", "ndcg_at_10", "recall_at_10", "precision_at_10",
    "hit_at_10", "map_at_10", "mrr_at_10", "mae", "rmse",
]  # fmt: skip
ModelName = Literal[
    "constant", "popularity", "item_mean", "itemknn", "ease", "ials", "two_tower", "lr", "lr_one_hot", "lr_hashed",
    "lightgbm", "xgboost", "lambdarank", "fm", "dcn_v2", "dlrm", "sequence",
]  # fmt: skip
ObjectiveName = Literal["cross_entropy", "pairwise", "lambdarank", "in_batch_softmax", "mse", "mae"]

OF_REGRESSION: Final = frozenset({"mse", "mae"})
_ERRORS: Final = frozenset({"mae", "rmse"})


class Task(Spec):
    """The machine-learning task, and the metrics that decide."""

    type: Literal["classification", "regression", "ranking"] = "classification"
    primary: MetricName = "gauc"
    guards: tuple[MetricName, ...] = ("auc", "logloss", "calibration")

    @model_validator(mode="after")
    def _metrics_fit(self) -> Self:
        wanted = self.type == "regression"
        for where, names in (("primary", (self.primary,)), ("guards", self.guards)):
            for name in names:
                if (name in _ERRORS) != wanted:
                    some = "mae, rmse" if wanted else "gauc, auc, logloss or ndcg_at_10"
                    raise ValueError(f"{where}: {name} is no metric of a {self.type}; use {some}")
        return self


class Target(Spec):
    """Which events are examples and what they are worth; empty: from the actions' labels.

    An example whose action can be positive itself (a rating) says so at once. Any other (a view, a shown item) is
    positive if a positive event of the same user and item follows within `window`, and negative once that has closed.
    """

    examples: tuple[Name, ...] = ()
    positive: ActionSet = Field(default={})
    value: Name | None = Field(default=None, description="Regression: the action whose value is predicted.")
    window_us: DurationUs = Field(
        default=1_800_000_000, alias="window", description="Attribution: how long a label may take."
    )


class Objective(Spec):
    """What training minimises. `logq`: an in-batch softmax corrects for how often an item is drawn."""

    name: ObjectiveName = "cross_entropy"
    logq: bool = True

    @model_validator(mode="after")
    def _option_fits(self) -> Self:
        if "logq" in self.model_fields_set and self.name != "in_batch_softmax":
            raise ValueError(f"logq is an option of in_batch_softmax, not of {self.name}; remove it")
        return self


def objective_of(value: object) -> object:
    """`mse`, and `in_batch_softmax: {logq: true}`."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1 and "name" not in value:
        ((name, options),) = value.items()
        return {"name": name, **(options or {})} if isinstance(options, dict | None) else value
    return value


class Head(Spec):
    """One thing that a multi-head model predicts of each example, and its weight in the served score.

    A probability that an event of `positive` follows (by default: the action of the head's name); or, where `value`
    names an action, that action's value, 0 if it does not follow.
    """

    weight: float = 1.0
    positive: ActionSet = Field(default={})
    value: Name | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.positive and self.value is not None:
            raise ValueError("give either `positive` (a probability) or `value` (a regression)")
        return self


def head_of(value: object) -> object:
    """`5` is the weight alone."""
    return {"weight": value} if isinstance(value, int | float) else value


class Negatives(Spec):
    """Where negative examples come from.

    `events`: examples that are not positive. `impressions`: shown items that got no positive event. `uniform`,
    `popularity`: `per_positive` items a positive, from the catalogue or as often as they had events so far.
    `in_batch`: none, the model takes the other positives of its batch. `keep`: the share of the first two that training
    takes, undone by p = q / (q + (1 - q) / keep).
    """

    source: Literal["events", "impressions", "in_batch", "uniform", "popularity"] = "events"
    keep: float = Field(default=1.0, gt=0, le=1)
    per_positive: int = Field(default=4, ge=1, le=1000)

    @model_validator(mode="after")
    def _option_fits(self) -> Self:
        sampled = self.source in ("uniform", "popularity")
        if "per_positive" in self.model_fields_set and not sampled:
            raise ValueError(f"per_positive is an option of uniform and popularity, not of {self.source}; remove it")
        if self.keep < 1 and self.source not in ("events", "impressions"):
            raise ValueError(f"keep is an option of events and impressions, not of {self.source}; remove it")
        return self


class Models(Spec):
    """Models to train, simplest first, and the one of the `LOCAL_MODEL` rung."""

    ladder: tuple[ModelName, ...] = ("lr", "lightgbm")
    fallback: ModelName = "lr"

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for name in self.ladder:
            if self.ladder.count(name) > 1:
                raise ValueError(f"ladder: {name!r} is there twice; remove one")
        if self.fallback not in self.ladder:
            raise ValueError(f"fallback {self.fallback!r} is not on the ladder; add it there")
        return self


def models_of(value: object) -> object:
    """`[popularity, lr, dcn_v2]` is the ladder alone."""
    return {"ladder": value} if isinstance(value, list) else value


ObjectiveField = Annotated[Objective, BeforeValidator(objective_of)]
HeadField = Annotated[Head, BeforeValidator(head_of)]
ModelsField = Annotated[Models, BeforeValidator(models_of)]


def check_objective(task: Task, objective: Objective, target: Target) -> None:
    """Task, objective and label must be about the same thing; ValueError with the field otherwise."""
    regression = task.type == "regression"
    if (objective.name in OF_REGRESSION) != regression:
        fitting = "mse or mae" if regression else "cross_entropy, pairwise, lambdarank or in_batch_softmax"
        raise ValueError(f"objective: {objective.name} does not fit task.type {task.type}; use {fitting}")
    if regression and target.value is None:
        raise ValueError("label.value: a regression needs the action whose value is predicted, such as `value: rate`")
