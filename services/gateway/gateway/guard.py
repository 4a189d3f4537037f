"""Watches the versions in force, and takes back what breaks a guardrail: by a decision, so every gateway follows."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from definitions.serving_state import scoring_pins, without
from millrace.decisions.v1 import decisions_pb2 as pb
from servicekit.decisions import publish
from servicekit.errors import LogError

from gateway.guardrails import breached
from gateway.in_force import InForce

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.guard")

ACTOR: Final = "gateway"
LOOK_S: Final = 0.25
COMPARE_EVERY: Final = 4  # looks; bad answers are counted at each, comparisons sort samples
AGAIN_S: Final = 5.0  # a version that is still in force then: the decision did not reach the log
_PUBLISH_S: Final = 5.0  # less than the drain has
BAD: Final = "three bad answers (shape, type, NaN or infinite) within 5 s"


class Guard:
    """The watch over one use case. `look` and `take_back` belong to the event loop.

    Args:
        usecase: its name.
        in_force: what answers now; None before anything does.
        newest: the newest decision that holds, in force yet or not.
        announce: has a decision on the log when it returns; may raise LogError.
        count: is told each outcome: taken_back, nothing_to_return_to, unpublished.
    """

    def __init__(
        self,
        usecase: str,
        *,
        in_force: Callable[[], InForce | None],
        newest: Callable[[], pb.Decision],
        announce: Callable[[pb.Decision], Awaitable[None]],
        count: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usecase = usecase
        self._in_force = in_force
        self._newest = newest
        self._announce = announce
        self._count = count
        self._now = now
        self._looks = 0
        self._handled: dict[tuple[str, int, int], float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Take back what must be."""
        in_force = self._in_force()
        if in_force is None:
            return
        self._looks += 1
        for model in in_force.models():
            if model.health.struck_out:
                await self.take_back(model.name, model.version, BAD)
        canary, pin = in_force.canary, in_force.pin
        if canary is None or pin is None or self._looks % COMPARE_EVERY:
            return
        if (reason := breached(canary.model.health, pin.health, canary.limits)) is not None:
            await self.take_back(canary.model.name, canary.model.version, reason)

    async def take_back(self, name: str, version: int, reason: str) -> None:
        """Decide that this version scores nothing any more; once, however often it is asked while that takes effect.

        Where another decision came first and left the version in, ours has no effect and is made again from that one.
        """
        now, newest = self._now(), self._newest()
        state, handled = newest.state, (name, version, newest.revision)
        if now - self._handled.get(handled, -AGAIN_S) < AGAIN_S:
            return
        self._handled[handled] = now
        bad = next((pin for pin in scoring_pins(state) if (pin.name, pin.version) == (name, version)), None)
        if bad is None:  # another gateway was first
            return
        found = without(state, bad)
        if found is None:
            log.error("bad version, and none to return to", usecase=self._usecase, version=version, reason=reason)
            self._count("nothing_to_return_to")
            return
        after, kind = found
        why = f"taken back by itself: version {version}: {reason}"
        decision = pb.Decision(
            usecase=self._usecase, kind=kind, reason=why, actor=ACTOR, time_us=time.time_ns() // 1_000, state=after,
            revision=newest.revision + 1,
        )  # fmt: skip
        try:
            await self._announce(decision)
        except LogError as exc:
            log.error("bad version could not be taken back", usecase=self._usecase, version=version, error=str(exc))
            self._count("unpublished")
            return
        log.error("bad version taken back", usecase=self._usecase, version=version, reason=reason)
        self._count("taken_back")


class Announcer:
    """Publishes decisions off the event loop."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    async def __call__(self, decision: pb.Decision) -> None:
        """On the log when it returns. LogError."""
        await asyncio.to_thread(publish, self._bootstrap, decision, wait_s=_PUBLISH_S)
