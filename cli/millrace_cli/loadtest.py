"""`millrace loadtest`: load the running gateway and judge what it answers."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from millrace_cli import environment, output, secured
from millrace_cli.ask import At, event_time_us
from millrace_cli.errors import BadInput, EnvironmentAtFault, GateSaidNo
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from loadtest.access import Access
    from loadtest.verdict import Check
    from loadtest.watching import Watch

    from loadtest import Saturation, Verdict
    from millrace_cli.settings import Settings

_READ_S = 10.0  # the catalogue of a large use case
_CONNECT_S = 3.0


def loadtest(
    suite: Annotated[
        str,
        typer.Option(
            help="Load and limits, by name in the targets file: default, smoke, steady, spike, soak, saturation."
        ),
    ] = "default",
    rate: Annotated[float | None, typer.Option(help="Requests a second; by default the suite's.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Measured time; by default the suite's.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Items in each request; by default the suite's.")] = None,
    runs: Annotated[
        int | None,
        typer.Option(min=1, max=9, help="How often; the median run, by p99, counts. By default the suite's."),
    ] = None,
    people: Annotated[
        bool, typer.Option("--people", help="Locust users who wait for their answers, instead of the open loop.")
    ] = False,
    targets: Annotated[Path | None, typer.Option(help="A targets file of your own.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Seconds before measuring; by default the suite's.")] = None,
    deadline_ms: Annotated[int | None, typer.Option(help="What a caller waits; by default the suite's.")] = None,
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    at: At = None,
    target: Annotated[str | None, typer.Option(help="host:port of another gateway than the stack's.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM of who signs the gateway's certificate: turns TLS on.")] = None,
    cert: Annotated[Path | None, typer.Option(help="PEM of our own certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM of its key.")] = None,
    token: Annotated[Path | None, typer.Option(help="File with a bearer token.")] = None,
    json: Json = False,
) -> None:
    """Load the gateway, timed from the schedule, and judge it; exit 1 if a target is missed.

    For example `millrace loadtest --rate 100 --seconds 60 --candidates 100`, or `millrace loadtest --suite saturation`
    for the highest rate that holds and what happens past it.
    """
    from loadtest.access import Access

    from loadtest import Verdict
    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    found = run(
        settings, spec.name, suite=suite, rate=rate, seconds=seconds, candidates=candidates, targets=targets,
        warmup_s=warmup, deadline_ms=deadline_ms, at=at, target=target, runs=runs, people=people,
        access=Access(ca, cert, key, token) if ca or token else None,
    )  # fmt: skip
    if json:
        output.emit(found.to_json(), home=settings.home)
    elif isinstance(found, Verdict):
        _show(found)
    else:
        _show_saturation(found)
    if not found.passed:
        if json:  # the object above is the last line, and says it all
            raise typer.Exit(GateSaidNo.exit_code)
        raise GateSaidNo(f"load test {suite}: missed {', '.join(found.missed)}")


def run(
    settings: Settings,
    usecase: str,
    *,
    suite: str = "default",
    rate: float | None = None,
    seconds: float | None = None,
    candidates: int | None = None,
    targets: Path | None = None,
    warmup_s: float | None = None,
    deadline_ms: int | None = None,
    at: str | None = None,
    target: str | None = None,
    runs: int | None = None,
    people: bool = False,
    access: Access | None = None,
) -> Verdict | Saturation:
    """A suite with the ids that the stack knows, evaluated where `rank` evaluates. Raises CommandError.

    What is None comes from the suite; reports go to `MILLRACE_HOME/reports`. A suite with a search gives a Saturation.
    """
    from loadtest.targets import DEFAULT_TARGETS, load_suite

    from loadtest import errors as loadtest_errors
    from loadtest import run_loadtest, run_suite
    from pipelines import journal

    targets = targets or DEFAULT_TARGETS
    try:
        plan = load_suite(suite, targets)
        with environment.translated():
            loaded = journal.read(settings.home, usecase)
        time_us = event_time_us(at, None if loaded is None else loaded.newest_us)
        address = target or environment.endpoint(settings, "gateway")
        access = access or (None if target else secured.loadtest_access(settings))
        _require(address)
        items, users = catalogue_ids(settings, usecase)
        watch = watched(settings) if target is None else None

        def once(step_rate: float | None, step_seconds: float | None, seed: int) -> Verdict:
            asked_rate = step_rate or rate or plan.rate
            asked_s = step_seconds or seconds or plan.seconds
            total = (asked_s + (plan.warmup_s if warmup_s is None else warmup_s)) * asked_rate
            with output.progress(f"load test, suite {suite}, {asked_rate:g}/s", total, "requests") as advance:
                return run_loadtest(
                    address, usecase, asked_rate, asked_s, candidates,
                    items or None, users or None, targets, None, warmup_s, deadline_ms, _Follow(advance),
                    suite=suite, time_us=time_us, seed=seed, mode="poisson" if people else "open",
                    access=access, watch=watch,
                )  # fmt: skip

        return run_suite(suite, plan, once, runs=runs, folder=settings.reports)
    except loadtest_errors.BadInput as exc:
        raise BadInput(str(exc)) from exc
    except (loadtest_errors.Unreachable, loadtest_errors.GeneratorFailed) as exc:
        raise EnvironmentAtFault(str(exc)) from exc


def watched(settings: Settings) -> Watch:
    """The processes of the running stack, and Triton's metrics; nothing where the stack is somebody else's."""
    from loadtest.watching import Watch
    from local_stack.home import Home
    from local_stack.state import StackState

    state = StackState.read(Home(settings.home))
    if state is None:
        return Watch()
    triton = state.runs.get("triton")
    return Watch(
        pids={name: each.pid for name, each in state.runs.items()},
        triton_metrics=None if triton is None else f"http://127.0.0.1:{triton.ports['metrics']}/metrics",
    )


def catalogue_ids(settings: Settings, usecase: str) -> tuple[list[int], list[int]]:
    """Ids of the items and of the users on the log, sorted; both empty, and a note said, where one is unknown."""
    from servicekit.errors import LogError

    try:
        items, users = (_ids(settings, usecase, kind) for kind in ("items", "users"))
    except LogError as exc:
        output.err.print(f"note: {exc}: ids are made up", markup=False, highlight=False)
        return [], []
    if items and users:
        return items, users
    output.err.print("note: no items or no users are loaded yet: ids are made up", highlight=False)
    return [], []


def _ids(settings: Settings, usecase: str, kind: Literal["items", "users"]) -> list[int]:
    """Ids on that topic, deleted ones left out. Raises LogError."""
    from google.protobuf.message import DecodeError
    from millrace.events.v1 import events_pb2
    from servicekit.kafka import TopicReader, end_offsets
    from servicekit.topics import parse_id_key, topic

    message: type[Any] = events_pb2.Item if kind == "items" else events_pb2.User
    found: set[int] = set()

    def take(partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        del partition, offset
        try:
            item_or_user_id = parse_id_key(key)
            known = value is not None and not message.FromString(value).deleted
        except (ValueError, DecodeError):  # what the archiver makes a dead letter of
            return
        (found.add if known else found.discard)(item_or_user_id)

    name = topic(usecase, kind)
    if not any(end_offsets(settings.kafka, name, connect_s=_CONNECT_S).values()):
        return []
    reader = TopicReader(settings.kafka, name, take)
    reader.start()
    try:
        reader.wait_caught_up(_READ_S)
    finally:
        reader.stop()
    return sorted(found)


def _require(address: str) -> None:
    """Say at once that nothing listens, before the log is read for ids."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise BadInput(f"--target {address}: must be host:port")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as exc:
        raise EnvironmentAtFault(f"no gateway answers at {address} ({exc}); start one with `millrace up`") from exc


