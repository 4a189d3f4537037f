"""One layout takes the place of another while requests go on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from bundle import IntInputs
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase
from gateway import switch as switches
from gateway.errors import BundleRefused
from gateway.model import ActiveModel
from gateway.switch import Switch
from millrace.decisions.v1 import decisions_pb2 as pb


class FakeServing:
    """A Serving whose log is read when the test says so. `ranker` is the serving itself: what a request would take."""

    def __init__(self, layout: Layout, on_failure: Callable[[Exception], None]) -> None:
        self.layout = layout
        self.model: ActiveModel | None = None
        self.ranker: Any = self
        self.on_failure = on_failure
        self.is_read = True
        self.known = {0: 10, 1: 20}
        self.asked = asyncio.Event()  # what holds the switch up was looked at
        self.warmed_with: int | None = None
        self.closed = False

    @property
    def caught_up(self) -> bool:
        if not self.is_read:
            self.asked.set()
        return self.is_read

    def markers(self) -> dict[int, int]:
        self.asked.set()
        return self.known

    def serves(self, layout: Layout) -> bool:
        return (self.layout.revision, self.layout.usecase) == (layout.revision, layout.usecase)

    def start(self) -> None:
        pass

    async def warm(self) -> None:
        self.warmed_with = None if self.model is None else self.model.version

    async def close(self) -> None:
        self.closed = True


class Rig:
    """A switch over fakes. `pins` maps a version to the revision that its bundle reads."""

    def __init__(self, usecase: UseCase) -> None:
        self.usecase = usecase
        self.pins = {1: 1, 2: 1, 3: 2, 4: 2}
        self.made: list[FakeServing] = []
        self._made_two = asyncio.Event()
        self.prepare: Callable[[FakeServing], None] = lambda _: None
        self.rankers: dict[str, Any] = {}
        self.failures: list[Exception] = []
        self.told: dict[int, int] = {}
        self.stopping = False
        self.switch = Switch(
            usecase.name,
            load=self._load,
            make=self._make,
            rankers=self.rankers,
            stopping=lambda: self.stopping,
            fail=self.failures.append,
            tell=self._tell,
            linger_s=0.0,
        )

    @property
    def answers(self) -> tuple[int, int | None]:
        """Revision and version that a request would get now."""
        serving = self.rankers[self.usecase.name]
        return serving.layout.revision, None if serving.model is None else serving.model.version

    async def serve(self, version: int, previous: int | None = None) -> None:
        """As the decisions' thread does."""
        await asyncio.to_thread(self.switch.serve, pb.ModelPin(name="trees", version=version))
        await self.keep(previous)

    async def keep(self, previous: int | None) -> None:
        kept = None if previous is None else pb.ModelPin(name="trees", version=previous)
        await asyncio.to_thread(self.switch.keep, kept)
        await asyncio.sleep(0.001)  # what is ended closes in a task of its own

    async def asked(self) -> None:
        """Until the switch waits for the second Serving."""
        await self._made_two.wait()
        await self.made[1].asked.wait()

    def _load(self, pin: pb.ModelPin) -> ActiveModel:
        layout = layout_of(self.usecase, self.pins[pin.version])
        return ActiveModel(pin.name, pin.version, pin.digest, None, None, IntInputs((), (), (), {}), layout)

    def _make(self, layout: Layout, on_failure: Callable[[Exception], None]) -> FakeServing:
        serving = FakeServing(layout, on_failure)
        self.prepare(serving)
        self.made.append(serving)
        if len(self.made) == 2:
            self._made_two.set()
        return serving

    def _tell(self, revision: int, state: int | None) -> None:
        if state is None:
            self.told.pop(revision, None)
        else:
            self.told[revision] = state


@pytest.fixture
async def rig(usecase: UseCase) -> Rig:
    return Rig(usecase)


async def test_before_a_decision_the_own_layout_answers_by_popularity(rig: Rig) -> None:
    """The first start; after a decision it is not made a second time."""
    await rig.switch.begin(layout_of(rig.usecase))
    assert (1, None) == rig.answers
    await rig.serve(1)
    await rig.switch.begin(layout_of(rig.usecase))
    assert ((1, 1), 1) == (rig.answers, len(rig.made))


async def test_a_model_of_the_same_layout_changes_one_reference(rig: Rig) -> None:
    """Nothing is read again."""
    await rig.serve(1)
    await rig.serve(2, previous=1)
    assert ((1, 2), 1) == (rig.answers, len(rig.made))


