"""`millrace bench ladder`: a real stack of its own, every fault injected for real, every rung measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer

from millrace_cli import environment, faults
from millrace_cli.bench import app, measuring, report
from millrace_cli.errors import EnvironmentAtFault
from millrace_cli.stack import Json

if TYPE_CHECKING:
    from definitions.usecase import UseCase
    from local_stack.harness import NativeStack
    from pipelines.bench.ladder import Case, Catalogue
    from pipelines.progress import Progress

    from millrace_cli.settings import Settings

SERVERS: Final = ("triton", "valkey", "cassandra")
_DOOMED: Final = 4  # items, one for each rung
_SWAP_S: Final = 15.0


@app.command()
def ladder(
    rate: Annotated[float, typer.Option(min=10, help="Requests a second, all the time.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, help="Least time that each fault is measured.")] = 10.0,
    dataset: Annotated[str, typer.Option(help="ml-100k, synthetic, or auto: the first that can be had.")] = "auto",
    usecase: Annotated[str, typer.Option(help="Use case; the bench starts a real stack of its own.")] = "movies",
    json: Json = False,
) -> None:
    """What each rung is worth, and what a fault costs: Triton killed, stopped, slow, NaN, a wrong shape, stores gone.

    Starts a real stack in a folder of its own, loads 90 % of the data, trains, deploys, and asks for the users of the
    other 10 % while everything below the gateway is broken in turn. Some five minutes.
    """
    from pipelines.bench.ladder import run

    with measuring() as (settings, bars):
        spec = environment.usecase(settings, usecase)
        with spare_stack(bars) as stack:
            world = World(stack, settings, spec, dataset, bars)
            result = run(
                stack.address("gateway"), spec.name, world.questions, world.cases(), world.catalogue,
                where=f"{spec.name}, {world.data.source}: a real stack of its own", rate=rate, measure_s=seconds,
                progress=bars,
            )  # fmt: skip
    report("ladder", result, settings, as_json=json)


@contextmanager
def spare_stack(progress: Progress) -> Iterator[NativeStack]:
    """A real stack in a folder and at ports of its own, ready; both go with it. Raises EnvironmentAtFault."""
    from local_stack.harness import NativeStack, free_offset

    with free_offset() as offset, tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        stack = NativeStack(Path(folder), offset)
        progress.stage("start a real stack")
        try:
            stack.millrace("up", "--profile", "real")
            if missing := [name for name in SERVERS if name not in stack.pids()]:
                raise EnvironmentAtFault(f"this machine cannot run {', '.join(missing)}: millrace doctor says why")
            yield stack
        except AssertionError as exc:  # a command that this stack was given has failed; the message is what it said
            raise EnvironmentAtFault(str(exc)) from exc
        finally:
            stack.begun("down").communicate()


class World:
    """A stack with data, a model that can be spoilt, nightly lists, and a version whose fallback is blind.

    `questions`: of users whose judged events come after all that the stack knows.
    """

    def __init__(self, stack: NativeStack, settings: Settings, spec: UseCase, dataset: str, progress: Progress) -> None:
        """Takes about a minute."""
        from pipelines.bench.ladder import questions_of
        from pipelines.bench.planted import planted_templates
        from pipelines.datasets import load_dataset
        from pipelines.triton_repository import Repository

        from pipelines import journal

        self._stack, self._spec = stack, spec
        self._kafka = f"127.0.0.1:{stack.ports.kafka}"
        progress.stage("load 90 % of the data")
        stack.millrace("load", "--dataset", dataset)
        loaded = journal.read(stack.home, spec.name)
        if loaded is None:
            raise EnvironmentAtFault("load left no note of what it loaded")
        self.data = load_dataset(dataset, spec, cache=settings.datasets, progress=progress)
        events = self.data.interactions
        known, tail = (events.take(events.event_time_us < loaded.tail_from_us),
                       events.take(events.event_time_us >= loaded.tail_from_us))  # fmt: skip
        tail = tail.take(spec.is_example(tail.action))
        by_popularity = _by_count(known.item_id[spec.is_positive(known.action, known.value)])
        self._doomed = by_popularity[:_DOOMED].tolist()
        progress.stage("train and deploy")
        version = stack.millrace("train")["version"]
        templates = planted_templates(settings.triton_templates, stack.home / "triton-templates")
        self._repository = Repository(stack.home / "models", templates)
        self._deploy(version, blind=version + 1)
        progress.stage("write nightly lists")
        stack.millrace("precompute")
        labels = spec.is_positive(tail.action, tail.value).astype(np.int64)
        self.questions = questions_of(tail, labels, by_popularity)

    @property
    def catalogue(self) -> Catalogue:
        """Takes items of the data set away, and puts them back."""
        from millrace.client import Entity, EventClient
        from pipelines.bench.ladder import Catalogue
        from pipelines.publishing import as_entity

        items = {item.id: as_entity(item) for item in self.data.items}

        def put(entity: Entity) -> None:
            with EventClient(self._stack.address("collector"), timeout_s=30) as client:
                client.put_items(self._spec.name, [entity])

        return Catalogue(delete=lambda item: put(Entity(id=item, deleted=True)), restore=lambda item: put(items[item]))

    def cases(self) -> list[Case]:
        """From what hurts MODEL alone to what leaves only POPULAR; the user rows go last, since all rungs read them."""
        from pipelines.bench.ladder import Case

        first, second, third, fourth = self._doomed
        gone, stopped = "Triton killed", "Triton stopped"
        return [
            Case("nothing", "MODEL", *_fault(), doomed=first),
            Case("model slow (0.3 s a batch)", "LOCAL_MODEL", *_fault(self._spoilt("slow 0.3"))),
            Case("model scores NaN", "LOCAL_MODEL", *_fault(self._spoilt("nan"))),
            Case("model answers a wrong shape", "LOCAL_MODEL", *_fault(self._spoilt("shape"))),
            Case(stopped, "LOCAL_MODEL", *_fault(self._stopped("triton"))),
            Case(gone, "LOCAL_MODEL", *_fault(self._killed("triton")), doomed=second),
            Case(f"{gone}, fallback NaN", "PRECOMPUTED", *_fault(self._killed("triton")),
                 prepare=lambda: self._pin(self._blind), doomed=third),
            Case(f"{gone}, fallback NaN, users without a list", "POPULAR",
                 *_fault(self._killed("triton")), strangers=True),
            Case(f"{gone}, fallback NaN, Cassandra stopped", "POPULAR",
                 *_fault(self._killed("triton"), self._stopped("cassandra")), doomed=fourth),
            Case(f"{gone}, fallback NaN, Cassandra killed", "POPULAR",
                 *_fault(self._killed("triton"), self._killed("cassandra"))),
            Case("Valkey killed (no user rows)", "MODEL", *_fault(self._killed("valkey")), quality_of_rung=False),
        ]  # fmt: skip

    def _killed(self, name: str) -> Callable[[], faults.Heal]:
        return lambda: faults.killed(self._stack, name)

    def _stopped(self, name: str) -> Callable[[], faults.Heal]:
        return lambda: faults.stopped(self._stack, name)

    def _spoilt(self, fault: str) -> Callable[[], faults.Heal]:
        from pipelines.bench.planted import spoil

        folder = self._repository.root / (self._good.triton_name or self._good.name) / str(self._good.version)
        return lambda: spoil(folder, fault)

    def _deploy(self, version: int, *, blind: int) -> None:
        """Both versions into Triton, the good one pinned, with nothing to roll back to."""
        from bundle import load_bundle
        from pipelines.bench.planted import with_blind_fallback
        from pipelines.deploy import deploy

        from pipelines import decisions

        folder = self._stack.home / "bundles" / self._spec.name
        with_blind_fallback(load_bundle(folder / str(version)), folder / str(blind))
        pins = []
        for each in (blind, version):
            deploy(folder / str(each), kafka=self._kafka, triton=f"127.0.0.1:{self._stack.ports.triton_grpc}",
                   repository=self._repository)  # fmt: skip
            pins.append(decisions.serving_state(self._kafka, self._spec.name).pin)
        self._blind, self._good = pins
        self._pin(self._good)

    def _pin(self, pin: Any) -> None:
        """Decide by hand, and return when the gateway serves it: a former version would be rolled back to."""
        import time

        from millrace.client import RankingClient
        from millrace.decisions.v1 import decisions_pb2 as pb

        from pipelines import decisions

        decisions.publish(
            self._kafka, self._spec.name, pb.DECISION_KIND_DEPLOY, pb.ServingState(pin=pin),
            reason=f"bench ladder: version {pin.version}", actor="millrace bench ladder",
        )  # fmt: skip
        deadline = time.monotonic() + _SWAP_S
        with RankingClient(self._stack.address("gateway")) as client:
            while client.rank(self._spec.name, 1, self._doomed, timeout_s=1.0).model_version != pin.version:
                if time.monotonic() > deadline:
                    raise EnvironmentAtFault(f"the gateway does not serve version {pin.version}; see log/gateway.log")
                time.sleep(0.05)


def _by_count(item_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    ids, counts = np.unique(item_ids, return_counts=True)
    return ids[np.argsort(-counts, kind="stable")]


def _fault(*injections: Callable[[], faults.Heal]) -> tuple[Callable[[], None], Callable[[], None]]:
    """How to begin it, and how to end it: the parts in order, and back."""
    heals: list[faults.Heal] = []

    def begin() -> None:
        heals.extend(inject() for inject in injections)

    def end() -> None:
        while heals:
            heals.pop()()

    return begin, end
