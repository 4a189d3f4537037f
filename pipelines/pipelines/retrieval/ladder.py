"""Retrieval models on one protocol: chosen on validation, measured on test, over several seeds with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.errors import TrainingError
from pipelines.evaluation.intervals import Bootstrap
from pipelines.evaluation.metrics import Vector
from pipelines.evaluation.ranking import full_ranking
from pipelines.progress import SILENT, Progress
from pipelines.retrieval.interactions import Csr, Held, Ids, check_held_out, interactions, split_users
from pipelines.retrieval.item_item import fit_ease, fit_item_knn
from pipelines.retrieval.popularity import fit_popularity
from pipelines.retrieval.towers import TwoTower

K: Final = 10
SEEDS: Final = (0, 1, 2)
CHOSEN_BY: Final = "ndcg"


class Retriever(Protocol):
    """A fitted model: what users did in, a score for each item of the catalogue out."""

    def scores(self, rows: Csr) -> npt.NDArray[np.float32]:
        """float32 (users, items) for csr (users, items); a pure function, higher is better."""
        ...


@dataclass(frozen=True)
class Recipe:
    """`fit(interactions, seed=…, **parameters)` and the parameters that validation chooses among.

    `refit`: what validation chose is fitted once more on fit and validation together, as it would be served, and
    measured beside the other; not where a training is dear.
    """

    fit: Callable[..., Retriever]
    grid: Sequence[Mapping[str, Any]] = ({},)
    refit: bool = True


def _ials(interactions: Csr, **parameters: Any) -> Retriever:
    from pipelines.retrieval.ials import fit_ials

    return fit_ials(interactions, **parameters)


def two_tower(interactions: Csr, **parameters: Any) -> TwoTower:
    """`fit_two_tower`. TrainingError where PyTorch is not installed."""
    try:
        from pipelines.deep.two_tower import fit_two_tower
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "torch":
            raise
        raise TrainingError("two_tower needs PyTorch, which is not installed; install it: make deep") from exc
    model: TwoTower = fit_two_tower(interactions, **parameters)
    return model


RETRIEVERS: Final[Mapping[str, Recipe]] = {
    "popularity": Recipe(fit_popularity),
    "itemknn": Recipe(
        fit_item_knn, [{"neighbours": k, "exponent": e} for k in (100, 200, 400) for e in (0.5, 0.6, 0.7)]
    ),
    "ease": Recipe(fit_ease, [{"ridge": ridge} for ridge in (100.0, 250.0, 500.0, 1000.0)]),
    "ials": Recipe(_ials, [{"ridge": ridge, "confidence": c} for ridge in (10.0, 20.0, 40.0) for c in (2.0, 3.0)]),
    "two_tower": Recipe(two_tower, refit=False),
}


@dataclass(frozen=True)
class Retrieval:
    """One model on one seed: per-user metrics on test, and what validation chose.

    `values` of the model that was fitted on the fit part only, the protocol's; `refitted` of the one that also knows
    validation, None where the recipe wants none.
    """

    values: Mapping[str, Vector]
    refitted: Mapping[str, Vector] | None
    parameters: Mapping[str, Any]
    valid: float
    model: Retriever = field(repr=False)


def fit_and_measure(recipe: Recipe, held: Held, *, k: int = K, seed: int = 0) -> Retrieval:
    """Fit each candidate on `held.fit`, keep the best on `held.valid`, measure it once on `held.test`.

    The model looks at `held.fit` only; lists for `held.test` leave out what is in `held.valid` too. The parameters of
    a refit are those, not chosen anew.

    Raises:
        LeakError: a held-out interaction is in the fitted matrix.
    """
    check_held_out(held.fit, held.valid, held.test)
    best: tuple[float, Mapping[str, Any], Retriever] | None = None
    for parameters in recipe.grid:
        model = recipe.fit(held.fit, seed=seed, **parameters)
        found = full_ranking(model.scores, held.fit, held.fit, held.valid, k=k, seed=seed)
        valid = float(np.nanmean(found[CHOSEN_BY]))
        if best is None or valid > best[0]:
            best = (valid, parameters, model)
    assert best is not None, "a grid has at least one entry"  # noqa: S101
    valid, parameters, model = best
    known, refitted = held.fit + held.valid, None
    values = full_ranking(model.scores, held.fit, known, held.test, k=k, seed=seed)
    if recipe.refit:
        again = recipe.fit(known, seed=seed, **parameters)
        refitted = full_ranking(again.scores, known, known, held.test, k=k, seed=seed)
    return Retrieval(values, refitted, parameters, valid, model)


def evaluate_retrieval(
    user_ids: Ids,
    item_ids: Ids,
    *,
    models: Sequence[str] = tuple(RETRIEVERS),
    seeds: Sequence[int] = SEEDS,
    k: int = K,
    progress: Progress = SILENT,
) -> dict[str, dict[str, float]]:
    """Every model of `models` on per-user random splits, one split and one training a seed.

    Args:
        user_ids, item_ids: uint64 (n,), one row an interaction, each a positive; repeats count once.
        models: names of RETRIEVERS.
        seeds: of splits, trainings and ties.
        k: length of the lists.
        progress: is told each model.

    Returns:
        model -> {`ndcg_at_10`, `recall_at_10`, `precision_at_10`, `hit_at_10`, `map_at_10`, `mrr_at_10`, each with
        `_lo` and `_hi`; `ndcg_at_10_over_popularity` with both, where popularity is among the models;
        `ndcg_at_10_refitted` with both, where the model was fitted again with validation}: the mean over seeds and
        users, and its 95 % bootstrap interval over users (a user's value is its mean over seeds).

    Raises:
        LeakError, TrainingError: the split cannot be trusted.
    """
    pairs = interactions(user_ids, item_ids)
    by_model: dict[str, list[dict[str, Vector]]] = {name: [] for name in models}
    for seed in seeds:
        held = split_users(pairs.matrix, seed=seed)
        for name in models:
            progress.stage(f"retrieval {name}, seed {seed}")
            one = fit_and_measure(RETRIEVERS[name], held, k=k, seed=seed)
            by_model[name].append({f"{metric}_at_{k}": value for metric, value in one.values.items()})
            if one.refitted is not None:
                by_model[name][-1][f"ndcg_at_{k}_refitted"] = one.refitted["ndcg"]
    bootstrap = Bootstrap(pairs.user_ids)
    means = {name: _by_user(values) for name, values in by_model.items()}
    floor = means.get("popularity")
    found: dict[str, dict[str, float]] = {}
    for name, figures in means.items():
        if floor is not None:
            figures[f"ndcg_at_{k}_over_popularity"] = figures[f"ndcg_at_{k}"] - floor[f"ndcg_at_{k}"]
        found[name] = {}
        for metric, value in figures.items():
            interval = bootstrap.of(bootstrap.mean(value), float(np.nanmean(value)))
            found[name] |= {metric: interval.value, f"{metric}_lo": interval.low, f"{metric}_hi": interval.high}
    return found


def _by_user(seeds: Sequence[Mapping[str, Vector]]) -> dict[str, Vector]:
    """Mean over seeds of each user's values; NaN where no seed held anything of it out."""
    found = {}
    for metric in seeds[0]:
        values = np.stack([each[metric] for each in seeds])
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            found[metric] = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    return found
