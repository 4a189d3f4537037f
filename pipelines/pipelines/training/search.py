"""Hyper-parameters by Optuna: seeded, judged on validation rows only; the winner is refitted on three seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import optuna
from definitions.layout import layout_of
from definitions.usecase import UseCase
from optuna.storages.journal import JournalFileBackend
from threadpoolctl import threadpool_limits

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.split import split_times
from pipelines.errors import TrainingError
from pipelines.evaluation.metrics import evaluate, log_loss
from pipelines.progress import SILENT, Progress
from pipelines.training import trees, xgb
from pipelines.training.examples import Log, build_examples
from pipelines.training.ranker import Rows, RowsRanker, TrainData, train_data

SEEDS: Final = (0, 1, 2)
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """The best parameters of `trials`; `valid_logloss` of the winner; figures of the test rows, means over three seeds,
    with the parameters that were there `before` and those `after` the search.
    """

    model: str
    trials: int
    parameters: Mapping[str, Any]
    valid_logloss: float
    before: Mapping[str, float]
    after: Mapping[str, float]


def _lightgbm(trial: optuna.Trial) -> Parameters:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.1, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 8, 63, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 20, 400, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 50.0, log=True),
    }


def _xgboost(trial: optuna.Trial) -> Parameters:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.1, log=True),
        "max_depth": trial.suggest_int("max_depth", 3, 8),
        "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 100.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.3, 1.0),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 50.0, log=True),
    }


@dataclass(frozen=True)
class _Space:
    fit: Callable[..., RowsRanker]
    defaults: Mapping[str, Any]
    suggest: Callable[[optuna.Trial], Parameters]


SPACES: Final[Mapping[str, _Space]] = {
    "lightgbm": _Space(cast(Callable[..., RowsRanker], trees.fit), trees.PARAMETERS, _lightgbm),
    "xgboost": _Space(cast(Callable[..., RowsRanker], xgb.fit), xgb.PARAMETERS, _xgboost),
}


def search(
    usecase: UseCase,
    dataset: Dataset,
    model: str,
    *,
    trials: int,
    kept: Path,
    seed: int = 0,
    threads: int = 1,
    progress: Progress = SILENT,
) -> Found:
    """Look for better parameters; a search that was cut off goes on, since each trial is kept as it ends.

    Args:
        usecase: features and label.
        dataset: its interactions.
        model: one of SPACES.
        trials: in all, earlier ones of the same search included.
        kept: folder of the trials.
        seed: of the sampler (TPE) and of each trial's training.
        threads: of the trainer.
        progress: is told each trial.

    Raises:
        TrainingError: the model has no parameters to search.
    """
    if model not in SPACES:
        raise TrainingError(f"--model {model}: nothing to search; use one of {', '.join(SPACES)}")
    space, layout, log = SPACES[model], layout_of(usecase), Log.of_dataset(dataset)
    progress.stage("build examples")
    examples = build_examples(layout, log)
    split = split_times(examples.time_us, gap_us=usecase.attribution_us)
    kept.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(threads):
        data, test = train_data(layout, examples, split, log=log, progress=progress)
        name = f"{model} {examples.digest()} {seed}"
        progress.stage(f"search {model}", trials)
        study = _studied(space, data, kept / "search.log", name, trials, seed, threads, progress)
        progress.stage("refit on three seeds", 2 * len(SEEDS))
        chosen = {**space.defaults, **study.best_params}
        figures = [_measured(space, data, test, settings, threads, progress) for settings in (space.defaults, chosen)]
    return Found(model, len(study.trials), study.best_params, study.best_value, *figures)


def _studied(
    space: _Space, data: TrainData, path: Path, name: str, trials: int, seed: int, threads: int, progress: Progress
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))

    def objective(trial: optuna.Trial) -> float:
        settings = {**space.defaults, **space.suggest(trial)}
        fitted = space.fit(data, seed=seed, threads=threads, progress=SILENT, parameters=settings)
        progress.advance(1)
        return log_loss(data.valid.label, fitted.score_rows(data.valid))

    def begun(done: int) -> optuna.Study:
        # The sampler draws by its seed and the number of trials so far, so a search that goes on is still seeded.
        sampler = optuna.samplers.TPESampler(seed=seed + done)
        return optuna.create_study(study_name=name, storage=storage, sampler=sampler, load_if_exists=True)

    done = len(begun(0).trials)
    progress.advance(min(done, trials))
    study = begun(done)
    if done < trials:
        study.optimize(objective, n_trials=trials - done)
    return study


def _measured(
    space: _Space, data: TrainData, test: Rows, settings: Mapping[str, Any], threads: int, progress: Progress
) -> Mapping[str, float]:
    found: list[Mapping[str, float | None]] = []
    for seed in SEEDS:
        model = space.fit(data, seed=seed, threads=threads, progress=SILENT, parameters=settings)
        found.append(evaluate(test.label, model.score(test.features, test.ints), test.user_id).as_dict())
        progress.advance(1)
    return {name: _mean([each[name] for each in found]) for name in ("auc", "gauc", "logloss", "ndcg_at_10")}


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([np.nan if value is None else value for value in values]))
