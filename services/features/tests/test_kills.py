"""Exactly once through kills: at every step that leaves the process, and at random ones."""

import random
from typing import TYPE_CHECKING, Any

import pytest
from features.emission import ROWS_PER_WRITE, RowPace
from features.loop import FeatureLoop

if TYPE_CHECKING:
    from conftest import World
else:
    World = Any


@pytest.fixture(autouse=True)
def increments(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the states are."""
    monkeypatch.setattr(type(world), "increments_from", 0)


def live(world: World, loop: FeatureLoop, *, turns: int, seed: int) -> None:
    """Recover, then turns with traffic between them; a checkpoint every few turns."""
    loop.recover()
    for turn in range(turns):
        world.traffic(seed * 50 + turn, 6)
        loop.step()
        world.clock.now += 0.4


def check(world: World) -> None:
    """A last undisturbed life, then: online and on `item-features`, exactly what one fold of the log gives."""
    last = world.loop()
    last.recover()
    world.settle(last)
    rows, partials = world.expected()
    assert world.stored() == rows
    assert world.topic.partials() == partials


def steps_of_one_life(world: World) -> int:
    live(world, world.loop(checkpoint_s=1), turns=6, seed=0)
    return int(world.fuse.steps)


@pytest.mark.parametrize("most_bytes", [1 << 40, 1], ids=["in memory", "evicted"])
def test_a_kill_at_each_step_costs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, most_bytes: int
) -> None:
    """Polled, folded, written, sent, temporary file cut, renamed, evicted: the next life makes it right."""
    monkeypatch.setattr(type(world), "most_bytes", most_bytes)
    for step in range(1, steps_of_one_life(world) + 1):
        each = type(world)(tmp_path_factory.mktemp("kill"))
        each.fuse.left = step
        with pytest.raises(BaseException, match=r"^$") as killed:
            live(each, each.loop(checkpoint_s=1), turns=6, seed=0)
        assert type(killed.value).__name__ == "Killed"
        check(each)


@pytest.mark.parametrize(
    ("inline_rows", "most_bytes"),
    [(ROWS_PER_WRITE, 1 << 40), (0, 1 << 40), (0, 1)],
    ids=["inline", "beside", "evicted"],
)
@pytest.mark.parametrize("seed", range(3))
def test_many_random_kills_cost_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int, inline_rows: int, most_bytes: int
) -> None:
    """Lives of random length, killed while events flow, rows watched for going backwards; also written beside it."""
    monkeypatch.setattr(type(world), "rows", RowPace(inline_rows=inline_rows))
    monkeypatch.setattr(type(world), "most_bytes", most_bytes)
    chance = random.Random(seed)  # noqa: S311  seeded on purpose
    kills = 0
    for life in range(12):
        world.fuse.left = chance.randrange(3, 30)
        try:
            live(world, world.loop(checkpoint_s=1), turns=5, seed=seed * 20 + life)
        except BaseException as exc:  # the fuse's own kind, which no code of ours may catch
            if type(exc).__name__ != "Killed":
                raise
        world.loop_writer_rests()  # a kill beside the loop counts too, once it has come
        kills += world.fuse.left is None
    world.fuse.left = None

    assert kills >= 6
    check(world)
    versions: dict[int, tuple[bytes, int]] = {}
    for write in world.store.writes:
        for user, row in write.items():
            offset = int.from_bytes(row[17:25], "little")
            assert offset >= versions.get(user, (b"", 0))[1]
            versions[user] = (row, offset)
