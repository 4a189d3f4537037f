"""`millrace demo`: the whole loop once, on real data and real servers, and one table that says how it went."""

from __future__ import annotations

import json as json_module
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace_cli import ask, data, environment, models, nightly, output, stack
from millrace_cli.environment import Bars
from millrace_cli.errors import BadInput, GateSaidNo

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from local_stack.plan import Profile
    from pipelines.agreement import Agreement
    from pipelines.training.run import TrainResult

    from millrace_cli.settings import Settings

USECASE = "movies"
STATE = ("data", "lake", "bundles", "models", "mlflow")  # what a demo makes, and its next run begins without
OWN = ("data/loaded", "lake", "bundles")  # what a stack holds that somebody has used
ONLINE_GAP = 0.004
PARITY = 1e-5
ARCHIVED_S = 20.0


@dataclass
class Report:
    """What is known so far; `reports/demo.json` in the end. A figure that a model lacks is None."""

    profile: str = ""
    dataset: str = ""
    model: str | None = None
    seconds: float = 0.0
    first_list_s: float | None = None
    events: dict[str, int | None] = field(default_factory=dict)
    auc: dict[str, float | None] = field(default_factory=dict)
    online: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, float | None] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def demo(
    profile: Annotated[
        str | None, typer.Option(help="embedded or real; by default real where Java 17 and Maven are found.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    dataset: Annotated[str, typer.Option(help="ml-100k, synthetic, or auto: the first that can be had.")] = "auto",
    json: stack.Json = False,
) -> None:
    """Run the whole loop once: stack, data, training, deploy, replay, nightly lists, load test; then say how it went.

    Begins with an empty stack of its own, every time. The last screen is one table; the same as data is
    `reports/demo.json` in MILLRACE_HOME.
    """
    from millrace_cli.settings import load

    if profile not in (None, "embedded", "real"):
        raise BadInput(f"--profile {profile}: take embedded or real")
    settings = load()
    spec = environment.usecase(settings, USECASE)
    _begin_anew(settings)
    report = Report()
    begun = time.monotonic()
    try:
        _Demo(settings, spec, report, begun).run(profile, dataset)  # type: ignore[arg-type]  # checked above
    finally:
        if not keep:
            stack.down()
    report.seconds = round(time.monotonic() - begun, 1)
    report.failed = judge(report)
    path = settings.reports / "demo.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {**vars(report), "passed": not report.failed, "ran_on": output.ran_on(settings.home)}
    figures["ran_on"]["profile"] = report.profile  # the stack may be down by now
    path.write_text(json_module.dumps(figures, indent=2) + "\n", encoding="utf-8")
    show(report, keep=keep)
    output.out.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
    if json:
        output.emit(figures, home=settings.home)
    if report.failed:
        raise GateSaidNo("the demo missed: " + "; ".join(report.failed))


def _begin_anew(settings: Settings) -> None:
    """Take a former demo's state away. Never somebody's own: archived data or models without our mark are refused."""
    mark = settings.home / environment.DEMO_MARK
    own = [name for name in OWN if any((settings.home / name).glob("*"))]
    if own and not mark.exists():
        raise BadInput(
            f"{settings.home} holds data that the demo did not make ({', '.join(own)}); the demo begins with an empty "
            "stack: give it another MILLRACE_HOME and MILLRACE_PORT_OFFSET, or remove that folder"
        )
    stack.down()
    for name in STATE:
        shutil.rmtree(settings.home / name, ignore_errors=True)
    settings.home.mkdir(parents=True, exist_ok=True)
    mark.write_text(json_module.dumps({"state": STATE, "begun": time.time()}) + "\n", encoding="utf-8")


class _Demo:
    """The steps, in their order. Each is timed and adds to the report."""

    def __init__(self, settings: Settings, spec: UseCase, report: Report, begun: float) -> None:
        self._settings = settings
        self._spec = spec
        self._report = report
        self._begun = begun
        self._bars = Bars()

    def run(self, profile: Profile | None, dataset: str) -> None:
        """All of it. Raises CommandError."""
        settings, spec, report = self._settings, self._spec, self._report
        up = self._step("1/8 start the stack", stack.start, profile)
        report.profile = up.plan.profile
        output.err.print(f"profile {up.plan.profile}: {up.plan.why}", markup=False, highlight=False)
        for note in up.notes:
            output.err.print(f"note: {note}", markup=False, highlight=False)
        first_offsets = self._log_ends()
        with self._bars as bars, environment.translated():
            loaded = self._step(
                "2/8 load 90 % of the data", data.load_into_stack, settings, spec, dataset, share=0.9, seed=0, bars=bars
            )
            report.dataset = loaded.dataset.source
            user = self._someone(loaded.dataset.interactions.user_id)
            self._show_list(user, loaded.head_newest_us)
            trained = self._step(
                "3/8 train LR and LightGBM", models.train_bundle, settings, spec, dataset=None, holdout=loaded.tail,
                seed=0, bars=bars,
            )  # fmt: skip
            self._learned(trained)
            deployed = self._step("4/8 deploy", models.deploy_bundle, settings, spec, trained.version, bars)
            report.model = f"{deployed.name}/{deployed.version}"
            self._await_model(user, loaded.head_newest_us, deployed.version)
            note = data.loaded_before(settings, spec)
            agreement = self._step(
                "5/8 replay the last 10 %", data.replay_tail, settings, spec, note, limit=None, bars=bars,
                tail=loaded.tail,
            )  # fmt: skip
            self._served(agreement)
            self._parity_through_triton(trained)
            published = loaded.published.events + len(loaded.tail.interactions)
            self._step("6/8 count what was archived", self._count, published, first_offsets)
            generation = self._step(
                "7/8 precompute every user's list", nightly.run_precompute, settings, spec, at=None, run_id=None,
                length=100, bars=bars,
            )  # fmt: skip
            report.generation = generation
        self._show_list(user, None)
        self._step("8/8 load test", self._load_test)

    def _step(self, title: str, work: Any, *arguments: Any, **options: Any) -> Any:
        output.err.rule(title, align="left")
        began = time.monotonic()
        try:
            return work(*arguments, **options)
        finally:
            self._bars.close()
            self._report.steps[title.partition(" ")[2]] = round(time.monotonic() - began, 1)

    def _log_ends(self) -> dict[int, int]:
        from servicekit import kafka
        from servicekit.topics import topic

        with environment.translated():
            return kafka.end_offsets(self._settings.kafka, topic(self._spec.name, "interactions"))

    def _someone(self, users: Any) -> int:
        """The user that the README's examples ask for, where the data has one."""
        return 196 if 196 in users else int(users[0])

    def _show_list(self, user: int, at_us: int | None) -> None:
        from pipelines import journal

        if at_us is None:
            loaded = journal.read(self._settings.home, self._spec.name)
            at_us = None if loaded is None else loaded.newest_us
        time_us = None if at_us is None else at_us + 1
        ranking = ask.ask(self._settings, self._spec.name, user, None, limit=5, time_us=time_us)
        ask.show(ranking, environment.titles(self._settings, self._spec), str(user), time_us)
        if self._report.first_list_s is None:
            self._report.first_list_s = round(time.monotonic() - self._begun, 1)

    def _learned(self, trained: TrainResult) -> None:
        report = self._report
        report.auc = {name: metrics.auc for name, metrics in trained.metrics.items()}
        report.parity = {"onnx": trained.parity.max_abs, "triton": None, "max_abs": trained.parity.max_abs}

    def _await_model(self, user: int, at_us: int, version: int) -> None:
        """The gateway swaps when it reads the decision: within a second, not at once."""
        deadline = time.monotonic() + 15.0
        while True:
            ranking = ask.ask(self._settings, self._spec.name, user, None, limit=5, time_us=at_us + 1)
            if ranking.model_version == version and ranking.served_by == "MODEL":
                ask.show(ranking, environment.titles(self._settings, self._spec), str(user), at_us + 1)
                return
            if time.monotonic() > deadline:
                raise GateSaidNo(f"the gateway does not serve version {version} after 15 s; see log/gateway.log")
            time.sleep(0.05)

    def _served(self, agreement: Agreement) -> None:
        data.show(agreement)
        report = self._report
        report.auc |= {"online": agreement.online.auc, "offline": agreement.offline.auc, "online_gap": agreement.gap}
        report.online = {
            "rows": agreement.rows,
            "rungs": agreement.rungs,
            "asked_again": agreement.asked_again,
            "disagree": agreement.disagree,
            "max_abs": agreement.max_abs,
            "visible_p50_ms": round(agreement.waited_p50_ms, 1),
            "visible_p99_ms": round(agreement.waited_p99_ms, 1),
            "gauc": agreement.online.gauc,
            "offline_gauc": agreement.offline.gauc,
        }

    def _parity_through_triton(self, trained: TrainResult) -> None:
        """The archived test rows through Triton and ONNX Runtime: framework to ONNX was compared in training."""
        from bundle import bundle_layout
        from pipelines.parity import through_triton
        from stores.offline import Lake

        target = environment.server(self._settings, "triton")
        if target is None:
            return
        layout = bundle_layout(trained.bundle, self._spec)
        name = environment.repository(self._settings).name_of(trained.bundle.manifest)
        found = through_triton(target, trained.bundle, layout, Lake(self._settings.lake, self._spec.name), name=name)
        parity = self._report.parity
        parity["triton"] = found.max_abs
        parity["max_abs"] = max(found.max_abs, trained.parity.max_abs)

    def _count(self, published: int, first_offsets: dict[int, int]) -> None:
        from pipelines.audit import archived_since
        from stores.offline import Lake

        lake = Lake(self._settings.lake, self._spec.name)
        log_id = environment.stack_state(self._settings).log_id
        deadline = time.monotonic() + ARCHIVED_S
        while True:  # the embedded broker understates its end, so that one flush may stop short of it
            flushed = environment.flush_archiver(self._settings)
            found = archived_since(lake, log_id, first_offsets)
            if found.places >= published or time.monotonic() > deadline:
                break
        self._report.events = {
            "published": published,
            "archived": found.places,
            "lost": max(0, published - found.places),
            "duplicates": found.duplicates,
            "dead_letters": flushed.get("dead_letters"),
        }

    def _load_test(self) -> None:
        from loadtest import Verdict
        from millrace_cli.loadtest import run

        verdict = run(self._settings, self._spec.name, suite="smoke")
        assert isinstance(verdict, Verdict)  # noqa: S101  this suite does not search
        self._report.load = {
            "rate": verdict.rate,
            "p50_ms": verdict.p50_ms,
            "p99_ms": verdict.p99_ms,
            "errors": verdict.errors,
            "passed": verdict.passed,
            "missed": list(verdict.missed),
            "report": verdict.report_html,
        }


def judge(report: Report) -> list[str]:
    """What the demo promises and did not keep."""
    failed = []
    events = report.events
    if events.get("lost") or events.get("duplicates") or events.get("published") != events.get("archived"):
        failed.append(f"events: {events}")
    gap = report.auc.get("online_gap")
    if gap is None or gap > ONLINE_GAP:
        failed.append(f"online AUC is {gap} from offline, at most {ONLINE_GAP}")
    if report.online.get("rungs", {}).get("MODEL") != 1.0:
        failed.append(f"not every replayed event was served by MODEL: {report.online.get('rungs')}")
    worst = report.parity.get("max_abs")
    if worst is None or worst > PARITY:
        failed.append(f"scores of framework, ONNX Runtime and Triton differ by {worst}, at most {PARITY}")
    if not report.load.get("passed"):
        failed.append(f"load test: {', '.join(report.load.get('missed', ['did not run']))}")
    return failed


def show(report: Report, *, keep: bool) -> None:
    """The last screen."""
    table = output.table(
        f"Millrace demo: {report.dataset}, profile {report.profile}, {report.seconds:.0f} s", "", "", ""
    )
    events, auc, parity, load = report.events, report.auc, report.parity, report.load
    ok = {True: "[green]ok[/]", False: "[red]MISSED[/]"}

    def number(value: float | None, digits: int = 4) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    def row(what: str, said: str, *, held: bool | None = None) -> None:
        table.add_row(what, said, "" if held is None else ok[held])

    counted = f"{events['published']:,} = {events['archived']:,} ({events['lost']} lost, {events['duplicates']} double)"
    held = events["published"] == events["archived"] and not events["duplicates"]
    row("events published = archived", counted, held=held)
    for name, title in (("constant", "constant"), ("item_mean", "item mean"), ("lr", "LR"), ("lightgbm", "LightGBM")):
        row(f"offline AUC, {title}", number(auc.get(name)))
    online = report.online
    share = online["rungs"].get("MODEL", 0.0)
    same = f"{number(auc.get('online'))} (offline, same rows: {number(auc.get('offline'))}; {share:.0%} on MODEL)"
    gap = auc.get("online_gap")
    row("online AUC, through the stack", same, held=gap is not None and gap <= ONLINE_GAP and share == 1.0)
    through = "in the gateway" if parity["triton"] is None else f"Triton {parity['triton']:.1e}"
    worst = parity["max_abs"]
    parities = f"ONNX {parity['onnx']:.1e}, {through}"
    row("score parity, framework / ONNX / Triton", parities, held=worst is not None and worst <= PARITY)
    seen = f"p50 {online['visible_p50_ms']} ms, p99 {online['visible_p99_ms']} ms"
    row("acknowledged event known to the next ranking", seen)
    generation = report.generation
    row("nightly generation", f"{generation['run_id']}: {generation['users']:,} users in {generation['store']}")
    times = f"p50 {number(load['p50_ms'], 1)}, p99 {number(load['p99_ms'], 1)} ms, {load['errors']} errors"
    row("load test (open loop)", f"{load['rate']:g}/s x 100 candidates: {times}", held=bool(load["passed"]))
    row("first ranked list after", f"{report.first_list_s} s")
    output.out.print(table)
    if keep:
        tries = ("millrace rank 196 --items 1,50,100", "millrace recommend 196 --at 1998-01-01", "millrace status")
    else:
        tries = ("make demo KEEP=1", "millrace recommend 196 (with the stack kept)", "millrace up && millrace status")
    output.out.print("try next:  " + "\n           ".join(tries), markup=False, highlight=False)
