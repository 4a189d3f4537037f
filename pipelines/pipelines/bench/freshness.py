"""How soon an accepted event is in the features of a `Rank` call: through collector, Kafka, features and gateway."""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from definitions.usecase import UseCase
from millrace.client import Event, EventClient, MillraceError, RankingClient

from pipelines.bench import at_least, at_most
from pipelines.errors import BadInputError, UnavailableError
from pipelines.progress import SILENT, Progress

P50_MS: Final = 250.0
P99_MS: Final = 1_000.0
ACHIEVED: Final = 0.98  # of the rate that was asked for, or the figures are of another load

_EVERY_S: Final = 0.02  # one request to the collector: 40 events at 2,000/s
_PROBES_PER_S: Final = 20.0
_USERS: Final = 20_000
_FIRST_USER: Final = 1 << 62  # made up, so that nobody's own history grows
_CANDIDATES: Final = 10
_CALL_S: Final = 1.0
_AGAIN_S: Final = 0.005  # between two calls for one event: an answer without a row comes at once

_GIVE_UP_S: Final = 10.0
_PUBLISHERS: Final = 8
_ASKERS: Final = 32


@dataclass
class _Seen:
    """What came of the measured part."""

    publish_ms: list[float] = field(default_factory=list)
    visible_ms: list[float] = field(default_factory=list)
    accepted: int = 0
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ended: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def run(
    gateway: str,
    collector: str,
    usecase: UseCase,
    item_ids: Sequence[int],
    *,
    rate: float = 2_000.0,
    seconds: float = 30.0,
    warmup_s: float = 5.0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Publish at `rate` and ask for the users of some events until the answer's row has the offset of the event.

    Timed from the moment `Publish` returned (the event is accepted) to the answer of the first `Rank` whose row offset
    is above the event's; requests are sent by the clock, not when the one before has ended. An event that no answer
    has shown after 10 s counts with those 10 s.

    Raises:
        UnavailableError: collector or gateway do not answer.
        BadInputError: the collector refuses an event.
    """
    seen = _Seen()
    draw = random.Random(seed)  # noqa: S311  a load, no secret
    action = _action(usecase)
    batch = max(1, round(rate * _EVERY_S))
    every_s = batch / rate
    calls, warm = round((seconds + warmup_s) / every_s), round(warmup_s / every_s)
    stride = max(1, round(1 / (_PROBES_PER_S * every_s)))
    progress.stage(f"publish {rate:g} events/s", calls)
    with (
        EventClient(collector, timeout_s=_GIVE_UP_S) as events,
        RankingClient(gateway, timeout_s=_CALL_S) as rankings,
        ThreadPoolExecutor(_ASKERS, "ask") as askers,
        ThreadPoolExecutor(_PUBLISHERS, "publish") as publishers,
    ):
        probe = _Probe(rankings, usecase.name, item_ids[:_CANDIDATES] or range(1, _CANDIDATES + 1), seen)
        probe.require()
        begun = time.monotonic() + every_s
        jobs: list[Future[Any]] = []
        for call in range(calls):
            time.sleep(max(0.0, begun + call * every_s - time.monotonic()))
            sent = [
                Event(user_id=_FIRST_USER + draw.randrange(_USERS), item_id=draw.choice(probe.items), action=action)
                for _ in range(batch)
            ]
            is_asked, is_counted = call % stride == 0, call >= warm
            published = publishers.submit(_publish, events, usecase.name, sent, seen, is_counted)
            jobs.append(published)
            if is_asked and is_counted:
                jobs.append(askers.submit(probe, published, sent[0].user_id))
            progress.advance(1)
        wait(jobs)
    if seen.refused:
        raise BadInputError(f"the collector refuses an event: {seen.refused[0]}")
    if seen.errors:
        raise UnavailableError(f"{len(seen.errors)} calls failed, first: {seen.errors[0]}; try: millrace status")
    return _result(usecase, rate, seen, seen.accepted / (seen.ended - begun - warm * every_s))


def _publish(client: EventClient, usecase: str, sent: Sequence[Event], seen: _Seen, count: bool) -> tuple[int, float]:
    """Publish; the first event's offset, and when all were accepted (monotonic)."""
    began = time.monotonic()
    try:
        answer = client.publish(usecase, sent)
    except MillraceError as exc:
        with seen.lock:
            seen.errors.append(f"publish: {exc}")
        raise
    accepted = time.monotonic()
    with seen.lock:
        seen.refused += [each.reason for each in answer.rejected]
        if count:
            seen.publish_ms.append((accepted - began) * 1e3)
            seen.accepted += len(answer.accepted)
            seen.ended = max(seen.ended, accepted)
    return next((each.offset for each in answer.accepted if each.index == 0), -1), accepted


@dataclass(frozen=True)
class _Probe:
    """Asks for one user until the answer's row has an event."""

    client: RankingClient
    usecase: str
    items: Sequence[int]
    seen: _Seen

    def require(self) -> None:
        """Say at once that nobody answers. Raises UnavailableError."""
        try:
            self.client.rank(self.usecase, _FIRST_USER, self.items, timeout_s=_GIVE_UP_S)
        except MillraceError as exc:
            raise UnavailableError(f"ranking: {exc}; is the stack up? Try: millrace up") from exc

    def __call__(self, published: Future[tuple[int, float]], user: int) -> None:
        """Wait for the acknowledgement, then ask; a call that ends without the event is followed by another."""
        if published.exception() is not None:
            return
        offset, accepted = published.result()
        while offset >= 0:
            try:
                answer = self.client.rank(self.usecase, user, self.items, min_interactions_offset=offset + 1)
            except MillraceError as exc:
                answer = None
                failed = str(exc)
            waited = time.monotonic() - accepted
            if (answer is not None and answer.row.interactions_offset > offset) or waited > _GIVE_UP_S:
                break
        with self.seen.lock:
            self.seen.visible_ms.append(waited * 1e3)
            if answer is None:
                self.seen.errors.append(f"rank: {failed}")


def _action(usecase: UseCase) -> int:
    """One that makes no training example, where there is one: a measurement should teach the models nothing."""
    actions = np.arange(len(usecase.actions), dtype=np.uint32)
    plain = np.flatnonzero(~usecase.is_example(actions))
    return int(plain[0]) if len(plain) else 0


def _result(usecase: UseCase, asked: float, seen: _Seen, rate: float) -> dict[str, Any]:
    visible, publish = np.array(seen.visible_ms), np.array(seen.publish_ms)

    def percentiles(values: Any) -> dict[str, float]:
        return {f"p{q}_ms": round(float(np.percentile(values, q)), 2) for q in (50, 90, 99)}

    keys = {
        **percentiles(visible),
        "max_ms": round(float(visible.max()), 2),
        "rate": round(rate, 1),
        "rate_asked": asked,
        "probes": len(visible),
        "events": seen.accepted,
    }
    return {
        **keys,
        "what": f"{usecase.name}: {seen.accepted:,} events of {_USERS:,} made-up users at {asked:g}/s; "
        f"{len(visible)} of them asked for by Rank x {_CANDIDATES} items until the row has them",
        "table": [
            {"who": "sent -> accepted (Publish returns)", **percentiles(publish)},
            {"who": "accepted -> in the row of a Rank call", **percentiles(visible)},
        ],
        "bars": [
            at_most(keys, "p50_ms", P50_MS),
            at_most(keys, "p99_ms", P99_MS),
            at_least(keys, "rate", ACHIEVED * asked),
        ],
    }
