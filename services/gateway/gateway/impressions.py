"""Impressions as bytes, handed to the process that writes them to Kafka; a request never waits for that."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy.typing as npt
from definitions.layout import Layout
from millrace.events.v1 import events_pb2 as pb

from gateway.errors import ImpressionTooLarge
from gateway.query import MAX_ITEMS, Rung, Shown
from gateway.ring import Part, Ring
from gateway.wire import varint

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


class Impressions:
    """An `ImpressionSink`: `count(outcome)` is told of each record: queued, dropped (no room), lost (not encoded).

    `share` of the requests log all candidates with their features, chosen by request id; the rest the shown items.
    """

    def __init__(
        self,
        ring: Ring,
        source: int,
        *,
        usecase: str,
        share: float,
        count: Callable[[str], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._ring = ring
        self._source = source
        self._usecase = usecase
        self._share = share
        self._count = count
        self._on_error = on_error

    def offer(self, shown: Shown) -> None:
        """Encode it, and hand it on or drop it. Never waits."""
        whole = shown.ranking.request_id < self._share * _WHOLE or not len(shown.ranking.item_ids)  # a shadow's
        try:
            parts = encode(shown, self._usecase, full=whole)
        except Exception as exc:  # noqa: BLE001  one impression, whatever is wrong with it, must not fail its request
            self._count("lost")
            self._on_error(exc)
            return
        self._count("queued" if self._ring.push(self._source, shown.query.user_id, parts) else "dropped")


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


def encode(shown: Shown, usecase: str, *, full: bool) -> list[Part]:
    """The parts of the Impression's bytes; `full` takes all candidates, else the shown items."""
    ranking = shown.ranking
    places = len(ranking.item_ids)
    count = len(shown.item_ids) if full else places
    rows = shown.order[:count]
    digest = "" if shown.model is None else shown.model.digest
    parts: list[Part] = [
        _message(shown, count),
        _names(usecase, shown.layout_hash, ranking.model_name, ranking.model_version, RUNGS[ranking.rung], ranking.arm,
               digest, shown.rules.text),
        _markers(tuple(shown.item_markers.items())),
        _positions(places, count),
        _reasons(shown.reasons[:count]),
    ]  # fmt: skip
    # Fields may come in any order, and a packed array is its numbers' bytes, little-endian as the machine is: no number
    # becomes a Python object.
    _add(parts, "item_ids", shown.item_ids[:count])
    _add(parts, "scores", shown.scores[:count])
    _add(parts, "propensities", shown.propensities[:count])
    _add(parts, "features", shown.features.take(rows, axis=0))
    _add(parts, "int_features", shown.user_ints, shown.item_ints.take(rows, axis=0))
    _add(parts, "rule_codes", shown.rule_codes.take(rows, axis=0))
    return parts


def _message(shown: Shown, count: int) -> bytes:
    """The fields that are of this request alone, but the arrays."""
    ranking, query = shown.ranking, shown.query
    message = pb.Impression(
        request_id=ranking.request_id,
        user_id=query.user_id,
        time_us=shown.time_us,
        deadline_ms=shown.deadline_ms,
        unknown=None if shown.unknown is None else shown.unknown[:count].tolist(),
        candidates=len(shown.item_ids),
    )
    context = message.context
    context.device, context.surface = query.context.device, query.context.surface
    context.country, context.session_id = query.context.country, query.session_id
    if query.time_us is not None:
        context.time_us = query.time_us
    add_stage = message.stages.add
    for stage, micros in ranking.stages:
        add_stage(stage=stage, micros=micros)
    if ranking.row is not None:
        row = message.row
        row.epoch, row.interactions_offset, row.users_offset = ranking.row
    return message.SerializeToString()


def _add(parts: list[Part], field: str, *arrays: npt.NDArray[Any]) -> None:
    """The arrays' bytes, one after the other, as a field; none if there is nothing in them."""
    size = 0
    for array in arrays:
        size += array.nbytes
    if size:
        parts.append(_tag(field, size))
        parts += [array.data.cast("B") for array in arrays if array.nbytes]


@lru_cache(maxsize=256)
def _names(
    usecase: str,
    layout_hash: int,
    model_name: str,
    model_version: int,
    rung: pb.Rung,
    arm: str,
    digest: str,
    rules: str,
) -> bytes:
    """The fields that are the same for whole days."""
    return pb.Impression(
        usecase=usecase,
        layout_hash=layout_hash,
        model_name=model_name,
        model_version=model_version,
        rung=rung,
        arm=arm,
        model_digest=digest,
        rules=rules,
    ).SerializeToString()


@lru_cache(maxsize=64)
def _markers(markers: tuple[tuple[int, int], ...]) -> bytes:
    """The field `item_markers`: (partition, offset) of each."""
    return pb.Impression(item_markers=[pb.ItemMarker(partition=p, offset=o) for p, o in markers]).SerializeToString()


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
