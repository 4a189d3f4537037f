"""`millrace bench ladder`: a real stack of its own, every fault injected for real, every rung measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

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
    from millrace.client import Entity
    from pipelines.bench.ladder import Case, Catalogue
    from pipelines.progress import Progress

    from millrace_cli.settings import Settings

_DOOMED: Final = 4  # items, one for each rung


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

    from millrace_cli import spare

    with measuring() as (settings, bars):
        spec = environment.usecase(settings, usecase)
        with spare.stack(bars) as stack:
            world = World(stack, settings, spec, dataset, bars)
            result = run(
                stack.address("gateway"), spec.name, world.questions, world.cases(), world.catalogue,
                where=f"{spec.name}, {world.data.source}: a real stack of its own", rate=rate, measure_s=seconds,
                offline=world.rungs, progress=bars,
            )  # fmt: skip
    report("ladder", result, settings, as_json=json)


class World:
    """A stack with data, nightly lists, and a model that can be spoilt, its fallback too.

    `questions`: of users whose judged events come after all that the stack knows. `rungs`: what the bundle says of
    each rung, on its own test rows.
    """

    def __init__(self, stack: NativeStack, settings: Settings, spec: UseCase, dataset: str, progress: Progress) -> None:
        """Takes about a minute."""
        from definitions.features import Attribute
        from pipelines.bench.ladder import questions_of
        from pipelines.datasets import load_dataset
        from pipelines.publishing import as_entity

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
        self._poisoned, *self._doomed = by_popularity[: _DOOMED + 1].tolist()
        self._items = {item.id: as_entity(item) for item in self.data.items}
        self._number = next(each for each in spec.features if isinstance(each, Attribute) and each.of == "item"
                            and spec.attributes.item[each.source].kind == "number")  # fmt: skip
        progress.stage("train and deploy")
        self.rungs = self._deploy(stack.millrace("train")["version"], settings)
        progress.stage("write nightly lists")
        stack.millrace("precompute")
        labels = spec.is_positive(tail.action, tail.value).astype(np.int64)
        self.questions = questions_of(tail, labels, by_popularity)

    @property
    def catalogue(self) -> Catalogue:
        """Takes items of the data set away, and puts them back."""
        from millrace.client import Entity
        from pipelines.bench.ladder import Catalogue

        return Catalogue(
            delete=lambda item: self._put(Entity(id=item, deleted=True)),
            restore=lambda item: self._put(self._items[item]),
        )

    def cases(self) -> list[Case]:
        """From what hurts MODEL alone to what leaves only POPULAR; the user rows go last, since all rungs read them."""
        from pipelines.bench.ladder import Case

        first, second, third, fourth = self._doomed
        triton, absurd = self._killed("triton"), "Triton killed, fallback NaN"
        return [
            Case("nothing", "MODEL", *fault_of(), doomed=first),
            Case("model slow (0.3 s a batch)", "LOCAL_MODEL", *fault_of(self._spoilt("slow 0.3"))),
            Case("model scores NaN", "LOCAL_MODEL", *fault_of(self._spoilt("nan"))),
            Case("model answers a wrong shape", "LOCAL_MODEL", *fault_of(self._spoilt("shape"))),
            Case("Triton stopped", "LOCAL_MODEL", *fault_of(self._stopped("triton"))),
            Case("Triton killed", "LOCAL_MODEL", *fault_of(triton), doomed=second),
            Case(absurd, "PRECOMPUTED", *fault_of(self._absurd, triton), doomed=third),
            Case(f"{absurd}, no list", "POPULAR", *fault_of(self._absurd, triton), strangers=True),
            Case(f"{absurd}, Cassandra stopped", "POPULAR",
                 *fault_of(self._absurd, triton, self._stopped("cassandra")), doomed=fourth),
            Case(f"{absurd}, Cassandra killed", "POPULAR",
                 *fault_of(self._absurd, triton, self._killed("cassandra"))),
            Case("Valkey killed (no user rows)", "MODEL", *fault_of(self._killed("valkey")), quality_of_rung=False),
        ]  # fmt: skip

    def _killed(self, name: str) -> Callable[[], faults.Heal]:
        return lambda: faults.killed(self._stack, name)

    def _stopped(self, name: str) -> Callable[[], faults.Heal]:
        return lambda: faults.stopped(self._stack, name)

    def _spoilt(self, fault: str) -> Callable[[], faults.Heal]:
        from pipelines.bench.planted import spoil

        return lambda: spoil(self._in_triton, fault)

    def _deploy(self, version: int, settings: Settings) -> Mapping[str, float | None] | None:
        """The version with a fragile fallback, as the next one, and a wrapper in Triton that obeys; what the bundle
        says of its rungs. There is no former version: a bad one would be taken back, and its rung never seen.
        """
        from bundle import load_bundle
        from pipelines.bench.planted import planted_templates, with_fragile_fallback
        from pipelines.deploy import deploy
        from pipelines.triton_repository import Repository

        folder = self._stack.home / "bundles" / self._spec.name
        bundle = load_bundle(folder / str(version))
        with_fragile_fallback(bundle, folder / str(version + 1), self._number.name)
        templates = planted_templates(settings.triton_templates, self._stack.home / "triton-templates")
        repository = Repository(self._stack.home / "models", templates)
        deploy(
            folder / str(version + 1),
            kafka=self._kafka,
            triton=f"127.0.0.1:{self._stack.ports.triton_grpc}",
            repository=repository,
        )
        self._in_triton = repository.root / self._spec.name / str(version + 1)
        return bundle.manifest.rungs

    def _absurd(self) -> faults.Heal:
        """A number of one popular item is nonsense: the model does not mind, the fallback answers NaN."""
        from pipelines.bench.planted import EDGE

        item = self._items[self._poisoned]
        self._put(replace(item, attributes={**item.attributes, self._number.source: 10 * EDGE}))
        return lambda: self._put(item)

    def _put(self, entity: Entity) -> None:
        from millrace.client import EventClient

        with EventClient(self._stack.address("collector"), timeout_s=30) as client:
            client.put_items(self._spec.name, [entity])


def _by_count(item_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    ids, counts = np.unique(item_ids, return_counts=True)
    return ids[np.argsort(-counts, kind="stable")]


def fault_of(*injections: Callable[[], faults.Heal]) -> tuple[Callable[[], None], Callable[[], None]]:
    """How to begin it, and how to end it: the parts in order, and back."""
    heals: list[faults.Heal] = []

    def begin() -> None:
        heals.extend(inject() for inject in injections)

    def end() -> None:
        while heals:
            heals.pop()()

    return begin, end
