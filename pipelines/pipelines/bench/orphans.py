"""Calls to Triton that outlive whoever waited for them: it crashes if one is cancelled, so none ever is."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from pipelines.bench import at_least, at_most
from pipelines.progress import SILENT, Progress

CALLS: Final = 10_000
SLOW_S: Final = 0.1  # of a batch; the budgets are shorter
BUDGETS_S: Final = (0.002, 0.08)
HANG_UP: Final = 0.25  # share of callers who are gone before their budget ends
IN_FLIGHT: Final = 64
_PATIENCE_S: Final = 30.0
_GOOD: Final = 100
_PAUSE_S: Final = 0.005


class Calls(Protocol):
    """The gateway's way to Triton, with a model that can be made slow."""

    outlived: int

    async def ask(self, budget_s: float) -> str:
        """One call: `ok`, or why there was no answer within the budget."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls under way, whoever still waits for them."""
        ...

    async def drained(self, budget_s: float) -> None:
        """Wait until none is, for at most `budget_s`."""


def run(
    calls: Callable[[], AbstractAsyncContextManager[Calls]],
    slow: Callable[[float], Callable[[], None]],
    alive: Callable[[], bool],
    *,
    count: int = CALLS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Let `count` calls outlive their budget, then have the same Triton answer well.

    Args:
        calls: to one Triton; entered on an event loop.
        slow: makes every batch last so many seconds; returns how to end that.
        alive: whether it is still the same process.
        count: that must outlive their budget.
        seed: of budgets, and of who hangs up.
        progress: is told each.
    """
    return asyncio.run(_run(calls, slow, alive, count, random.Random(seed), progress))  # noqa: S311  a load


async def _run(
    calls: Callable[[], AbstractAsyncContextManager[Calls]],
    slow: Callable[[float], Callable[[], None]],
    alive: Callable[[], bool],
    count: int,
    draw: random.Random,
    progress: Progress,
) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    async with calls() as triton:
        heal = slow(SLOW_S)
        progress.stage("calls that outlive their budget", count)
        began = time.monotonic()
        await asyncio.gather(*(_caller(triton, count, draw, outcomes, alive, progress) for _ in range(IN_FLIGHT)))
        seconds = time.monotonic() - began
        heal()
        healed = time.monotonic()
        await triton.drained(_PATIENCE_S)
        drained_s = time.monotonic() - healed
        good = [await triton.ask(1.0) for _ in range(_GOOD)]
        keys = {
            "outlived": triton.outlived,
            "hung_up": outcomes["hung up"],
            "outcomes": dict(outcomes),
            "triton_exits": 0 if alive() else 1,
            "good_after": good.count("ok"),
            "left_in_flight": triton.in_flight,
            "drained_s": round(drained_s, 2),
            "seconds": round(seconds, 1),
        }
    return {
        **keys,
        "what": f"real Triton, every batch {SLOW_S * 1e3:g} ms; {IN_FLIGHT} callers with budgets of "
        f"{BUDGETS_S[0] * 1e3:g} to {BUDGETS_S[1] * 1e3:g} ms, a quarter of them gone before; then {_GOOD} calls more",
        "table": [],
        "bars": [
            at_least(keys, "outlived", count),
            at_most(keys, "triton_exits", 0),
            at_least(keys, "good_after", _GOOD),
            at_most(keys, "left_in_flight", 0),
        ],
    }


async def _caller(
    triton: Calls,
    count: int,
    draw: random.Random,
    outcomes: Counter[str],
    alive: Callable[[], bool],
    progress: Progress,
) -> None:
    """Ask again and again until enough calls have outlived their budgets, or Triton is gone."""
    outcome = ""
    while triton.outlived < count and (outcome != "error" or alive()):
        budget_s = draw.uniform(*BUDGETS_S)
        asked = asyncio.ensure_future(triton.ask(budget_s))
        if draw.random() < HANG_UP:
            await asyncio.sleep(budget_s / 2)
            asked.cancel()
        try:
            outcome = await asked
        except asyncio.CancelledError:
            outcome = "hung up"
        outcomes[outcome] += 1
        progress.advance(outcome == "time")
        if outcome not in ("ok", "time"):  # it came at once
            await asyncio.sleep(_PAUSE_S)
