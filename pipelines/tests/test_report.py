"""The whole report on a small synthetic world: every section is there, figures are those of the scores, nothing is
fetched; and what is kept is not trained again."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from definitions.usecase import find_usecase
from pipelines.datasets import build_dataset
from pipelines.datasets.synthetic import synthetic_world
from pipelines.evaluation import ablation
from pipelines.evaluation import study as trials
from pipelines.evaluation.ablation import HOUR_US, LAGS
from pipelines.evaluation.metrics import auc
from pipelines.evaluation.page import render, write_page
from pipelines.evaluation.report import Report, build_report
from pipelines.evaluation.study import Study, Trial, without_attributes
from pipelines.progress import SILENT
from pipelines.training.examples import Log
from pipelines.training.inputs import BASE
from servicekit.settings import checkout_root


def _study(kept: Path | None) -> Study:
    usecase = find_usecase("movies", checkout_root() / "usecases")
    world = build_dataset(usecase, synthetic_world(users=50, items=50, events=900, seed=2))
    return Study(usecase, Log.of_dataset(world), kept=kept)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def study(kept: Path) -> Study:
    return _study(kept)


@pytest.fixture(autouse=True, scope="module")
def no_torch() -> Iterator[None]:
    """The same questions wherever the tests run, and seconds less; `tests/deep` asks about embeddings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "lacking", lambda name: f"{name} needs PyTorch")
        yield


@pytest.fixture(scope="module")
def report(study: Study) -> Report:
    return build_report(study, licence="made up", models=("lr",), off_policy="none", progress=SILENT)


def test_the_page_has_every_section_and_fetches_nothing(report: Report, tmp_path: Path) -> None:
    """One file: pictures inside, no script, no address that a browser would load."""
    write_page(report, tmp_path / "reports" / "movies.html", commit="abc")
    page = (tmp_path / "reports" / "movies.html").read_text()

    titles = set(re.findall(r"<h2>(.*?)</h2>", page))
    assert {"Can its probabilities be believed?", "For whom does it work?", "Freshness of features"} <= titles
    assert {"Groups of features", "Categorical columns", "Missing values", "What does it look at?", "Limits"} <= titles
    assert page.count("<svg") >= 9
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']http""", page)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)


def test_figures_are_those_of_the_scores(report: Report, study: Study) -> None:
    """The page, `--json` and the metric's own function say the same."""
    told = report.as_dict()
    scores = study.scores(Trial("lr", study.groups))

    assert auc(study.labels, scores) == pytest.approx(told["models"]["lr"]["auc"])
    assert f"{told['models']['lr']['auc']:.4f}" in render(report)
    assert told["models"]["lr"]["auc_lo"] < told["models"]["lr"]["auc"] < told["models"]["lr"]["auc_hi"]
    assert {"groups", "categories", "missing", "freshness"} == set(told["ablations"])
    assert [*LAGS, "1 h, retrained"] == list(told["ablations"]["freshness"])


@pytest.mark.parametrize(
    ("lr", "one_hot", "best"),
    [("labels", "zeros", "lr"), ("by user", "labels but for a few", "lr_one_hot")],
    ids=["primary", "guard"],
)
def test_the_best_model_is_chosen_on_validation_rows(
    study: Study, monkeypatch: pytest.MonkeyPatch, lr: str, one_hot: str, best: str
) -> None:
    """Whatever the test rows say: who chooses by them reports luck. Who orders each user's items best, yet not the
    users' items among each other, loses a guard and is not chosen.
    """
    valid = study.split.valid
    label, users = study.examples.label[valid], study.examples.user_id[valid]
    slip = label.astype(float)
    slip[np.flatnonzero(label)[0]] = 0.0
    scores = {
        "labels": label.astype(float),
        "zeros": np.zeros(len(label)),
        "by user": (label + 2.0 * (users % np.uint64(7)).astype(float)) / 14,
        "labels but for a few": slip,
    }
    monkeypatch.setattr(Study, "valid_scores", lambda _, trial: scores[{"lr": lr, "lr_one_hot": one_hot}[trial.model]])

    found = build_report(study, licence="", models=("lr", "lr_one_hot"), off_policy="none", progress=SILENT)

    assert best == found.best.trial.model


def test_a_reader_learns_what_the_columns_are(report: Report) -> None:
    """Each column that a plot names is said in words below it."""
    page = render(report)

    for name, _ in report.explained.importance[:12]:
        assert f"<dt><code>{name}</code></dt>" in page
    assert "Embeddings need PyTorch (make deep)" in page


def test_names_of_the_data_cannot_become_markup(report: Report) -> None:
    """What a loader says is text."""
    assert "<b>bold" not in render(replace(report, licence="<b>bold</b>"))


def test_late_features_are_those_of_an_earlier_time(study: Study) -> None:
    """At lag 0 the rows' own; an hour late they differ, and know no event of that hour."""
    fresh, late = study.late(0), study.late(HOUR_US)
    counts = study.layout.feature_names.index("u_rated_all")

    assert fresh is study.examples
    assert (late.features[:, counts] <= fresh.features[:, counts]).all()
    assert (late.features[:, counts] < fresh.features[:, counts]).any()
    np.testing.assert_array_equal(fresh.label, late.label)


def test_kept_scores_are_not_made_again(study: Study, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run reads them; another seed, or another code, trains."""
    trial = Trial("lr", (BASE,))
    first = study.scores(trial)
    again = _study(kept)
    monkeypatch.setattr(trials, "ranker", lambda name: pytest.fail(f"{name} was trained again"))

    np.testing.assert_array_equal(first, again.scores(trial))
    with pytest.raises(pytest.fail.Exception, match="lr was trained again"):
        again.scores(replace(trial, seed=1))


def test_hidden_attributes_are_those_of_the_same_people_in_every_row(study: Study) -> None:
    """About the share that was asked for; all rows of a user lose them, or none; history stays."""
    rows, layout = study.examples, study.layout
    hidden = without_attributes(layout, rows, 0.3)
    age, rated = layout.feature_names.index("u_age"), layout.feature_names.index("u_rated_all")
    gone = hidden.features[:, age] != rows.features[:, age]
    by_user = [gone[rows.user_id == user] for user in np.unique(rows.user_id)]

    assert all(each.all() or not each.any() for each in by_user)
    assert 0.1 < np.mean([each.any() for each in by_user]) < 0.5
    np.testing.assert_array_equal(rows.features[:, rated], hidden.features[:, rated])
