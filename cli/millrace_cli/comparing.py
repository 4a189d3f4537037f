"""`millrace train --all` and `--search`: every model on one data set, and better parameters for one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from pipelines.training.compare import Comparison
    from pipelines.training.search import Found

    from millrace_cli.settings import Settings

_SHOWN = ("auc", "gauc", "logloss", "ndcg_at_10", "recall_at_10")


def run(
    settings: Settings, spec: UseCase, dataset: str | None, *, search: int, model: str, seed: int, as_json: bool
) -> None:
    """Compare all models, or search parameters for one. Raises BadInput without a data set."""
    from pipelines.datasets import load_dataset
    from pipelines.training.compare import compare_all
    from pipelines.training.search import search as look

    if dataset is None:
        raise BadInput("--all and --search compare on a data set: give --dataset ml-100k, synthetic or auto")
    with Bars() as bars, environment.translated():
        source = load_dataset(dataset, spec, cache=settings.datasets, seed=seed, progress=bars)
        kept = settings.home / "comparison"
        if search:
            found = look(spec, source, model, trials=search, kept=kept, seed=seed, progress=bars)
        else:
            compared = compare_all(spec, source, kept=kept, progress=bars)
    if search:
        _told(settings, found_dict(found), as_json, lambda: _print_found(found))
    else:
        _told(settings, compared_dict(compared), as_json, lambda: _print_compared(compared))


def compared_dict(compared: Comparison) -> dict[str, Any]:
    """The models by name, beside what is true of all of them."""
    facts = asdict(compared)
    models, findings = facts.pop("models"), facts.pop("findings")
    facts["seconds"] = round(compared.seconds, 1)
    facts["trained_cpu_s"] = round(compared.trained_cpu_s, 1)
    facts["best_model"] = facts.pop("best")
    return {**facts, "leak_checks": {found["check"]: found for found in findings}, **models}


def found_dict(found: Found) -> dict[str, Any]:
    """What a search found."""
    return asdict(found)


def _told(settings: Settings, figures: dict[str, Any], as_json: bool, show: Any) -> None:
    if as_json:
        output.emit(figures, home=settings.home)
    else:
        show()


def _print_compared(compared: Comparison) -> None:
    title = f"{compared.dataset}: mean of {len(compared.seeds)} seeds, 95 % interval over users"
    table = output.table(title, "model", *_SHOWN)
    for name, figures in compared.models.items():
        shown = f"best ({compared.best}, all columns)" if name == "best" else name
        table.add_row(shown, *(_cell(figures, metric) for metric in _SHOWN))
    output.out.print(table)
    for found in compared.findings:
        output.out.print(f"leak check {found.check}: {found.detail}", highlight=False)
    for name, why in compared.absent.items():
        output.out.print(f"{name} is absent: {why}", highlight=False)
    output.out.print(
        f"retrieval models by NDCG and recall over the whole catalogue, the others on their {compared.rows['test']:,} "
        f"test rows; {compared.seconds:.0f} s, {compared.trained_cpu_s:.0f} s of CPU for all trainings",
        highlight=False,
    )


def _cell(figures: dict[str, float | None] | Any, metric: str) -> str:
    value, low, high = (figures[f"{metric}{end}"] for end in ("", "_lo", "_hi"))
    return "-" if value is None else f"{value:.4f} ({low:.3f}-{high:.3f})"


def _print_found(found: Found) -> None:
    table = output.table(f"{found.model}: {found.trials} trials on validation rows", "", "before", "found")
    for name in found.before:
        table.add_row(name, f"{found.before[name]:.4f}", f"{found.after[name]:.4f}")
    output.out.print(table)
    output.out.print(f"parameters: {found.parameters}", highlight=False)
