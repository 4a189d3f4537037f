"""`millrace load` and `millrace replay`: a data set into the running stack, and its tail through it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer

from millrace_cli import environment, output
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from pipelines.agreement import Agreement
    from pipelines.datasets import DataPaths, Dataset
    from pipelines.journal import Loaded
    from pipelines.publishing import PublishResult

    from millrace_cli.settings import Settings


@dataclass(frozen=True)
class LoadOutcome:
    """What `load` did. `tail` is what it left for replay."""

    dataset: Dataset
    tail: Dataset
    published: PublishResult
    visible_s: float
    seconds: float

    @property
    def head_newest_us(self) -> int:
        """Event time of the newest event that was published."""
        times = self.dataset.interactions.event_time_us
        return int(times[times < self.tail.interactions.event_time_us.min(initial=times.max(initial=0) + 1)].max())


def load(
    usecase: Annotated[str | None, typer.Option(help="Use case: a name, or the path of its YAML file.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="A named set: ml-100k, synthetic, auto (the first that can be had), or name:folder of one that you "
            "have: ml-1m, ml-25m, kuairand, mind."
        ),
    ] = None,
    interactions: Annotated[Path | None, typer.Option(help="Your events, CSV or Parquet.")] = None,
    items: Annotated[Path | None, typer.Option(help="Your catalogue, CSV or Parquet.")] = None,
    users: Annotated[Path | None, typer.Option(help="Your users' attributes, CSV or Parquet.")] = None,
    share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Load this share of the events by time; replay runs the rest.")
    ] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the order among equal times, and of the synthetic set.")] = 0,
    json: Json = False,
) -> None:
    """Publish a data set through the collector, e.g. `millrace load --dataset ml-100k`.

    Your own data: `millrace load --usecase shop.yaml --interactions events.csv --items items.csv --users users.csv`.
    Exits 2 if the collector rejects records: they are named, the others are loaded.
    """
    from millrace_cli.settings import load as load_settings

    settings = load_settings()
    spec = environment.usecase(settings, usecase)
    source = _source(dataset, interactions, items, users)
    with Bars() as bars:
        outcome = load_into_stack(settings, spec, source, share=share, seed=seed, bars=bars)
    (settings.home / environment.DEMO_MARK).unlink(missing_ok=True)  # from here on it is somebody's own
    done = outcome.published
    figures = {
        "usecase": spec.name,
        "dataset": outcome.dataset.source,
        "events": done.events,
        "items": done.items,
        "users": done.users,
        "rejected": done.rejected,
        "tail": len(outcome.tail.interactions),
        "visible_s": round(outcome.visible_s, 3),
        "seconds": round(outcome.seconds, 2),
    }
    if json:
        output.emit(figures, home=settings.home)
    else:
        _say(outcome)
    if done.rejected:
        raise typer.Exit(BadInput.exit_code)


def _say(outcome: LoadOutcome) -> None:
    done = outcome.published
    for each in done.rejected[:10]:
        output.err.print(f"rejected: {each}", style="yellow", markup=False, highlight=False)
    output.out.print(
        f"{done.events:,} events, {done.items:,} items and {done.users:,} users of {outcome.dataset.source} are on the "
        f"log, in the features and in the lake ({outcome.seconds:.1f} s); {len(done.rejected)} rejected; "
        f"{len(outcome.tail.interactions):,} events are left for: millrace replay",
        highlight=False,
    )


def _source(dataset: str | None, interactions: Path | None, items: Path | None, users: Path | None) -> str | DataPaths:
    from pipelines.datasets import DataPaths

    if interactions is None:
        if items is not None or users is not None:
            raise BadInput("--interactions: give the events that --items and --users belong to")
        name, colon, folder = (dataset or "auto").partition(":")
        return f"{name}:{_absolute(Path(folder))}" if colon else name
    if dataset is not None:
        raise BadInput("--dataset and --interactions: give one of them")
    return DataPaths(_absolute(interactions), items and _absolute(items), users and _absolute(users))


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def load_into_stack(
    settings: Settings, spec: UseCase, source: str | DataPaths, *, share: float, seed: int, bars: Bars
) -> LoadOutcome:
    """Publish the first `share` of a data set and wait until rankings know all of it. Raises CommandError."""
    from pipelines.datasets import load_dataset
    from pipelines.publishing import publish_dataset

    from pipelines import journal

    begun = time.monotonic()
    with environment.translated():
        whole = load_dataset(source, spec, cache=settings.datasets, seed=seed, progress=bars)
        times = whole.interactions.event_time_us
        tail_from_us = _tail_from(times, share)
        head, tail = whole.part(times < tail_from_us), whole.part(times >= tail_from_us)
        published = publish_dataset(head, environment.collector(settings), spec.name, progress=bars)
    bars.stage("wait until rankings know it")
    visible_s = environment.settle(settings, spec.name, published.next_offsets)
    environment.flush_archiver(settings)  # titles are read from the lake
    with environment.translated():
        journal.write(
            settings.home,
            journal.Loaded(
                usecase=spec.name,
                source=source if isinstance(source, str) else str(source.interactions),
                items=None if isinstance(source, str) or source.items is None else str(source.items),
                users=None if isinstance(source, str) or source.users is None else str(source.users),
                seed=seed,
                rows=len(times),
                tail_from_us=tail_from_us,
                newest_us=int(head.interactions.event_time_us.max(initial=0)),
                shifted_ids=tuple(sorted(whole.shifted)),
                text_ids=tuple(sorted(whole.textual)),
                licence=whole.licence,
            ),
        )
    return LoadOutcome(whole, tail, published, visible_s, time.monotonic() - begun)


def _tail_from(times_us: npt.NDArray[np.int64], share: float) -> int:
    """The first event time of the tail; equal times are never cut apart."""
    if share >= 1.0 or not len(times_us):
        return int(times_us.max(initial=0)) + 1
    return int(np.sort(times_us)[min(int(len(times_us) * share), len(times_us) - 1)])


def replay(
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Replay only so many events of the tail.")] = None,
    json: Json = False,
) -> None:
    """Run the tail of what was loaded through the running stack: score each event, then publish it, then compare.

    Prints the figures of what was really served beside the same figures offline: same model, same rows.
    """
    from millrace_cli.settings import load as load_settings

    settings = load_settings()
    spec = environment.usecase(settings, usecase)
    loaded = loaded_before(settings, spec)
    with Bars() as bars, environment.translated():
        agreement = replay_tail(settings, spec, loaded, limit=limit, bars=bars)
    if json:
        output.emit({"usecase": spec.name, "dataset": loaded.source, **asdict(agreement)}, home=settings.home)
    else:
        show(agreement)


def loaded_before(settings: Settings, spec: UseCase) -> Loaded:
    """The note on what was loaded. Raises BadInput if nothing was, or its tail has been replayed."""
    from pipelines import journal

    with environment.translated():
        loaded = journal.read(settings.home, spec.name)
    if loaded is None:
        raise BadInput(f"{spec.name}: nothing is loaded yet; try: millrace load --dataset auto")
    if loaded.replayed:
        raise BadInput(
            f"{spec.name}: the tail of {loaded.source} is in the stack already, and an event must be scored before it "
            "is published; load another data set, or start anew under another MILLRACE_HOME"
        )
    return loaded


def replay_tail(
    settings: Settings, spec: UseCase, loaded: Loaded, *, limit: int | None, bars: Bars, tail: Dataset | None = None
) -> Agreement:
    """Replay the tail, archive it, and compare served with offline. Raises the pipelines' errors."""
    from bundle import bundle_layout
    from millrace.client import EventClient, RankingClient
    from pipelines.agreement import compare
    from pipelines.datasets import load_dataset
    from pipelines.errors import BadInputError
    from pipelines.replay import replay as run
    from pipelines.serving_view import pinned
    from pipelines.training.examples import Log, build_examples, of_events
    from stores.offline import Lake

    from pipelines import journal

    if tail is None:
        whole = load_dataset(loaded.dataset, spec, cache=settings.datasets, seed=loaded.seed, progress=bars)
        tail = whole.part(whole.interactions.event_time_us >= loaded.tail_from_us)
    events = tail.interactions.take(slice(0, limit))
    if not len(events):
        raise BadInputError(f"{spec.name}: the load left no tail to replay; load with --share below 1")
    serving = pinned(settings.kafka, spec.name, settings.bundles)
    bars.stage("replay: score, then publish", len(events))
    journal.write(settings.home, replace(loaded, replayed=True))  # before the first event: half a tail is no tail
    with RankingClient(environment.gateway(settings)) as gateway, EventClient(environment.collector(settings)) as log:
        served = run(events, spec.is_example(events.action), spec.name, gateway, log, progress=bars.advance)
    newest_us = int(events.event_time_us.max())
    journal.write(settings.home, replace(loaded, replayed=True, newest_us=newest_us))
    bars.stage("archive and compare")
    environment.flush_archiver(settings)
    layout = bundle_layout(serving.bundle, spec)
    log_now = Log.of_lake(Lake(settings.lake, spec.name), spec.dedupe_offsets)
    rows = build_examples(of_events(layout), log_now)  # replay scores events, whatever trains the model
    return compare(served, events, serving.bundle, of_events(layout), rows)


def show(agreement: Agreement) -> None:
    """Served beside offline."""
    table = output.table(f"{agreement.rows:,} events, the same model and rows", "", "served", "offline")
    online, offline = agreement.online.as_dict(), agreement.offline.as_dict()
    for name, value in online.items():
        if name == "rows":  # the title says it
            continue
        other = offline[name]
        table.add_row(name, "-" if value is None else f"{value:.4f}", "-" if other is None else f"{other:.4f}")
    output.out.print(table)
    rungs = ", ".join(f"{rung} {share:.1%}" for rung, share in agreement.rungs.items())
    again = f"; {agreement.asked_again} asked again" if agreement.asked_again else ""
    output.out.print(f"rungs: {rungs}{again}; model version {', '.join(map(str, agreement.versions))}")
    output.out.print(
        f"scores that differ by more than 0.001: {agreement.disagree:.2%}, at most {agreement.max_abs:.4f} "
        f"(item aggregates may lag by up to a second)",
        highlight=False,
    )
    output.out.print(
        f"acknowledged event known to the next ranking: p50 {agreement.waited_p50_ms:.1f} ms, "
        f"p99 {agreement.waited_p99_ms:.1f} ms",
        highlight=False,
    )
