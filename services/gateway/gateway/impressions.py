"""Impressions to Kafka: a bounded queue that never makes a request wait, and one thread that encodes and produces."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from definitions.layout import Layout
from millrace.events.v1 import events_pb2 as pb

from gateway.errors import ImpressionTooLarge
from gateway.query import MAX_ITEMS, Rung, Shown
from gateway.wire import varint

MAX_QUEUED: Final = 10_000
PAUSE_S: Final = 0.05
BATCH: Final = 64  # records of one hand-over; what waits longer is encoded after it
MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024
MAX_RECORD_BYTES: Final = 1_048_576 - 16 * 1024  # Kafka's limit less batch and record headers, with room
RUNGS: Final = {
    Rung.MODEL: pb.RUNG_MODEL,
    Rung.LOCAL_MODEL: pb.RUNG_LOCAL_MODEL,
    Rung.PRECOMPUTED: pb.RUNG_PRECOMPUTED,
    Rung.POPULAR: pb.RUNG_POPULAR,
}
# id, score, propensity, position, whether unknown, reason with its tag and length (`precomputed` is the longest)
_CANDIDATE_BYTES: Final = 8 + 4 + 4 + 3 + 1 + 13
_FIXED_BYTES: Final = 2_048 + 6_144  # ids, names, timings, 64 markers; the rules
_WHOLE: Final = 2**64
_LENGTH_DELIMITED: Final = 2  # wire type


class Log(Protocol):
    """Where encoded impressions go; used by the impressions' thread only."""

    def send(self, records: Sequence[tuple[int, bytes]], on_lost: Callable[[BaseException], None]) -> None:
        """Hand records over, each a user and a value. May wait; raises where it takes none of them, and tells `on_lost`
        of each that is lost later.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Wait until all is sent, at most `timeout_s`, and close."""
        ...


class Impressions:
    """An `ImpressionSink`: `count(outcome)` is told of each record: queued, dropped, lost (by Kafka).

    `share` of the requests log all candidates with their features, chosen by request id; the rest the shown items.
    """

    def __init__(
        self,
        log: Log,
        *,
        usecase: str,
        share: float,
        count: Callable[[str], None],
        on_error: Callable[[BaseException], None],
        max_queued: int = MAX_QUEUED,
        max_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._log = log
        self._usecase = usecase
        self._share = share
        self._count = count
        self._on_error = on_error
        self._max_bytes = max_bytes
        self._max_queued = max_queued
        self._queue: deque[Shown] = deque()
        self._offered = self._done = 0  # bytes: each is added to by one thread only, so neither needs a lock
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)

    def start(self) -> None:
        """Begin to produce."""
        self._thread.start()

    def offer(self, shown: Shown) -> None:
        """Queue it, or drop and count it where the queue is full. Never waits, wakes nobody. The event loop's."""
        size = shown.size
        fits = len(self._queue) < self._max_queued and self._offered - self._done + size <= self._max_bytes
        if fits:
            self._offered += size
            self._queue.append(shown)
        self._count("queued" if fits else "dropped")

    def close(self, timeout_s: float) -> None:
        """Produce and flush what is queued, for at most `timeout_s`."""
        if not self._thread.is_alive():
            return
        ends = time.monotonic() + timeout_s
        self._closing.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            try:
                self._log.close(max(0.0, ends - time.monotonic()))
            except Exception as exc:  # noqa: BLE001  we are leaving: told, and no more to be done
                self._on_error(exc)

    def _run(self) -> None:
        # By the clock, not woken by each request: two threads that pass the interpreter to and fro for every impression
        # took 300 us of a request, half of it from the event loop.
        while not self._closing.wait(PAUSE_S) or self._queue:
            while self._queue:
                self._produce([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])

    def _produce(self, batch: Sequence[Shown]) -> None:
        records = []
        for shown in batch:
            whole = shown.ranking.request_id < self._share * _WHOLE or not len(shown.ranking.item_ids)  # a shadow's
            try:
                records.append((shown.query.user_id, encode(shown, self._usecase, full=whole)))
            except Exception as exc:  # noqa: BLE001  one impression, whatever is wrong with it, must not end the log
                self._lost(exc)
        try:
            self._log.send(records, self._lost)
        except Exception as exc:  # noqa: BLE001  nor may whatever is wrong with Kafka
            for _ in records:
                self._lost(exc)
        self._done += sum(shown.size for shown in batch)

    def _lost(self, exc: BaseException) -> None:
        self._count("lost")
        self._on_error(exc)


