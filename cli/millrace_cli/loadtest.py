"""`millrace loadtest`: load the running gateway and judge what it answers."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from millrace_cli import environment, output, secured
from millrace_cli.ask import At, event_time_us
from millrace_cli.errors import BadInput, EnvironmentAtFault, GateSaidNo
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from loadtest import Verdict
    from millrace_cli.settings import Settings

_READ_S = 10.0  # the catalogue of a large use case
_CONNECT_S = 3.0


def loadtest(
    rate: Annotated[float | None, typer.Option(help="Requests a second; by default the suite's.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Measured time; by default the suite's.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Items in each request; by default the suite's.")] = None,
    suite: Annotated[str, typer.Option(help="Load and limits, by name in the targets file.")] = "default",
    targets: Annotated[Path | None, typer.Option(help="A targets file of your own.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Seconds before measuring; by default the suite's.")] = None,
    deadline_ms: Annotated[int | None, typer.Option(help="What a caller waits; by default the suite's.")] = None,
    usecase: Annotated[str | None, typer.Option(help="Use case; by default the first that the stack serves.")] = None,
    at: At = None,
    target: Annotated[str | None, typer.Option(help="host:port of another gateway than the stack's.")] = None,
    json: Json = False,
) -> None:
    """Load the gateway at a given rate, timed from the schedule; exit 1 if a target is missed.

    For example `millrace loadtest --rate 100 --seconds 60 --candidates 100`.
    """
    from loadtest.report import summary_line

    from millrace_cli.settings import load

    settings = load()
    spec = environment.usecase(settings, usecase)
    verdict = run(
        settings, spec.name, suite=suite, rate=rate, seconds=seconds, candidates=candidates, targets=targets,
        warmup_s=warmup, deadline_ms=deadline_ms, at=at, target=target,
    )  # fmt: skip
    if json:
        output.emit(verdict.to_json(), home=settings.home)
    else:
        _show(verdict)
    if not verdict.passed:
        if json:  # the object above is the last line, and says it all
            raise typer.Exit(GateSaidNo.exit_code)
        raise GateSaidNo(summary_line(verdict))


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
) -> Verdict:
    """One load test with the ids that the stack knows, evaluated where `rank` evaluates. Raises CommandError.

    What is None comes from the suite; reports go to `MILLRACE_HOME/reports`.
    """
    from loadtest.targets import DEFAULT_TARGETS, load_suite

    from loadtest import errors as loadtest_errors
    from loadtest import run_loadtest
    from pipelines import journal

    targets = targets or DEFAULT_TARGETS
    try:
        plan = load_suite(suite, targets)
        with environment.translated():
            loaded = journal.read(settings.home, usecase)
        time_us = event_time_us(at, None if loaded is None else loaded.newest_us)
        address = target or environment.endpoint(settings, "gateway")
        access = None if target else secured.loadtest_access(settings)
        _require(address)
        items, users = catalogue_ids(settings, usecase)
        spent = (plan.seconds if seconds is None else seconds) + (plan.warmup_s if warmup_s is None else warmup_s)
        total = spent * (plan.rate if rate is None else rate)
        with output.progress(f"load test, suite {suite}", total, "requests") as advance:
            return run_loadtest(
                address, usecase, rate, seconds, candidates,
                items or None, users or None, targets, settings.reports, warmup_s, deadline_ms, _Follow(advance),
                suite=suite, time_us=time_us, access=access,
            )  # fmt: skip
    except loadtest_errors.BadInput as exc:
        raise BadInput(str(exc)) from exc
    except (loadtest_errors.Unreachable, loadtest_errors.GeneratorFailed) as exc:
        raise EnvironmentAtFault(str(exc)) from exc


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


def _show(verdict: Verdict) -> None:
    table = output.table(
        f"Load test {verdict.suite}: {verdict.rate:g} requests/s x {verdict.candidates} candidates, "
        f"{verdict.seconds:g} s, {verdict.target}",
        "target", "limit", "measured", "",
    )  # fmt: skip
    for check in verdict.checks:
        measured = "-" if check.measured is None else f"{check.measured:.4g}"
        table.add_row(check.target, f"{check.limit:g}", measured, "[green]held[/]" if check.held else "[red]missed[/]")
    output.out.print(table)
    codes = ", ".join(f"{count} {code}" for code, count in verdict.errors_by_code.items())
    rungs = ", ".join(f"{rung} {share:.2%}" for rung, share in verdict.rungs.items() if share)
    output.out.print(f"{verdict.ok:,} of {verdict.requests:,} answered; {rungs or 'no answers'}", highlight=False)
    output.out.print(
        f"p50 {verdict.p50_ms} ms, p99 {verdict.p99_ms} ms, p99.9 {verdict.p999_ms} ms from the schedule; "
        f"{verdict.late} started late, {verdict.dropped} dropped{f'; errors: {codes}' if codes else ''}",
        highlight=False,
    )
    output.out.print(f"report: {verdict.report_html}", markup=False, highlight=False, soft_wrap=True)
