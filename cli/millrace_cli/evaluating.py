"""`millrace evaluate`: how good a bundle is, or with --report how good all models and their alternatives are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput
from millrace_cli.models import Usecase, Version, bundle_folder, metrics_table
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from pipelines.training.examples import Log

    from millrace_cli.settings import Settings

LAKE = "lake"
SOURCE_FIGURES = ("candidate_recall", "ndcg_at_10", "recall_at_10", "own_ndcg_at_10")
RETRIEVERS = ("popularity", "itemknn", "ease")  # what a minute buys; `millrace train --all` has them all
_OF_A_SET = (
    "This data set does not say how likely each logged choice was (no propensities), so nothing honest can be said of "
    "other policies on it; a stack that explores logs them."
)
_OF_A_LAKE = (
    "The archived impressions were all shown with propensity 1: nothing was left to chance, so what other policies "
    "would have earned cannot be estimated. Serve with exploration slots first."
)
_EXPLORED = (
    "{shown:,} archived impressions were shown by chance (propensity below 1); pipelines.evaluation.ope estimates "
    "other policies from them, this page compares models by their labels."
)
_ON_OPEN_BANDIT = (
    "How well the estimators do where the truth is known: Open Bandit small (ZOZO, Inc., CC BY 4.0), the click rate of "
    "one logging policy estimated from 10,000 choices of another, worth {ess:,.0f} of its own; its own log shows "
    "{truth:.5f}."
)


def evaluate(
    usecase: Usecase = None,
    version: Version = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="`lake`, what the stack archived; or a named set (ml-100k, synthetic, auto). By default the lake, for "
            "--report a named set where nothing was archived.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Train and compare models, ablations and lags; write an HTML page.")
    ] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="What Recommend finds and how it is ranked, by source of candidates.")
    ] = False,
    models: Annotated[
        str | None, typer.Option(help="With --report: models to compare, comma-separated, e.g. lr,lightgbm,dcn_v2.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure a bundle on the newest tenth of the data, point in time, beside the simplest models.

    With --report every alternative is trained on one split and measured with intervals: some minutes on 2 cores, and
    what is known is kept, so that a second run only adds what is new.
    """
    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    if models is not None and not report:
        raise BadInput("--models: only with --report")
    if sources and report:
        raise BadInput("--sources: measures one bundle; leave out --report")
    with Bars() as bars, environment.translated():
        if report:
            figures = report_on(settings, spec, dataset or _default_of_report(settings, spec, bars), models, bars)
        elif sources:
            figures = evaluate_sources_of(settings, spec, version, dataset or LAKE, bars)
        else:
            figures = evaluate_bundle(settings, spec, version, dataset or LAKE, bars)
    if json:
        output.emit(figures, home=settings.home)
    elif report:
        shown = {
            name: {key: each[key] for key in ("auc", "gauc", "logloss")} for name, each in figures["models"].items()
        }
        output.out.print(metrics_table(f"{figures['rows']['test']:,} test rows, split by time", shown))
        output.out.print(f"report: {figures['report']} ({figures['seconds']:.0f} s)", highlight=False)
    elif sources:
        shown = {name: {key: each[key] for key in SOURCE_FIGURES} for name, each in figures["sources"].items()}
        output.out.print(metrics_table(f"version {figures['version']}, {figures['users']} users asked once", shown))
    else:
        where = "the lake" if dataset in (None, LAKE) else dataset
        title = f"version {figures['version']} on {figures['rows']:,} rows, the newest tenth of {where}"
        output.out.print(metrics_table(title, figures["models"]))


def _default_of_report(settings: Settings, spec: UseCase, bars: Bars) -> str:
    """The lake where anything was archived; else a public set, so that the page can be seen without a stack."""
    from pipelines.datasets.load import AUTO

    lake, _ = environment.archive(settings, spec)
    if lake.version("interactions") is not None:
        return LAKE
    bars.note(f"{settings.lake}: nothing was archived yet, so this report is of a public data set (--dataset {AUTO})")
    return AUTO


def _log(settings: Settings, spec: UseCase, dataset: str, bars: Bars) -> tuple[Log, str]:
    """What is known, and the licence of it."""
    from pipelines.datasets import load_dataset
    from pipelines.training.examples import Log

    from pipelines import journal

    if dataset == LAKE:
        lake, _ = environment.archive(settings, spec)
        loaded = journal.read(settings.home, spec.name)
        return Log.of_lake(lake, spec.dedupe_offsets), journal.licence_of(loaded)
    found = load_dataset(dataset, spec, cache=settings.datasets, progress=bars)
    return Log.of_dataset(found), found.licence


