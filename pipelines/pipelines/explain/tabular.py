"""Exact contributions of models on one float matrix: coefficient times value, and SHAP of trees."""

import lightgbm
import numpy as np
import xgboost
from bundle.contributions import Contributions, Matrix, Vector

from pipelines.training.linear import LinearModel


def of_linear(model: LinearModel, names: tuple[str, ...], x: Matrix) -> Contributions:
    """Coefficient x value of each column of x float32 (n, M): its scaled value and its steps together.

    The base is the bias: a row of mean values that no step counts.
    """
    terms = model.inputs(x) * model.weights
    found = terms[:, : x.shape[1]].copy()
    np.add.at(found.T, model.step_columns, terms[:, x.shape[1] :].T)
    return Contributions(names, x, found, np.full(len(x), model.bias))


def of_trees(booster: lightgbm.Booster, trees: int, names: tuple[str, ...], x: Matrix) -> Contributions:
    """Exact SHAP values of the raw score (Lundberg et al., From Local Explanations to Global Understanding with
    Explainable AI for Trees, Nature MI 2020), by LightGBM; the base is the mean over the fit rows.
    """
    found = np.asarray(booster.predict(x, num_iteration=trees, pred_contrib=True), np.float64)
    return Contributions(names, x, found[:, :-1], found[:, -1])


def of_xgboost(booster: xgboost.Booster, names: tuple[str, ...], x: Matrix) -> Contributions:
    """The same by XGBoost, which adds in float32: sums are exact to about 1e-5."""
    found = np.asarray(booster.predict(xgboost.DMatrix(x), pred_contribs=True), np.float64)
    return Contributions(names, x, found[:, :-1], found[:, -1])


def calibrated(found: Contributions, slope: float, shift: float) -> Contributions:
    """Of the logit slope * raw + shift."""
    base: Vector = found.base * slope + shift
    return Contributions(found.names, found.values, found.contributions * slope, base)
