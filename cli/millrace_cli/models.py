"""`millrace train`, `deploy` and `rollback`: from the lake to what serves, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import comparing, environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from pathlib import Path

    from definitions.usecase import UseCase
    from pipelines.datasets import Dataset
    from pipelines.deploy import DeployResult
    from pipelines.training.examples import Mode
    from pipelines.training.run import TrainResult

    from millrace_cli.settings import Settings

Usecase = Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")]
Version = Annotated[int | None, typer.Option(min=1, help="Version of the bundle; by default the newest.")]


def train(
    usecase: Usecase = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Train on a named set (ml-100k, synthetic, auto) instead of on what the stack archived."),
    ] = None,
    examples: Annotated[
        str,
        typer.Option(
            help="Features as they were logged when served, by backfill, or auto: logged where there are any."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the trainers.")] = 0,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Compare every model on --dataset, three seeds, with intervals and leak checks; no bundle."
        ),
    ] = False,
    search: Annotated[
        int, typer.Option(min=0, help="So many trials for better parameters of --model, on validation rows only.")
    ] = 0,
    model: Annotated[str, typer.Option(help="What --search is for: lightgbm or xgboost.")] = "lightgbm",
    json: Json = False,
) -> None:
    """Train the ladder, export to ONNX with a parity check, write a bundle and register it.

    Without --dataset the stack's lake is the source: `millrace load` fills it. --all and --search need a data set.
    """
    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    if every or search:
        comparing.run(settings, spec, dataset, search=search, model=model, seed=seed, as_json=json)
        return
    with Bars() as bars, environment.translated():
        result = train_bundle(
            settings, spec, dataset=dataset, holdout=None, examples_from=_mode(examples), seed=seed, bars=bars
        )
    figures = as_dict(result)
    if json:
        output.emit(figures, home=settings.home)
        return
    output.out.print(metrics_table(f"{result.rows['test']:,} test rows, split by time", figures["models"]))
    output.out.print(
        f"parity of framework and ONNX Runtime: {result.parity.max_abs:.1e}, {result.parity.flips} rank flips on "
        f"{result.parity.rows:,} rows; bundle {result.bundle.folder}; {result.seconds:.0f} s",
        highlight=False,
    )
    output.out.print(f"next: millrace deploy --version {result.version}")


def _mode(text: str) -> Mode:
    modes: dict[str, Mode] = {"backfill": "backfill", "logged": "logged", "auto": "auto"}
    if text not in modes:
        raise BadInput(f"--examples {text!r}: use one of {', '.join(modes)}")
    return modes[text]


def train_bundle(
    settings: Settings,
    spec: UseCase,
    *,
    dataset: str | None,
    holdout: Dataset | None,
    examples_from: Mode = "auto",
    seed: int,
    bars: Bars,
) -> TrainResult:
    """Train from the lake, or from a named data set. Raises the pipelines' errors."""
    from pipelines.datasets import load_dataset
    from pipelines.signing import signer_of
    from pipelines.training.run import train as run
    from stores.offline import Lake

    from millrace_cli import revisions
    from pipelines import journal

    revision = revisions.revision_of(settings, spec)
    if revision not in revisions.Revisions.read(settings).of(spec.name):
        bars.note(
            f"{spec.name} was edited: this model reads revision {revision}, which nobody has built yet; before its "
            f"deploy: millrace rebuild features --revision {revision}"
        )
    source: Dataset | Lake
    if dataset is None:
        source = lake = environment.archive(settings, spec)[0]
    else:
        lake = Lake(settings.lake, spec.name)
        source = load_dataset(dataset, spec, cache=settings.datasets, seed=seed, progress=bars)
    return run(
        spec,
        source,
        bundles=settings.bundles,
        lake=lake,
        mlflow=settings.mlflow,
        holdout=holdout,
        licence=journal.licence_of(journal.read(settings.home, spec.name)) if dataset is None else "",
        examples_from=examples_from,
        reports=settings.reports,
        revision=revision,
        sign=signer_of(settings),
        seed=seed,
        progress=bars,
    )


def as_dict(result: TrainResult) -> dict[str, Any]:
    """A training as data."""
    return {
        "version": result.version,
        "digest": result.bundle.digest,
        "dataset": result.dataset,
        "rows": result.rows,
        "logged": result.logged,
        "mismatch": result.mismatch,
        "models": {name: metrics.as_dict() for name, metrics in result.metrics.items()},
        "parity": asdict(result.parity),
        "registered": None if result.registered is None else asdict(result.registered),
        "seconds": round(result.seconds, 2),
    }


def metrics_table(title: str, models: dict[str, dict[str, float | None]]) -> Any:
    """Models down, metrics across."""
    names = list(next(iter(models.values())))
    table = output.table(title, "model", *names)
    for model, metrics in models.items():
        table.add_row(model, *("-" if metrics[name] is None else f"{metrics[name]:.4f}" for name in names))
    return table


