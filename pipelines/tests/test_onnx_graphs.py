"""Exported graphs score as the models do."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bundle import OnnxScorer
from bundle.admission import check_graph
from pipelines.errors import ParityError, TrainingError
from pipelines.export.graphs_linear import export_linear
from pipelines.export.graphs_trees import export_trees
from pipelines.export.parity import compare
from pipelines.training import trees
from pipelines.training.encoding import Encoder, OneHot
from pipelines.training.inputs import Inputs
from pipelines.training.linear import fit_calibration, fit_linear, sigmoid
from pipelines.training.trees import fit_trees

Matrix = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
NAMES = ("tail", "huge", "flat", "noise")


ENCODER = Encoder(
    Inputs.of_names(NAMES, ("code_0", "code_1")), (OneHot("code", np.array([0, 1]), np.array([3, 2**33])),)
)
NO_INTS = np.empty((0, 0), np.int64)


def world(n: int, seed: int) -> tuple[Matrix, npt.NDArray[np.int64], Labels]:
    """Features with a long tail, values beyond 2^24 and a constant; codes beyond 32 bits; labels that use all."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    features[:, 0] = rng.lognormal(1, 2, n)
    features[:, 1] = rng.integers(0, 2**30, n)
    features[:, 2] = 5
    ints = rng.choice(np.array([0, 3, 2**33, 99]), (n, 2))
    logit = np.log1p(features[:, 0]) - 2 + (features[:, 1] > 2**29) + 2 * (ints == 3).any(axis=1) - 1
    return features, ints, (logit + rng.logistic(size=n) > 0).astype(np.int64)


@pytest.fixture(scope="module")
def data() -> dict[str, tuple[Matrix, npt.NDArray[np.int64], Labels]]:
    return {"fit": world(3000, 0), "valid": world(500, 1), "test": world(2000, 2)}


def rows(data: tuple[Matrix, npt.NDArray[np.int64], Labels]) -> tuple[Matrix, Labels]:
    return ENCODER.expand(data[0], data[1]), data[2]


def test_logistic_regression(data: dict[str, tuple[Matrix, npt.NDArray[np.int64], Labels]], tmp_path: Path) -> None:
    """Encoding, logarithms, steps and calibration are inside the graph."""
    model = fit_linear(rows(data["fit"]), rows(data["valid"]), numbers=4).calibrated(1.1, -0.05)
    export_linear(model, ENCODER, tmp_path / "m.onnx")
    features, ints, labels = data["test"]
    check_graph(tmp_path / "m.onnx")

    scores = OnnxScorer(tmp_path / "m.onnx").score(features, ints)

    compare("lr", model.score(ENCODER.expand(features, ints)), scores, np.zeros(len(labels), np.uint64))
    assert np.abs(scores - labels).mean() < 0.4


def test_boosted_trees_with_values_that_float32_cannot_tell_apart(
    data: dict[str, tuple[Matrix, npt.NDArray[np.int64], Labels]], tmp_path: Path
) -> None:
    """LightGBM's thresholds are doubles: rounded to nearest, values beyond 2^24 fall on the wrong side."""
    model = fit_trees(rows(data["fit"]), rows(data["valid"]), ENCODER.names).calibrated(0.9, 0.1)
    export_trees(model, ENCODER, tmp_path / "m.onnx")
    features, ints, labels = data["test"]
    check_graph(tmp_path / "m.onnx")
    scorer = OnnxScorer(tmp_path / "m.onnx")

    compare(
        "trees",
        model.score(ENCODER.expand(features, ints)),
        scorer.score(features, ints),
        np.zeros(len(labels), np.uint64),
    )
    for n in (1, 7, 512):
        np.testing.assert_array_equal(scorer.score(features, ints)[:n], scorer.score(features[:n], ints[:n]))


def test_boosted_trees_on_the_very_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that lie on a threshold, one float32 step below it and one above, go where LightGBM sends them."""
    monkeypatch.setattr(trees, "MAX_TREES", 30)
    rng = np.random.default_rng(3)
    x = rng.integers(2**25, 2**26, (4000, 1)).astype(np.float32)
    y = ((x[:, 0] % 977) > 488).astype(np.int64)
    encoder = Encoder(Inputs.of_names(("x",)))
    model = fit_trees((x, y), (x, y), ("x",))
    export_trees(model, encoder, tmp_path / "m.onnx")
    said = re.findall(r"^threshold=(.*)$", model.booster.model_to_string(), re.MULTILINE)
    edges = np.unique(" ".join(said).split()).astype(np.float32)
    probe = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf))])[
        :, None
    ]

    scores = OnnxScorer(tmp_path / "m.onnx").score(probe)

    assert np.abs(model.score(probe) - scores).max() < 1e-5


def test_boosted_trees_read_nan_as_lightgbm_does(
    data: dict[str, tuple[Matrix, npt.NDArray[np.int64], Labels]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assembly gives no NaN; should one come, the graph still agrees with the model."""
    monkeypatch.setattr(trees, "MAX_TREES", 30)
    features, ints, labels = data["fit"]
    holed = np.where(np.random.default_rng(4).random(features.shape) < 0.2, np.float32(np.nan), features)
    for train_on in (features, holed):
        x = ENCODER.expand(train_on, ints), labels
        model = fit_trees(x, x, ENCODER.names)
        export_trees(model, ENCODER, tmp_path / "m.onnx")

        scores = OnnxScorer(tmp_path / "m.onnx").score(holed, ints)

        assert np.abs(model.score(ENCODER.expand(holed, ints)) - scores).max() < 1e-5


def test_a_split_that_the_graph_cannot_say_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """zero_as_missing scored 74 % of rows wrongly in a converter, so it is not exported at all."""
    monkeypatch.setitem(trees.PARAMETERS, "zero_as_missing", True)
    x = np.random.default_rng(0).normal(size=(1000, 1)).astype(np.float32)
    y = (x[:, 0] > 0.3).astype(np.int64)
    with pytest.raises(TrainingError, match="zero_as_missing"):
        export_trees(fit_trees((x, y), (x, y), ("x",)), Encoder(Inputs.of_names(("x",))), tmp_path / "m.onnx")


def test_parity_refuses_what_is_off() -> None:
    """Too far, swapped, or not finite."""
    reference, users = np.array([0.1, 0.2]), np.zeros(2, np.uint64)
    for scores, said in (([0.1, 0.21], "differs"), ([0.1, np.nan], "not finite")):
        with pytest.raises(ParityError, match=said):
            compare("m", reference, np.array(scores, np.float32), users)
    with pytest.raises(ParityError, match="1 flips"):
        compare("m", np.array([0.1, 0.100006]), np.array([0.100004, 0.100003]), users)


def test_calibration_undoes_a_known_distortion() -> None:
    """Platt finds slope 2 and shift 1."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    labels = (rng.random(20_000) < sigmoid(2 * logits + 1)).astype(np.int64)

    assert fit_calibration(logits, labels) == pytest.approx((2, 1), abs=0.15)