def check_largest(layout: Layout) -> None:
    """Make sure that Kafka takes the largest impression of this layout: all candidates with all features.

    Raises:
        ImpressionTooLarge: the message says by how many columns.
    """
    row = 4 * len(layout.feature_names) + 8 * len(layout.item_int_names) + 4 * layout.item.code_width  # rules read some
    largest = MAX_ITEMS * (row + _CANDIDATE_BYTES) + 8 * len(layout.user_int_names) + _FIXED_BYTES
    if largest > MAX_RECORD_BYTES:
        excess = -(-(largest - MAX_RECORD_BYTES) // (4 * MAX_ITEMS))
        raise ImpressionTooLarge(
            f"{layout.usecase.name}: an impression of {MAX_ITEMS} candidates takes {largest} bytes, Kafka at most "
            f"{MAX_RECORD_BYTES}; declare {excess} float columns less"
        )


def encode(shown: Shown, usecase: str, *, full: bool) -> bytes:
    """The Impression's bytes; `full` takes all candidates, else the shown items."""
    ranking, query = shown.ranking, shown.query
    places = len(ranking.item_ids)
    count = len(shown.item_ids) if full else places
    rows = shown.order[:count]
    features = np.ascontiguousarray(shown.features[rows], "<f4")
    ints = np.concatenate([shown.user_ints.astype("<i8"), shown.item_ints[rows].astype("<i8").ravel()])
    message = pb.Impression(
        request_id=ranking.request_id,
        user_id=query.user_id,
        time_us=shown.time_us,
        usecase=usecase,
        layout_hash=shown.layout_hash,
        model_name=ranking.model_name,
        model_version=ranking.model_version,
        rung=RUNGS[ranking.rung],
        arm=ranking.arm,
        deadline_ms=shown.deadline_ms,
        model_digest="" if shown.model is None else shown.model.digest,
        rules=shown.rules.text,
        unknown=None if shown.unknown is None else shown.unknown[:count].tolist(),
        candidates=len(shown.item_ids),
        item_markers=[pb.ItemMarker(partition=p, offset=o) for p, o in shown.item_markers.items()],
        stages=[pb.StageTiming(stage=stage.name, micros=stage.micros) for stage in ranking.stages],
        context=pb.Context(
            device=query.context.device,
            surface=query.context.surface,
            country=query.context.country,
            session_id=query.session_id,
            time_us=query.time_us,
        ),
    )
    if ranking.row is not None:
        message.row.epoch = ranking.row.epoch
        message.row.interactions_offset = ranking.row.interactions_offset
        message.row.users_offset = ranking.row.users_offset
    # Fields may come in any order, and a packed array is its numbers' bytes: no number becomes a Python object.
    arrays = {
        "item_ids": shown.item_ids[:count].astype("<u8", copy=False),
        "scores": shown.scores[:count].astype("<f4", copy=False),
        "propensities": shown.propensities[:count].astype("<f4", copy=False),
        "features": features,
        "int_features": ints,
        "rule_codes": np.ascontiguousarray(shown.rule_codes[rows], "<u4"),
    }
    tails = [part for name, array in arrays.items() for part in (_tag(name, array.nbytes), array.tobytes())]
    return b"".join([message.SerializeToString(), _positions(places, count), _reasons(shown.reasons[:count]), *tails])


@lru_cache(maxsize=1_024)
def _positions(places: int, count: int) -> bytes:
    """The field `positions` of `count` candidates, the first `places` of which are shown."""
    return pb.Impression(positions=[*range(1, places + 1), *[0] * (count - places)]).SerializeToString()


@lru_cache(maxsize=256)
def _reasons(reasons: tuple[str, ...]) -> bytes:
    """The field `reasons`; mostly all of them are the same."""
    return pb.Impression(reasons=reasons).SerializeToString()


@lru_cache(maxsize=4_096)
def _tag(field: str, nbytes: int) -> bytes:
    """What precedes a length-delimited field of `nbytes` on the wire: its number and type, and its length."""
    return varint(pb.Impression.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED) + varint(nbytes)