def bundle_folder(settings: Settings, spec: UseCase, version: int | None) -> Any:
    """Folder of a bundle of this use case's model. Raises BadInput if there is none."""
    folder = settings.bundles / spec.name
    versions = sorted(int(each.name) for each in folder.glob("*") if each.name.isdecimal())
    if not versions:
        raise BadInput(f"{folder}: no bundle yet; train one first: millrace train")
    chosen = versions[-1] if version is None else version
    if chosen not in versions:
        raise BadInput(f"--version {chosen}: there is no such bundle; there are {', '.join(map(str, versions))}")
    return folder / str(chosen)


def deploy(
    usecase: Usecase = None,
    version: Version = None,
    canary: Annotated[
        float | None,
        typer.Option(help="Only to so many percent of users, always the same; wider by `millrace canary`.", max=99.9),
    ] = None,
    max_errors: Annotated[
        float, typer.Option(help="Guardrail: share of failing calls above the pin's; 0 = .01, negative = none.")
    ] = 0.0,
    max_p99: Annotated[float, typer.Option(help="Guardrail: p99 times the pin's; 0 = 2, negative = none.")] = 0.0,
    max_drift: Annotated[
        float, typer.Option(help="Guardrail: stability index (PSI) of its scores against the pin's; 0 = .25.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Serve a bundle: into Triton beside the present version, checked there, then announced; no request fails."""
    from millrace.decisions.v1 import decisions_pb2 as pb

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    rails = pb.Guardrails(max_error_excess=max_errors, max_p99_ratio=max_p99, max_score_psi=max_drift)
    with Bars() as bars, environment.translated():
        result = deploy_bundle(settings, spec, version, bars, canary=canary, guardrails=rails)
    _print(settings, result, as_json=json)


def deploy_bundle(
    settings: Settings,
    spec: UseCase,
    version: int | None,
    bars: Bars,
    *,
    canary: float | None = None,
    guardrails: Any = None,
) -> DeployResult:
    """Deploy into what the running stack has. Raises the pipelines' errors."""
    from pipelines.deploy import deploy as run
    from pipelines.signing import trusted

    folder = bundle_folder(settings, spec, version)
    check_built(settings, spec, folder)
    triton = environment.server(settings, "triton")
    repository = environment.repository(settings) if triton else None
    return run(
        folder,
        kafka=settings.kafka,
        triton=triton,
        repository=repository,
        canary=canary,
        guardrails=guardrails,
        trust=trusted(settings),
        promoted_only=settings.env == "production",
        mlflow=settings.mlflow,
        progress=bars,
    )


def check_built(settings: Settings, spec: UseCase, folder: Path) -> None:
    """BadInput if our own stack keeps no rows of the revision that the bundle reads: the gateway would refuse it."""
    from bundle import read_manifest
    from local_stack.home import Home
    from local_stack.state import StackState

    from millrace_cli import revisions

    if StackState.read(Home(settings.home)) is None:  # the features run elsewhere
        return
    manifest, _ = read_manifest(folder)
    known = revisions.Revisions.read(settings).of(spec.name)
    if manifest.revision not in known:
        raise BadInput(
            f"{folder}: reads revision {manifest.revision}, the stack keeps {', '.join(map(str, known))}; build it "
            f"first: millrace rebuild features --revision {manifest.revision}"
        )


def rollback(usecase: Usecase = None, json: Json = False) -> None:
    """Serve the version that served before; a second rollback returns."""
    from pipelines.deploy import rollback as run
    from pipelines.signing import trusted

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    triton = environment.server(settings, "triton")
    with Bars() as bars, environment.translated():
        result = run(
            spec.name,
            bundles=settings.bundles,
            kafka=settings.kafka,
            triton=triton,
            repository=environment.repository(settings) if triton else None,
            trust=trusted(settings),
            mlflow=settings.mlflow,
            progress=bars,
        )
        _print(settings, result, as_json=json)


def _print(settings: Settings, result: DeployResult, *, as_json: bool) -> None:
    if as_json:
        output.emit(asdict(result), home=settings.home)
        return
    where = (
        "in the gateway" if result.triton_max_abs is None else f"Triton, golden rows {result.triton_max_abs:.1e} off"
    )
    if result.canary_version is not None:
        output.out.print(
            f"{result.name} version {result.canary_version} is shown to {result.canary_percent:g} % of users ({where}, "
            f"{result.seconds:.1f} s); next: millrace canary step",
            highlight=False,
        )
        return
    before = "" if result.previous_version is None else f"; version {result.previous_version} stays for a rollback"
    output.out.print(
        f"{result.name} version {result.version} serves ({where}, {result.seconds:.1f} s){before}", highlight=False
    )
