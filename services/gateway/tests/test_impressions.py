"""Impressions: what is written, and that a request never waits for it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from definitions.layout import layout_of
from definitions.rules import Rules
from definitions.usecase import UseCase
from gateway.errors import ImpressionTooLarge, Unavailable
from gateway.impressions import Impressions, check_largest, encode
from gateway.query import Shown
from gateway.ring import Ring
from gateway.writing import Writer
from millrace.events.v1 import events_pb2 as pb


class FakeLog:
    """Keeps records; raises, or reports a loss later, if told."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []
        self.raises: Exception | None = None
        self.loses = False
        self.closed = False

    def send(self, records: Sequence[tuple[int, bytes]], on_lost: Callable[[BaseException], None]) -> None:
        if self.raises is not None:
            raise self.raises
        for record in records:
            if self.loses:
                on_lost(OSError("never delivered"))
            self.records.append(record)

    def close(self, timeout_s: float) -> None:
        assert timeout_s >= 0
        self.closed = True


class Room:
    """A ring of this process."""

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.ring = Ring(Ring.made(capacity), capacity)

    def written(self, *logs: FakeLog) -> int:
        """Let a writer take all that is there; how many it lost."""
        self.ring.close(5.0)
        Writer(self.ring, logs, lambda _: None).run(lambda: False)
        return self.ring.lost


def sink(room: Room, counts: list[str], *, share: float = 1.0) -> Impressions:
    return Impressions(room.ring, 0, usecase="tiny", share=share, count=counts.append, on_error=lambda _: None)


def encoded(shown: Shown, *, full: bool) -> pb.Impression:
    return pb.Impression.FromString(b"".join(encode(shown, "tiny", full=full)))


def test_an_impression_holds_what_the_model_saw(world: Any) -> None:
    """Shown items first, then the other candidates without a position; features and ints in that order."""
    world.rows.rows[7] = world.row_of(7, rated=[4], epoch=9)
    ranking = world.rank(1, 2, 3, limit=2, session_id=77, time_us=1_700_000_000_000_000)
    message = encoded(world.sink.shown[0], full=True)

    layout = world.layout
    features = np.frombuffer(message.features, "<f4").reshape(3, len(layout.feature_names))
    ints = np.frombuffer(message.int_features, "<i8")
    user, items = ints[: len(layout.user_int_names)], ints[len(layout.user_int_names) :]
    assert [3, 2, 1] == list(message.item_ids) == features[:, layout.feature_names.index("i_rated_all")].tolist()
    assert ([1, 2, 0], [1, 1, 0], [2, 1, 0]) == (
        list(message.positions),
        list(message.propensities),
        list(message.scores),
    )
    assert 4 == user[layout.user_int_names.index("u_recent_ids_0")]
    assert [2, 2, 2] == items.tolist()
    assert (ranking.request_id, 7, "tiny", layout.layout_hash) == (
        message.request_id,
        message.user_id,
        message.usecase,
        message.layout_hash,
    )
    assert (9, 1, 0) == (message.row.epoch, message.row.interactions_offset, message.row.users_offset)
    assert [(0, 55)] == [(marker.partition, marker.offset) for marker in message.item_markers]
    assert ("trees", 3, pb.RUNG_MODEL, 100) == (
        message.model_name,
        message.model_version,
        message.rung,
        message.deadline_ms,
    )
    assert (77, 1_700_000_000_000_000) == (message.context.session_id, message.context.time_us)
    assert ["requested"] * 3 == list(message.reasons)
    assert "model" in [stage.stage for stage in message.stages]
    assert ("d" * 64, 3, []) == (message.model_digest, message.candidates, list(message.unknown))
    assert world.usecase.rules == Rules.parse(message.rules)
    assert b"" == message.rule_codes  # these rules read none


