"""Which Serving answers for a use case, and how another one takes its place: built beside it, warmed, then swapped."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, Protocol

import structlog
from definitions.assignment import INTERLEAVED
from definitions.layout import Layout
from definitions.serving_rules import ServingRules
from definitions.serving_state import Limits, loaded_pins, same, scoring_pins
from millrace.decisions.v1 import decisions_pb2 as pb
from stores.errors import StoreError

from gateway.arms import Arms
from gateway.errors import BadModel, BundleRefused, Unavailable
from gateway.in_force import CanaryInForce, InForce, ShadowInForce, Treatment
from gateway.model import ActiveModel
from gateway.ranking import Ranker

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.switch")

READ_S: Final = 120.0  # for the items of another layout, while the present one answers; a million take some 10 s
CATCH_UP_S: Final = 5.0  # then for its partials to come up to those that answer now
_POLL_S: Final = 0.02
_Key = tuple[str, int, str, str]


class OneLayout(Protocol):
    """What `Serving` is."""

    layout: Layout
    in_force: InForce
    ranker: Ranker

    @property
    def caught_up(self) -> bool:
        """Whether all that was on the log at `start` is in memory."""
        ...

    def markers(self) -> dict[int, int]:
        """Partition -> offset below which its item partials are in."""
        ...

    def serves(self, layout: Layout) -> bool:
        """Whether a model of `layout` can be served by it."""
        ...

    def rules(self, text: str) -> ServingRules:
        """Rules of that JSON, of the use case if it is empty, compiled. Raises BundleRefused."""
        ...

    def start(self) -> None:
        """Begin to read the log."""

    async def warm(self) -> None:
        """Rank for nobody until all is warm."""

    async def try_out(self, model: ActiveModel) -> None:
        """Score replayed requests. Unavailable with `bad_scores`; what else goes wrong is not the version's fault."""

    async def close(self) -> None:
        """Stop reading, close the rows."""