def report_on(settings: Settings, spec: UseCase, dataset: str, models: str | None, bars: Bars) -> dict[str, Any]:
    """Write the page and give its figures. Raises the pipelines' errors."""
    from pipelines.evaluation.page import write_page
    from pipelines.evaluation.report import build_report
    from pipelines.evaluation.study import Study

    log, licence = _log(settings, spec, dataset, bars)
    study = Study(spec, log, kept=settings.reports / "evaluate" / "kept", revision=settings.revision)
    wanted = None if models is None else tuple(name.strip() for name in models.split(",") if name.strip())
    found = build_report(
        study,
        licence=licence,
        models=wanted,
        retrievers=RETRIEVERS,
        off_policy=_off_policy(settings, _OF_A_SET if dataset != LAKE else _explored(settings, spec)),
        progress=bars,
    )
    path = settings.reports / "evaluate" / f"{spec.name}.html"
    write_page(found, path, commit=output.commit() or "")
    return {**found.as_dict(), "report": str(path)}


def _off_policy(settings: Settings, said: str) -> dict[str, Any] | str:
    """What is said of this data, and the estimators where their truth is known; that alone where it cannot be had."""
    from pipelines.datasets.open_bandit import open_bandit_small
    from pipelines.evaluation.open_bandit import judge

    from pipelines import errors

    try:
        logs = [open_bandit_small(settings.datasets, policy) for policy in ("random", "bts")]
    except errors.PipelineError:  # no network: the page says the rest
        return said
    judged = judge(logs[0], logs[1])
    found = judged.estimates.as_dict()
    return {
        "text": f"{said} {_ON_OPEN_BANDIT.format(ess=judged.estimates.ess, truth=judged.truth)}",
        "truth": judged.truth,
        "ess": found["ess"],
        "methods": {name.upper(): value.as_dict() for name, value in judged.estimates.values.items()},
    }


def _explored(settings: Settings, spec: UseCase) -> str:
    """What the archived impressions allow to say."""
    import polars as pl
    from stores.errors import UnknownTable
    from stores.offline import Lake

    try:
        frame = Lake(settings.lake, spec.name).scan("impressions").select("propensities").collect()
    except UnknownTable:
        return _OF_A_LAKE
    shown = int(frame.select(pl.col("propensities").list.eval(pl.element() < 1).list.sum().sum()).item() or 0)
    return _EXPLORED.format(shown=shown) if shown else _OF_A_LAKE


def evaluate_bundle(settings: Settings, spec: UseCase, version: int | None, dataset: str, bars: Bars) -> dict[str, Any]:
    """The bundle's figures on the test part of the examples. Raises the pipelines' errors."""
    from bundle import bundle_layout, load_bundle
    from pipelines.agreement import offline_scores
    from pipelines.datasets import split_times
    from pipelines.evaluation.metrics import evaluate as measure
    from pipelines.training.baselines import constant, streaming_item_mean
    from pipelines.training.examples import build_examples
    from stores.offline import Lake

    bundle = load_bundle(bundle_folder(settings, spec, version))
    layout = bundle_layout(bundle, spec)
    bars.stage("build examples")
    log, _ = _log(settings, spec, dataset, bars)
    examples = build_examples(layout, log, lake=Lake(settings.lake, spec.name) if dataset == LAKE else None)
    split = split_times(examples.time_us, gap_us=spec.attribution_us)
    test, label, users = split.test, examples.label[split.test], examples.user_id[split.test]
    base_rate = float(examples.label[split.fit].mean())
    scores = {
        "constant": constant(examples.label[split.fit], int(test.sum())),
        "item_mean": streaming_item_mean(examples.item_id, examples.time_us, examples.label, base_rate)[test],
        bundle.manifest.name: offline_scores(bundle, layout, examples, 2)[test].astype(float),
    }
    return {
        "version": bundle.manifest.version,
        "rows": int(test.sum()),
        "test_from_us": split.test_from_us,
        "trained_to_us": bundle.manifest.window.to_us,
        "models": {name: measure(label, values, users).as_dict() for name, values in scores.items()},
    }


def evaluate_sources_of(
    settings: Settings, spec: UseCase, version: int | None, dataset: str, bars: Bars
) -> dict[str, Any]:
    """What the bundle's sources find for the users of the test part. Raises the pipelines' errors."""
    from bundle import bundle_layout, load_bundle
    from pipelines.evaluation.sources import evaluate_sources

    bundle = load_bundle(bundle_folder(settings, spec, version))
    layout = bundle_layout(bundle, spec)
    log, _ = _log(settings, spec, dataset, bars)
    found = evaluate_sources(layout, log, bundle, rules=spec.candidates, limits=(100,), threads=2, progress=bars)
    return {
        "version": bundle.manifest.version,
        "users": found.users,
        "test_from_us": bundle.manifest.window.to_us,
        "sources": found.figures,
    }