def test_an_impression_holds_what_the_rules_read(world: Any) -> None:
    """The codes in the candidates' logged order: items above 5 are of genre 1, and may take half of the list."""
    world.recommend(limit=4, max_share=0.5)
    message = encoded(world.sink.shown[0], full=True)

    codes = np.frombuffer(message.rule_codes, "<u4")
    assert [1 if item > 5 else 2 for item in message.item_ids] == codes.tolist()
    assert 0.5 == Rules.parse(message.rules).rerank[0].max_share.share


def test_a_rung_without_a_model_says_what_it_did_not_know(world: Any) -> None:
    """Item 99 is in no catalogue: the popular order puts it last, and the impression says why. The bundle is named: its
    item vectors may have told what is alike.
    """
    world.model.raises = world.local.raises = Unavailable("error")
    world.rank(99, 1, 2)
    message = encoded(world.sink.shown[0], full=True)

    assert (pb.RUNG_POPULAR, "d" * 64, 0) == (message.rung, message.model_digest, message.model_version)
    assert ([2, 1, 99], [False, False, True]) == (list(message.item_ids), list(message.unknown))


def test_outside_the_share_only_shown_items_are_logged(world: Any) -> None:
    """With their features: what was shown can always be trained on."""
    world.rank(1, 2, 3, limit=2)
    message = encoded(world.sink.shown[0], full=False)
    assert [3, 2] == list(message.item_ids)
    assert 2 * 4 * len(world.layout.feature_names) == len(message.features)
    assert 3 == message.candidates  # so that nobody takes these for all


@pytest.mark.parametrize(("share", "expected"), [(1.0, 3), (0.0, 1)])
def test_the_share_decides_by_request(world: Any, share: float, expected: int) -> None:
    """The request's id is the draw."""
    room, log = Room(), FakeLog()
    world.rank(1, 2, 3, limit=1)
    sink(room, [], share=share).offer(world.sink.shown[0])

    assert 0 == room.written(log)
    [(user, value)] = log.records
    assert (7, expected) == (user, len(pb.Impression.FromString(value).item_ids))
    assert log.closed


def test_what_does_not_fit_is_dropped_and_counted(world: Any) -> None:
    """Nobody takes them: requests go on at once, and nothing is kept for ever. Those that fitted are written."""
    world.rank(1, 2)
    [shown] = world.sink.shown
    room, log, counts = Room(4_096), FakeLog(), list[str]()
    impressions = sink(room, counts)
    for _ in range(50):
        impressions.offer(shown)

    assert counts.count("dropped") >= 25
    room.written(log)
    assert counts.count("queued") == len(log.records) == 50 - counts.count("dropped")


def test_what_cannot_be_encoded_is_lost_and_its_request_is_not(world: Any) -> None:
    """Counted, told; the next one is written."""
    world.rank(1, 2)
    [shown] = world.sink.shown
    room, log, counts = Room(), FakeLog(), list[str]()
    impressions = sink(room, counts)
    impressions.offer(shown._replace(deadline_ms="soon"))  # type: ignore[arg-type]
    impressions.offer(shown)

    assert ["lost", "queued"] == counts
    assert (0, 1) == (room.written(log), len(log.records))


def test_a_lost_record_does_not_end_the_log(world: Any) -> None:
    """Whether Kafka takes none, or loses one later: counted, and the next one is written."""
    world.rank(1, 2)
    [shown] = world.sink.shown
    for log, sent in ((FakeLog(), 2), (FakeLog(), 0)):
        log.loses, log.raises = bool(sent), None if sent else OSError("no broker")
        room = Room()
        impressions = sink(room, [])
        impressions.offer(shown)
        impressions.offer(shown)

        assert (2, sent) == (room.written(log), len(log.records))
        assert log.closed


def test_a_use_case_too_wide_for_kafka_is_refused_at_start(usecase: UseCase) -> None:
    """Not by Kafka, on the first large request."""
    check_largest(layout_of(usecase))
    feature = usecase.features[0]
    wide = usecase.model_copy(
        update={"features": tuple(feature.model_copy(update={"name": f"u_{n}"}) for n in range(200))}
    )
    with pytest.raises(ImpressionTooLarge, match=r"declare 8[0-9] float columns less"):
        check_largest(layout_of(wide))