class _Follow:
    """Turns "so many sent" into "so many more" for a progress bar."""

    def __init__(self, advance: Any) -> None:
        self._advance = advance
        self._sent = 0

    def __call__(self, now: Mapping[str, Any]) -> None:
        self._advance(now["sent"] - self._sent)
        self._sent = now["sent"]


def _checks(title: str, checks: Sequence[Check]) -> None:
    table = output.table(title, "target", "limit", "measured", "")
    for check in checks:
        measured = "-" if check.measured is None else f"{check.measured:.4g}"
        table.add_row(check.target, f"{check.limit:g}", measured, "[green]held[/]" if check.held else "[red]missed[/]")
    output.out.print(table)


def _show_saturation(found: Saturation) -> None:
    steps = output.table(
        f"Saturation at {found.target}: {found.candidates} candidates, deadline {found.deadline_ms} ms",
        "run", "asked/s", "OK/s", "p50 ms", "p99 ms", "p99 of OK", "on MODEL", "shed", "neither", "generator", "",
    )  # fmt: skip
    for step in sorted(found.steps, key=lambda each: each.rate):
        latencies = ("-" if ms is None else f"{ms:.1f}" for ms in (step.p50_ms, step.p99_ms, step.ok_p99_ms))
        steps.add_row(
            step.kind, f"{step.rate:g}", f"{step.goodput_rps:.0f}", *latencies, f"{step.model_share:.1%}",
            f"{step.shed:,}", f"{step.unshed:,}", f"{step.generator_cores:.0%}",
            "[green]holds[/]" if step.holds else "",
        )  # fmt: skip
    output.out.print(steps)
    _checks("promised", found.checks)
    knee = "none" if found.knee_rps is None else f"{found.knee_rps:g}/s"
    if (foretold := found.prediction) is not None:
        knee += f", foretold {foretold.knee_rps:g}/s (limited by {foretold.limited_by})"
    output.out.print(f"knee {knee}", highlight=False)
    for path in (found.report_png, found.report_csv, found.report_json):
        output.out.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


def _show(verdict: Verdict) -> None:
    _checks(
        f"Load test {verdict.suite}: {verdict.rate:g} requests/s x {verdict.candidates} candidates, "
        f"{verdict.seconds:g} s, {verdict.target}",
        verdict.checks,
    )
    for number, each in enumerate(verdict.runs, 1):
        output.out.print(f"run {number}: p50 {each['p50_ms']} ms, p99 {each['p99_ms']} ms, {each['errors']} errors")
    codes = ", ".join(f"{count} {code}" for code, count in verdict.errors_by_code.items())
    rungs = ", ".join(f"{rung} {share:.2%}" for rung, share in verdict.rungs.items() if share)
    output.out.print(f"{verdict.ok:,} of {verdict.requests:,} answered; {rungs or 'no answers'}", highlight=False)
    output.out.print(
        f"p50 {verdict.p50_ms} ms, p99 {verdict.p99_ms} ms, p99.9 {verdict.p999_ms} ms from the schedule; "
        f"{verdict.late} started late, {verdict.dropped} dropped{f'; errors: {codes}' if codes else ''}",
        highlight=False,
    )
    output.out.print(f"report: {verdict.report_html}", markup=False, highlight=False, soft_wrap=True)