class Switch:
    """The Servings of one use case: the one that answers, and the one that a rollback would return to.

    `serve` belongs to the decisions' thread; everything that it changes is changed on the event loop, as one reference:
    `rankers[usecase]` is what requests take, its Serving's `in_force` what they choose from. A request keeps what it
    began with, so rows, items, rules and model are never mixed.

    Args:
        usecase: its name.
        load: makes a pin's model; raises BundleRefused.
        make: a Serving of a layout, which tells its second argument if it can read the log no longer, from any
            thread; may raise StoreError.
        rankers: by use case, shared with the servicer.
        stopping: whether the process has been asked to stop.
        fail: is told if the one that answers can read the log no longer.
        tell: (revision, state) of a Serving: 1 answers, 0 stands by, None is gone.
        linger_s: how long a request may take, before what it uses is closed.
    """

    def __init__(
        self,
        usecase: str,
        *,
        load: Callable[[pb.ModelPin], ActiveModel],
        make: Callable[[Layout, Callable[[Exception], None]], OneLayout],
        rankers: dict[str, Ranker],
        stopping: Callable[[], bool],
        fail: Callable[[Exception], None],
        tell: Callable[[int, int | None], None],
        linger_s: float,
    ) -> None:
        self._usecase = usecase
        self._load = load
        self._make = make
        self._rankers = rankers
        self._stopping = stopping
        self._fail = fail
        self._tell = tell
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._answers: OneLayout | None = None
        self._standby: OneLayout | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._models: dict[_Key, ActiveModel] = {}
        self._state = pb.ServingState()  # without a pin, and before any layout is made: `begin` puts it in force

    @property
    def in_force(self) -> InForce | None:
        """What answers now; None before anything does."""
        return None if self._answers is None else self._answers.in_force

    # The decisions' thread ---------------------------------------------------------------------------------------

    def serve(self, state: pb.ServingState) -> list[str]:
        """Put the state in force, under another layout once all of that is in memory and warm.

        Returns what was refused of it beside the pin. BundleRefused: the pin is; all stays.
        """
        refused: list[str] = []
        models: dict[_Key, ActiveModel] = {}
        for pin in scoring_pins(state):
            try:
                models[_key(pin)] = self._models.get(_key(pin)) or self._load(pin)
            except BundleRefused as exc:
                if state.HasField("pin") and same(pin, state.pin):
                    raise
                refused.append(f"version {pin.version}: {exc}")
        self._on_loop(self._serve(state, models, refused))
        return refused

    def _on_loop(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError as exc:
            raise BundleRefused("the gateway is stopping") from exc

    # The event loop ----------------------------------------------------------------------------------------------

    async def begin(self, layout: Layout) -> None:
        """Where no decision has said what to serve: this layout, by popularity.

        Raises:
            StoreError: the rows cannot be opened.
            BundleRefused: the log cannot be read, or the process stops first.
        """
        if self._answers is None:
            await self._take_over(await self._made(layout, self._state, {}, []))

    async def close(self) -> None:
        """End all of it."""
        for task in self._closing:
            task.cancel()
        for serving in (self._answers, self._standby):
            if serving is not None:
                await serving.close()

    async def _serve(self, state: pb.ServingState, models: dict[_Key, ActiveModel], refused: list[str]) -> None:
        pin = models[_key(state.pin)] if state.HasField("pin") else None
        if self._answers is None and pin is None:
            self._state = state
            return
        target = self._of(pin)
        if target is not None:
            await self._try_out(target, state, models, refused)
            target.in_force = self._ready(target, state, models, refused)
            if target is not self._answers:
                await self._take_over(target)
        elif pin is not None:
            try:
                await self._take_over(await self._made(pin.layout, state, models, refused))
            except StoreError as exc:
                raise BundleRefused(f"revision {pin.layout.revision}: {exc}") from exc
        wanted = {_key(each) for each in loaded_pins(state)}
        self._models = {key: model for key, model in (self._models | models).items() if key in wanted}
        self._keep(state)

    def _of(self, pin: ActiveModel | None) -> OneLayout | None:
        """Who answers or stands by, and can serve it; None if a Serving must be made."""
        if pin is None:
            return self._answers
        for serving in (self._answers, self._standby):
            if serving is not None and serving.serves(pin.layout):
                return serving
        return None

    async def _try_out(
        self, target: OneLayout, state: pb.ServingState, models: dict[_Key, ActiveModel], refused: list[str]
    ) -> None:
        """Replay requests with what is new; what scores badly is not served, and a bad pin refuses the state."""
        for pin in scoring_pins(state):
            key = _key(pin)
            model = models.get(key)
            if model is None or key in self._models or not _fits(target, model):
                continue
            try:
                await target.try_out(model)
            except Unavailable as exc:
                if state.HasField("pin") and same(pin, state.pin):
                    raise BadModel(pin.name, pin.version, f"replayed requests: {exc}") from exc
                refused.append(f"version {pin.version}: replayed requests: {exc}")
                del models[key]

    def _ready(
        self, target: OneLayout, state: pb.ServingState, models: dict[_Key, ActiveModel], refused: list[str]
    ) -> InForce:
        """The state, ready for use under the target's layout; without what cannot be served beside its pin."""
        usable = {}
        for key, model in models.items():
            if _fits(target, model):
                usable[key] = model
            else:
                refused.append(
                    f"version {model.version}: it reads columns of revision {model.layout.revision}, the pin others of "
                    f"revision {target.layout.revision}; beside each other they read the same, so deploy it to all"
                )
        canary = shadow = None
        if state.HasField("canary") and (tried := usable.get(_key(state.canary.pin))) is not None:
            canary = CanaryInForce(tried, state.canary.percent / 100, Limits.of(state.canary.guardrails))
        if state.HasField("shadow") and (tried := usable.get(_key(state.shadow.pin))) is not None:
            shadow = ShadowInForce(tried, state.shadow.share)
        try:
            rules = target.rules(state.rules)
        except BundleRefused as exc:
            refused.append(f"rules {state.rules_version}: {exc}")
            rules = target.rules("")
        running, treatments = pb.ServingState(), dict[tuple[str, str], Treatment]()
        for experiment in state.experiments:
            try:
                treatments.update(_treatments(experiment, target, usable))
                running.experiments.append(experiment)
            except BundleRefused as exc:  # as a whole: with one arm gone it would compare nothing
                refused.append(f"experiment {experiment.name}: {exc}")
        return InForce(
            usable[_key(state.pin)] if state.HasField("pin") else None,
            rules,
            canary,
            shadow,
            Arms.of(running),
            treatments,
        )

    async def _take_over(self, following: OneLayout) -> None:
        """One reference changes hands; what answered stands by."""
        former, self._answers = self._answers, following
        self._rankers[self._usecase] = following.ranker
        if self._standby is not following:
            self._end(self._standby)
        self._standby = former
        if former is not None:
            self._tell(former.layout.revision, 0)
            log.info(
                "layout switched",
                usecase=self._usecase,
                revision=following.layout.revision,
                former=former.layout.revision,
            )
        self._tell(following.layout.revision, 1)
        gc.freeze()  # what lives long is not walked again; nothing is collected, that would take longer than a request

    def _keep(self, state: pb.ServingState) -> None:
        """End what stands by, unless a rollback would return to it."""
        standby = self._standby
        if standby is None:
            return
        model = standby.in_force.pin
        if model is None or not state.HasField("previous") or _key(state.previous)[:2] != (model.name, model.version):
            self._end(standby)
            self._standby = None

    async def _made(
        self, layout: Layout, state: pb.ServingState, models: dict[_Key, ActiveModel], refused: list[str]
    ) -> OneLayout:
        """A Serving of another layout with the state in force, as far as the present one and warm."""
        failures: list[Exception] = []

        def failed(exc: Exception) -> None:
            failures.append(exc)
            self._loop.call_soon_threadsafe(self._lost, serving, exc)

        serving = self._make(layout, failed)
        try:
            await self._try_out(serving, state, models, refused)
            serving.in_force = self._ready(serving, state, models, refused)
            serving.start()
            await self._read(serving, failures)
            await serving.warm()
        except BaseException:
            await serving.close()
            raise
        return serving

    def _lost(self, serving: OneLayout, exc: Exception) -> None:
        """Its log cannot be read any more. One that is still being made says so itself."""
        if serving is self._answers:
            self._fail(exc)
        elif serving is self._standby:
            log.warning("the layout of a rollback is lost", usecase=self._usecase, revision=serving.layout.revision)
            self._standby = None
            self._end(serving)

    async def _read(self, serving: OneLayout, failures: list[Exception]) -> None:
        present, revision = self._answers, serving.layout.revision
        gives_up = time.monotonic() + READ_S
        while not serving.caught_up:
            if failures:
                raise BundleRefused(f"revision {revision}: {failures[0]}") from failures[0]
            if self._stopping():
                raise BundleRefused("the gateway is stopping")
            if present is not None and time.monotonic() > gives_up:
                raise BundleRefused(f"revision {revision}: its items were not read within {READ_S:.0f} s; deploy again")
            await asyncio.sleep(_POLL_S)
        if present is None:
            return
        wanted, gives_up = present.markers(), time.monotonic() + CATCH_UP_S
        while behind := {at: offset for at, offset in wanted.items() if serving.markers().get(at, -1) < offset}:
            if self._stopping() or time.monotonic() > gives_up:
                break
            await asyncio.sleep(_POLL_S)
        if unknown := sorted(behind.keys() - serving.markers().keys()):
            raise BundleRefused(
                f"revision {revision}: it has no item aggregates of partitions {', '.join(map(str, unknown))}; build "
                f"it first (millrace rebuild features --revision {revision}), then deploy again"
            )
        if behind:  # after resent or bad events, which move no aggregate, two writers' last markers may differ
            log.warning("item aggregates of the new layout are behind", usecase=self._usecase, partitions=behind)

    def _end(self, serving: OneLayout | None) -> None:
        """Close it once no request can have it any more."""
        if serving is None:
            return

        async def closed() -> None:
            await asyncio.sleep(self._linger_s)
            await serving.close()

        if self._answers is None or self._answers.layout.revision != serving.layout.revision:
            self._tell(serving.layout.revision, None)
        task = self._loop.create_task(closed())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _key(pin: pb.ModelPin) -> _Key:
    """What makes two pins one model in memory."""
    return pin.name, pin.version, pin.digest, pin.triton_name


def _fits(target: OneLayout, model: ActiveModel) -> bool:
    """Whether the target's rows and columns are what the model was trained on."""
    mine, its = target.layout, model.layout
    return (mine.revision, mine.layout_hash, mine.feature_names) == (its.revision, its.layout_hash, its.feature_names)


def _treatments(
    experiment: pb.Experiment, target: OneLayout, models: dict[_Key, ActiveModel]
) -> dict[tuple[str, str], Treatment]:
    """What each arm changes. BundleRefused."""
    found = {}
    for arm in experiment.arms:
        model = None
        if arm.HasField("pin") and (model := models.get(_key(arm.pin))) is None:
            raise BundleRefused(f"arm {arm.name}: its version {arm.pin.version} cannot be served")
        rules = target.rules(arm.rules) if arm.rules else None
        if model is not None or rules is not None or experiment.interleaved:
            found[experiment.name, arm.name] = Treatment(model, rules)
    return _drafting(experiment, found) if experiment.interleaved else found


def _drafting(experiment: pb.Experiment, arms: dict[tuple[str, str], Treatment]) -> dict[tuple[str, str], Treatment]:
    """Of an interleaved experiment: what its one arm is, the control's ranking and the other's. BundleRefused."""
    names = sorted((arm.name for arm in experiment.arms), key=lambda name: name != experiment.control)
    if len(names) != 2:
        raise BundleRefused(f"interleaving takes two arms, not {len(names)}")
    own, other = (arms[experiment.name, name] for name in names)
    found = Treatment(own.model, own.rules, (names[0], names[1]), other)
    return {(experiment.name, INTERLEAVED): found}