async def test_another_layout_answers_only_once_it_is_read_and_warm(rig: Rig) -> None:
    """Until then the former one does, with its own model; then all changes at once."""
    await rig.serve(2)
    rig.prepare = lambda serving: setattr(serving, "is_read", False)
    waiting = asyncio.create_task(rig.serve(3, previous=2))
    await rig.asked()
    assert (1, 2) == rig.answers

    rig.made[1].is_read = True
    await waiting

    assert ((2, 3), 3) == (rig.answers, rig.made[1].warmed_with)
    assert not rig.made[0].closed
    assert {1: 0, 2: 1} == rig.told


async def test_a_rollback_returns_to_what_stood_by(rig: Rig) -> None:
    """Nothing is read again; and forth."""
    await rig.serve(2)
    await rig.serve(3, previous=2)
    await rig.serve(2, previous=3)
    assert ((1, 2), 2) == (rig.answers, len(rig.made))
    await rig.serve(3, previous=2)
    assert ((2, 3), 2) == (rig.answers, len(rig.made))


async def test_what_no_rollback_returns_to_is_closed(rig: Rig) -> None:
    """The next deploy, or a decision that gives the former version up."""
    await rig.serve(2)
    await rig.serve(3, previous=2)
    await rig.serve(4, previous=3)
    assert ([True, False], {2: 1}) == ([each.closed for each in rig.made], rig.told)

    await rig.serve(2, previous=4)
    await rig.keep(None)
    assert ([True, True, False], {1: 1}) == ([each.closed for each in rig.made], rig.told)


async def test_a_layout_without_aggregates_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has built the revision: its items would all be empty."""
    monkeypatch.setattr(switches, "CATCH_UP_S", 0.01)
    await rig.serve(2)
    rig.prepare = lambda serving: setattr(serving, "known", {0: 10})
    with pytest.raises(BundleRefused, match=r"no item aggregates of partitions 1.*--revision 2"):
        await rig.serve(3)
    assert ((1, 2), True, False) == (rig.answers, rig.made[1].closed, rig.made[0].closed)


async def test_a_layout_that_is_behind_is_waited_for(rig: Rig) -> None:
    """Its writer has yet to emit what the present one has."""
    await rig.serve(2)
    rig.prepare = lambda serving: setattr(serving, "known", {0: 10, 1: 19})
    waiting = asyncio.create_task(rig.serve(3, previous=2))
    await rig.asked()
    assert (1, 2) == rig.answers
    rig.made[1].known = {0: 10, 1: 20}
    await waiting
    assert (2, 3) == rig.answers


async def test_a_layout_whose_topic_cannot_be_read_is_refused(rig: Rig) -> None:
    """And the process lives: what answers does not depend on it."""
    await rig.serve(2)

    def broken(serving: FakeServing) -> None:
        serving.is_read = False
        asyncio.get_running_loop().call_later(0.01, serving.on_failure, RuntimeError("no such topic"))

    rig.prepare = broken
    with pytest.raises(BundleRefused, match="revision 2: no such topic"):
        await rig.serve(3)
    assert ((1, 2), [], True) == (rig.answers, rig.failures, rig.made[1].closed)


async def test_a_lost_log_ends_the_process_only_if_it_answers(rig: Rig) -> None:
    """What stands by is let go."""
    await rig.serve(2)
    await rig.serve(3, previous=2)
    rig.made[0].on_failure(RuntimeError("gone"))
    await asyncio.sleep(0.01)
    assert ([], True, {2: 1}) == (rig.failures, rig.made[0].closed, rig.told)
    rig.made[1].on_failure(RuntimeError("gone"))
    await asyncio.sleep(0.01)
    assert ["gone"] == [str(each) for each in rig.failures]


async def test_a_stop_ends_the_wait(rig: Rig) -> None:
    """The drain has a budget."""
    rig.prepare = lambda serving: setattr(serving, "is_read", False)
    rig.stopping = True
    with pytest.raises(BundleRefused, match="stopping"):
        await rig.switch.begin(layout_of(rig.usecase))
    assert rig.made[0].closed


async def test_without_a_pin_the_layout_goes_on_by_popularity(rig: Rig) -> None:
    """A state that pins nothing."""
    await rig.serve(1)
    await asyncio.to_thread(rig.switch.remove)
    assert (1, None) == rig.answers
