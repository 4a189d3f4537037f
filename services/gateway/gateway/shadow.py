"""A version that scores copies of requests after they were answered: compared, logged, never shown."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from definitions.heads import combined, head_weights

from gateway.errors import Unavailable
from gateway.in_force import InForce
from gateway.ladder import MODEL_CAP_S
from gateway.model import ActiveModel, finite
from gateway.query import Floats, Ints, Rung, Shown, Stage
from gateway.ranking import ImpressionSink

MAX_IN_FLIGHT: Final = 4
RECENT: Final = 16
TRIALS: Final = 50  # calls until a new version is warm: both instances of Triton, connections, allocators
TRIAL_S: Final = 1.0
_AFTER_S: Final = 0.002  # the answer goes out first
_WHOLE: Final = 2**64

Outcome = Literal["scored", "shed", "failed"]


class Shadowing:
    """An `ImpressionSink` in front of another: passes each impression on, and has a sample scored by the shadow.

    Only what rung MODEL answered is compared. At most four scorings are under way; a busy process sheds them first.
    `recent` are the last requests with all their inputs, which a new version is tried with.

    Args:
        sink: where impressions go, the shadow's too: with arm `shadow:<version>`, all positions 0.
        in_force: the state of the moment; its shadow names version and share.
        busy: whether the process has better things to do.
        count: is told what became of each sampled request.
    """

    def __init__(
        self,
        sink: ImpressionSink,
        in_force: Callable[[], InForce],
        *,
        busy: Callable[[], bool],
        count: Callable[[Outcome], None],
    ) -> None:
        self.recent: deque[Shown] = deque(maxlen=RECENT)
        self._sink = sink
        self._in_force = in_force
        self._busy = busy
        self._count = count
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0

    def offer(self, shown: Shown) -> None:
        """Pass it on; never waits."""
        self._sink.offer(shown)
        self.recent.append(shown)
        shadow = self._in_force().shadow
        if shadow is None or shown.ranking.rung is not Rung.MODEL:
            return
        if (
            shown.ranking.request_id >= shadow.share * _WHOLE
        ):  # ids are drawn evenly, and those of full impressions alike
            return
        if self._in_flight >= MAX_IN_FLIGHT or self._busy():
            self._count("shed")
            return
        self._in_flight += 1
        asyncio.get_running_loop().call_later(_AFTER_S, self._begin, shadow.model, shown)

    def _begin(self, model: ActiveModel, shown: Shown) -> None:
        task = asyncio.get_running_loop().create_task(self._score(model, shown))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._in_flight -= 1

    async def _score(self, model: ActiveModel, shown: Shown) -> None:
        began = model.health.now()
        try:
            scores = await score_again(model, shown, MODEL_CAP_S)
        except Unavailable as left:
            model.health.failed(left.reason)
            self._count("failed")
            return
        model.health.scored(began, scores)
        micros = round((model.health.now() - began) * 1e6)
        ranking = shown.ranking._replace(
            item_ids=np.empty(0, np.uint64),  # nothing is shown: all positions are 0
            scores=np.empty(0, np.float32),
            reasons=(),
            model_name=model.name,
            model_version=model.version,
            arm=f"shadow:{model.version}",
            stages=(Stage("model", micros),),
        )
        self._sink.offer(
            shown._replace(
                ranking=ranking,
                model=model,
                scores=scores[shown.order],
                propensities=np.zeros_like(shown.propensities),
            )
        )
        self._count("scored")


async def score_again(model: ActiveModel, shown: Shown, budget_s: float) -> Floats:
    """Scores float32 (n,) of the same candidates with the very inputs of that request, in the order they were made in.

    Raises:
        Unavailable: also with `bad_scores`.
    """
    ints = model.ints(shown.user_ints, shown.item_ints)
    return await _scores(model, shown.features, ints, budget_s, weights=shown.rules.rules.heads)


async def tried_out(model: ActiveModel, recent: Sequence[Shown]) -> None:
    """Score the requests of `recent` again, and the bundle's golden rows, `TRIALS` times in all.

    Raises:
        Unavailable: also with `bad_scores`, of the fallback too.
    """
    inputs = [(shown.features, model.ints(shown.user_ints, shown.item_ints)) for shown in recent if len(shown.features)]
    inputs += [model.golden] if model.golden is not None else []
    for features, ints in islice(cycle(inputs), max(TRIALS, len(inputs)) if inputs else 0):
        await _scores(model, features, ints, TRIAL_S)
        await asyncio.sleep(0)  # a graph in this process does not give way by itself
    for features, ints in inputs[:1] if model.local is not None else []:
        await _scores(model, features, ints, TRIAL_S, local=True)


async def _scores(
    model: ActiveModel,
    features: Floats,
    ints: Ints | None,
    budget_s: float,
    *,
    local: bool = False,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> Floats:
    scorer = model.local if local and model.local is not None else model.model
    scores = combined(await scorer.score(features, ints, budget_s), head_weights(model.heads, weights))
    if scores.shape != (len(features),) or scores.dtype != np.float32 or not finite(scores):
        raise Unavailable("bad_scores", f"version {model.version}")
    return scores
