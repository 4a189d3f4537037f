"""Which Serving answers for a use case, and how another one takes its place: built beside it, warmed, then swapped."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, Protocol

import structlog
from definitions.layout import Layout
from millrace.decisions.v1 import decisions_pb2 as pb
from stores.errors import StoreError

from gateway.errors import BundleRefused
from gateway.model import ActiveModel
from gateway.ranking import Ranker

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.switch")

READ_S: Final = 120.0  # for the items of another layout, while the present one answers; a million take some 10 s
CATCH_UP_S: Final = 5.0  # then for its partials to come up to those that answer now
_POLL_S: Final = 0.02


class OneLayout(Protocol):
    """What `Serving` is."""

    layout: Layout
    model: ActiveModel | None
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

    def start(self) -> None:
        """Begin to read the log."""

    async def warm(self) -> None:
        """Rank for nobody until all is warm."""

    async def close(self) -> None:
        """Stop reading, close the rows."""


class Switch:
    """The Servings of one use case: the one that answers, and the one that a rollback would return to.

    `serve`, `remove` and `keep` belong to the decisions' thread; everything that they change is changed on the event
    loop. `rankers[usecase]` is what requests take: a request keeps the one that it began with, so rows, items, rules
    and model are never mixed.

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

    # The decisions' thread ---------------------------------------------------------------------------------------

    def serve(self, pin: pb.ModelPin) -> None:
        """Serve the pinned model, under another layout once all of that is in memory and warm. BundleRefused."""
        model = self._load(pin)
        self._on_loop(self._serve(model))

    def remove(self) -> None:
        """Answer by popularity."""
        self._on_loop(self._remove())

    def keep(self, previous: pb.ModelPin | None) -> None:
        """End what stands by, unless a rollback would return to it."""
        self._on_loop(self._keep(previous))

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
            await self._take_over(await self._made(layout, None))

    async def close(self) -> None:
        """End all of it."""
        for task in self._closing:
            task.cancel()
        for serving in (self._answers, self._standby):
            if serving is not None:
                await serving.close()

    async def _serve(self, model: ActiveModel) -> None:
        answers, standby = self._answers, self._standby
        if answers is not None and answers.serves(model.layout):
            answers.model = model
            return
        if standby is not None and standby.serves(model.layout):
            standby.model = model
            await self._take_over(standby)
            return
        try:
            await self._take_over(await self._made(model.layout, model))
        except StoreError as exc:
            raise BundleRefused(f"revision {model.layout.revision}: {exc}") from exc

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

    async def _remove(self) -> None:
        if self._answers is not None:
            self._answers.model = None

    async def _keep(self, previous: pb.ModelPin | None) -> None:
        standby = self._standby
        if standby is None:
            return
        model = standby.model
        if previous is None or model is None or (model.name, model.version) != (previous.name, previous.version):
            self._end(standby)
            self._standby = None

    async def _made(self, layout: Layout, model: ActiveModel | None) -> OneLayout:
        """A Serving of another layout, as far as the present one and warm."""
        failures: list[Exception] = []

        def failed(exc: Exception) -> None:
            failures.append(exc)
            self._loop.call_soon_threadsafe(self._lost, serving, exc)

        serving = self._make(layout, failed)
        serving.model = model
        serving.start()
        try:
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
