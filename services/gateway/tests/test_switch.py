"""One layout takes the place of another while requests go on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from bundle import IntInputs
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase
from gateway import switch as switches
from gateway.errors import BadModel, BundleRefused, Unavailable
from gateway.in_force import InForce
from gateway.model import ActiveModel
from gateway.switch import Switch
from millrace.decisions.v1 import decisions_pb2 as pb

RULES: Any = "rules of the use case"
BAD = {66, 67}
BROKEN = {77}


def pin(version: int) -> pb.ModelPin:
    return pb.ModelPin(name="trees", version=version)


class FakeServing:
    """A Serving whose log is read when the test says so. `ranker` is the serving itself: what a request would take."""

    def __init__(self, layout: Layout, on_failure: Callable[[Exception], None]) -> None:
        self.layout = layout
        self.in_force = InForce(None, RULES)
        self.ranker: Any = self
        self.tried: list[int] = []
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
        self.warmed_with = None if self.in_force.pin is None else self.in_force.pin.version

    async def try_out(self, model: ActiveModel) -> None:
        self.tried.append(model.version)
        if model.version in BAD:
            raise Unavailable("bad_scores", "3 of 10 are NaN")

    def rules(self, text: str) -> Any:
        if text == "bad":
            raise BundleRefused("no such attribute")
        return text or RULES

    async def close(self) -> None:
        self.closed = True


class Rig:
    """A switch over fakes. `pins` maps a version to the revision that its bundle reads."""

    def __init__(self, usecase: UseCase) -> None:
        self.usecase = usecase
        self.pins = {1: 1, 2: 1, 3: 2, 4: 2}
        self.made: list[FakeServing] = []
        self.loads: list[int] = []
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
        pin = serving.in_force.pin
        return serving.layout.revision, None if pin is None else pin.version

    async def serve(self, version: int | None, previous: int | None = None, **more: Any) -> list[str]:
        """As the decisions' thread does; what was refused."""
        state = pb.ServingState(**more)
        if version is not None:
            state.pin.CopyFrom(pin(version))
        if previous is not None:
            state.previous.CopyFrom(pin(previous))
        refused = await asyncio.to_thread(self.switch.serve, state)
        await asyncio.sleep(0.001)  # what is ended closes in a task of its own
        return refused

    async def asked(self) -> None:
        """Until the switch waits for the second Serving."""
        await self._made_two.wait()
        await self.made[1].asked.wait()

    def _load(self, pin: pb.ModelPin) -> ActiveModel:
        if pin.version in BROKEN:
            raise BundleRefused("model.onnx: changed since it was written")
        self.loads.append(pin.version)
        layout = layout_of(self.usecase, self.pins.get(pin.version, 1))
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
    await rig.serve(2)
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
    await rig.serve(None)
    assert (1, None) == rig.answers


async def test_rules_that_were_decided_before_the_first_deploy_are_in_force(rig: Rig) -> None:
    """Popularity is ordered by them too."""
    await rig.serve(None, rules="decided")
    await rig.switch.begin(layout_of(rig.usecase))
    assert "decided" == rig.made[0].in_force.rules


async def test_everything_of_a_state_changes_as_one_reference(rig: Rig) -> None:
    """Canary, shadow, rules and arms; what is loaded already is not loaded again."""
    await rig.serve(1)
    former = rig.made[0].in_force
    arm = pb.Arm(name="b", share=0.5, pin=pin(3), rules="of the arm")
    rig.pins |= {3: 1, 4: 1}
    await rig.serve(
        1,
        canary=pb.Canary(pin=pin(2), percent=5),
        shadow=pb.Shadow(pin=pin(4), share=0.1),
        rules="decided",
        experiments=[pb.Experiment(name="x", layer="model", arms=[arm])],
    )
    now = rig.made[0].in_force
    assert (None, RULES) == (former.canary, former.rules)
    assert now.canary is not None
    assert now.shadow is not None
    assert (2, 0.05, 4, 0.1, "decided") == (
        now.canary.model.version, now.canary.share, now.shadow.model.version, now.shadow.share, now.rules,
    )  # fmt: skip
    treatment = now.treatments["x", "b"]
    assert treatment.model is not None
    assert (3, "of the arm", 1) == (treatment.model.version, treatment.rules, len(rig.made))


async def test_what_reads_other_columns_than_the_pin_cannot_stand_beside_it(rig: Rig) -> None:
    """It is refused with the remedy; an experiment with such an arm is off as a whole, the rest in force."""
    arm = pb.Arm(name="b", share=0.5, pin=pin(3))
    refused = await rig.serve(
        1, canary=pb.Canary(pin=pin(3), percent=5), experiments=[pb.Experiment(name="x", arms=[arm])]
    )
    assert "deploy it to all" in refused[0]
    assert "experiment x: arm b" in refused[1]
    now = rig.made[0].in_force
    assert ((1, 1), None, ()) == (rig.answers, now.canary, now.arms.layers)


async def test_a_new_version_is_tried_before_it_answers_and_only_then(rig: Rig) -> None:
    """Once: a rollback finds its version warm."""
    await rig.serve(1)
    await rig.serve(2, previous=1)
    await rig.serve(1, previous=2)
    assert ([1, 2], [1, 2]) == (rig.made[0].tried, rig.loads)


async def test_a_pin_that_scores_badly_is_refused(rig: Rig) -> None:
    """The former answers on, and who decided can be told which it was; also on a layout of its own."""
    await rig.serve(1)
    with pytest.raises(BadModel, match=r"version 66.*NaN") as caught:
        await rig.serve(66, previous=1)
    assert ("trees", 66, (1, 1)) == (caught.value.name, caught.value.version, rig.answers)
    rig.pins[67] = 2
    with pytest.raises(BadModel, match="version 67"):
        await rig.serve(67, previous=1)
    assert ((1, 1), True) == (rig.answers, rig.made[1].closed)


@pytest.mark.parametrize("version", [66, 77])
async def test_a_canary_that_is_refused_leaves_the_pin_alone(rig: Rig, version: int) -> None:
    """Bad scores, or files that do not verify."""
    refused = await rig.serve(1, canary=pb.Canary(pin=pin(version), percent=5))
    assert [f"version {version}"] == [each.split(":")[0] for each in refused]
    assert ((1, 1), None) == (rig.answers, rig.made[0].in_force.canary)


async def test_rules_that_cannot_be_used_leave_those_of_the_use_case(rig: Rig) -> None:
    """Told; the model is in force."""
    assert ["rules 3: no such attribute"] == await rig.serve(1, rules="bad", rules_version=3)
    assert ((1, 1), RULES) == (rig.answers, rig.made[0].in_force.rules)


async def test_models_that_nothing_names_are_let_go(rig: Rig) -> None:
    """What a rollback returns to is kept: its swap loads nothing."""
    for version, previous in ((1, None), (2, 1), (4, 2)):
        rig.pins[4] = 1
        await rig.serve(version, previous)
    await rig.serve(2, previous=4)
    assert [1, 2, 4] == rig.loads
    await rig.serve(1, previous=2)
    assert [1, 2, 4, 1] == rig.loads
