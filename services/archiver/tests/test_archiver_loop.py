"""The loop with a log and tables in memory: killed at each step, it archives each record exactly once."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pytest
from archiver.errors import DeadLettersUnavailable, FlushTimeout, RecordsGone
from archiver.log import Batch, Bounds, Decoded, Part, Place, Stream
from archiver.loop import Archiver
from archiver.metrics import Metrics
from definitions.records import CORRUPT_BATCH, MALFORMED, BadRecord, LogRecord
from prometheus_client import CollectorRegistry
from servicekit.errors import LogUnavailable, Stalled
from servicekit.kit import Readiness
from servicekit.watchdog import Watchdog
from stores.errors import NewerWriter, StoreUnavailable

TOPICS = ("movies.interactions", "movies.items")
SCHEMA = pa.schema([("partition", pa.int32()), ("offset", pa.int64()), ("value", pa.string())])


class Killed(BaseException):
    """The process ended here: nothing after it runs."""


class Faults:
    """Called at each step of the world; `at` maps the number of a step to what happens there."""

    def __init__(self, at: Mapping[int, Callable[[], None]] | None = None) -> None:
        self._at = at or {}
        self._steps = itertools.count()
        self.steps = 0

    def step(self) -> None:
        self.steps = next(self._steps)
        self._at.get(self.steps, lambda: None)()


def kill() -> None:
    raise Killed


class FakeLog:
    """What the topics hold; values starting with `!` are bad records, those with `!!` stand for broken batches."""

    def __init__(self) -> None:
        self.records: dict[Place, list[LogRecord]] = {}
        self.first: dict[Place, int] = {}

    def add(self, place: Place, *values: str) -> None:
        records = self.records.setdefault(place, [])
        for value in values:
            records.append(LogRecord(len(records), 1_000, b"k", value.encode()))


class FakeSource:
    """Reads a `FakeLog`, a few records a poll."""

    def __init__(self, log: FakeLog, faults: Faults, per_poll: int = 3) -> None:
        self._log = log
        self._faults = faults
        self._per_poll = per_poll
        self._positions: dict[Place, int] = {}
        self._polls_left: Iterator[int] = itertools.count()
        self._stop = threading.Event()

    def stop_after(self, polls: int, stop: threading.Event) -> None:
        self._polls_left, self._stop = iter(range(polls)), stop

    @property
    def places(self) -> Sequence[Place]:
        return list(self._log.records)

    def bounds(self) -> Mapping[Place, Bounds]:
        self._faults.step()
        log = self._log
        return {place: Bounds(log.first.get(place, 0), len(records)) for place, records in log.records.items()}

    def start(self, offsets: Mapping[Place, int]) -> None:
        self._positions = dict(offsets)

    def poll(self, timeout_s: float) -> Sequence[Batch]:
        self._faults.step()
        batches = []
        if next(self._polls_left, None) is None:
            self._stop.set()
            return []
        for place, records in self._log.records.items():
            at = self._positions[place]
            if found := records[at : at + self._per_poll]:
                self._positions[place] = found[-1].offset + 1
                lost = [each for each in found if (each.value or b"").startswith(b"!!")]
                records_left = [each for each in found if each not in lost]
                told = [BadRecord(each.offset, CORRUPT_BATCH, "broken", None, each.value) for each in lost]
                batches.append(Batch(place, records_left, found[-1].offset + 1, told))
        if not batches:
            self._stop.wait(min(timeout_s, 0.001))
        return batches

    def positions(self) -> Mapping[Place, int]:
        return self._positions

    def lags(self) -> Mapping[Place, int]:
        return {place: len(self._log.records[place]) - at for place, at in self._positions.items()}


class FakeTable:
    """Rows and positions in one step, as the lake has them."""

    def __init__(self) -> None:
        self.rows: list[tuple[Place, int, str]] = []
        self.positions: dict[Place, int] = {}
        self.commits = 0
        self.faults = Faults()
        self.unavailable = False
        self.lose_answers = False

    def next_offset(self, place: Place) -> int:
        self.faults.step()
        return self.positions.get(place, 0)

    def append(self, parts: Sequence[Part]) -> int:
        self.faults.step()
        if self.unavailable:
            raise StoreUnavailable("disk full")
        for part in parts:
            if part.expected is not None and part.expected != self.positions.get(part.place, 0):
                raise NewerWriter(str(part.place))
        new = [
            (part.place, row["offset"], row["value"])
            for part in parts
            for row in part.rows.to_pylist()
            if row["offset"] >= self.positions.get(part.place, 0)
        ]
        self.rows += new
        self.positions |= {
            part.place: part.next_offset for part in parts if part.next_offset > self.positions.get(part.place, 0)
        }
        self.commits += 1
        if self.lose_answers:
            self.lose_answers = False
            raise StoreUnavailable("answer lost")
        self.faults.step()
        return len(new)


class FakeDeadLetters:
    """Acknowledges, or does not."""

    def __init__(self) -> None:
        self.letters: list[tuple[Place, int]] = []
        self.faults = Faults()
        self.unavailable = False

    def publish(self, letters: Sequence[tuple[Place, BadRecord]]) -> None:
        self.faults.step()
        if self.unavailable:
            raise DeadLettersUnavailable("broker away")
        self.letters += [(place, bad.offset) for place, bad in letters]
        self.faults.step()


def decode(partition: int, records: Sequence[LogRecord]) -> Decoded:
    """Good records become rows."""
    good = [record for record in records if not (record.value or b"!").startswith(b"!")]
    bad = [record for record in records if record not in good]
    columns = {
        "partition": [partition] * len(good),
        "offset": [record.offset for record in good],
        "value": [(record.value or b"").decode() for record in good],
    }
    letters = [BadRecord(each.offset, MALFORMED, "bad", each.key, each.value) for each in bad]
    return Decoded(pa.table(columns, schema=SCHEMA), letters)


class World:
    """What outlives a process: the log, the tables, the dead letters."""

    def __init__(self) -> None:
        self.log = FakeLog()
        self.tables = {topic: FakeTable() for topic in TOPICS}
        self.dead_letters = FakeDeadLetters()
        self.registry = CollectorRegistry()
        self.ready = Readiness()

    def archiver(self, faults: Faults | None = None, **options: float) -> Archiver:
        """A fresh process."""
        faults = faults or Faults()
        self.dead_letters.faults = faults
        for table in self.tables.values():
            table.faults = faults
        self.registry = CollectorRegistry()
        self.ready = Readiness()
        return Archiver(
            [Stream(topic, decode, table) for topic, table in self.tables.items()],
            FakeSource(self.log, faults),
            self.dead_letters,
            ready=self.ready,
            metrics=Metrics(self.registry),
            **options,  # type: ignore[arg-type]
        )

    def check(self) -> None:
        """Each log record is once a row, or at least once a dead letter; positions are the log's ends."""
        rows = [(place, offset, value) for table in self.tables.values() for place, offset, value in table.rows]
        expected = [
            (place, record.offset, (record.value or b"").decode())
            for place, records in self.log.records.items()
            for record in records
        ]
        assert sorted(rows) == sorted(each for each in expected if not each[2].startswith("!"))
        bad = {(place, offset) for place, offset, value in expected if value.startswith("!")}
        assert set(self.dead_letters.letters) == bad
        ends = {place: len(records) for place, records in self.log.records.items() if records}
        assert {**self.tables[TOPICS[0]].positions, **self.tables[TOPICS[1]].positions} == ends


FIRST, SECOND, ITEMS = Place(TOPICS[0], 0), Place(TOPICS[0], 1), Place(TOPICS[1], 0)


@pytest.fixture
def world() -> World:
    """Two topics, three partitions, good and bad records."""
    world = World()
    world.log.add(FIRST, "a", "!b", "c", "d", "e", "!f", "g")
    world.log.add(SECOND, "!h", "!i", "!!j")
    world.log.add(ITEMS, "j", "k", "!l", "m")
    return world


@contextmanager
def running(archiver: Archiver) -> Iterator[threading.Event]:
    """The loop in a thread of its own; stopped at the end."""
    stop = threading.Event()
    thread = threading.Thread(target=archiver.run, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(10)


def eventually(holds: Callable[[], bool]) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def test_everything_on_the_log_is_archived_on_request(world: World) -> None:
    """The answer says up to where, and what this call wrote."""
    archiver = world.archiver()
    with running(archiver):
        first = archiver.flush(10)
        world.log.add(ITEMS, "n", "!o")
        second = archiver.flush(10)

    assert first == {
        "next_offsets": {TOPICS[0]: {"0": 7, "1": 3}, TOPICS[1]: {"0": 4}},
        "rows": {TOPICS[0]: 5, TOPICS[1]: 3},
        "dead_letters": 6,
    }
    assert second["rows"] == {TOPICS[1]: 1}
    assert second["dead_letters"] == 1
    assert second["next_offsets"][TOPICS[1]] == {"0": 6}
    assert archiver_metric(world, "archiver_dead_letters_total", reason="malformed") == 6
    assert archiver_metric(world, "archiver_rows_total", table=TOPICS[1]) == 4
    world.check()


def archiver_metric(world: World, name: str, **labels: str) -> float | None:
    """A sample of the newest process."""
    return world.registry.get_sample_value(name, labels)


def test_a_stop_archives_what_was_read(world: World) -> None:
    """Long before the next commit is due; and a process that finds nothing new commits nothing."""
    run_for(world.archiver(commit_s=600), polls=6)
    world.check()
    commits = [table.commits for table in world.tables.values()]
    run_for(world.archiver(commit_s=0.0), polls=6)

    assert commits == [1, 1]
    assert [table.commits for table in world.tables.values()] == commits


def test_rows_are_committed_in_time_and_when_many_wait(world: World) -> None:
    """Nobody has to ask."""
    with running(world.archiver(commit_s=0.01)):
        eventually(lambda: len(world.tables[TOPICS[0]].rows) == 5)
    world.log.add(FIRST, "later")
    with running(world.archiver(commit_s=600, buffer_bytes=1)):
        eventually(lambda: len(world.tables[TOPICS[0]].rows) == 6)
    world.check()


def test_killed_at_each_step_each_record_is_archived_once(world: World) -> None:
    """The process dies before and after each call to log, table and dead letters; the next one goes on."""
    counted = Faults()
    run_for(world.archiver(counted, commit_s=0.0), polls=6)

    assert counted.steps > 15
    for at in range(counted.steps + 1):
        killed = World()
        killed.log = world.log
        with pytest.raises(Killed):
            run_for(killed.archiver(Faults({at: kill}), commit_s=0.0), polls=6)
        run_for(killed.archiver(), polls=6)
        killed.check()


def run_for(archiver: Archiver, polls: int) -> None:
    """The loop in this thread, stopped after so many polls."""
    source, stop = archiver._source, threading.Event()
    assert isinstance(source, FakeSource)
    source.stop_after(polls, stop)
    archiver.run(stop)


def test_a_lake_that_is_full_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ready, nothing lost, nothing twice; the other tables go on; dead letters are sent once."""
    monkeypatch.setattr("archiver.loop._RETRY_S", 0.01)
    world.tables[TOPICS[1]].unavailable = True
    archiver = world.archiver(commit_s=0.01, buffer_bytes=1)
    with running(archiver):
        eventually(lambda: archiver_metric(world, "archiver_failures_total", error="StoreUnavailable") not in (None, 1))
        assert not world.ready.is_ready
        with pytest.raises(FlushTimeout):
            archiver.flush(0.05)
        world.tables[TOPICS[1]].unavailable = False
        archiver.flush(10)
        assert world.ready.is_ready

    world.check()
    assert len(world.dead_letters.letters) == len(set(world.dead_letters.letters))


def test_a_lost_answer_of_the_lake_is_no_newer_writer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit was made, the process heard of an error: it tries again, and the table drops what it has."""
    monkeypatch.setattr("archiver.loop._RETRY_S", 0.01)
    world.tables[TOPICS[0]].lose_answers = True
    archiver = world.archiver()
    with running(archiver):
        archiver.flush(10)
        world.log.add(FIRST, "later")
        archiver.flush(10)

    world.check()


def test_rows_wait_for_their_dead_letters(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit passes a bad record that is not acknowledged as a dead letter."""
    monkeypatch.setattr("archiver.loop._RETRY_S", 0.01)
    world.dead_letters.unavailable = True
    archiver = world.archiver(commit_s=0.01)
    with running(archiver):
        eventually(lambda: bool(archiver_metric(world, "archiver_failures_total", error="DeadLettersUnavailable")))
        assert all(not table.positions for table in world.tables.values())
        world.dead_letters.unavailable = False
        archiver.flush(10)

    world.check()


def test_a_log_that_is_away_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start and later."""
    monkeypatch.setattr("archiver.loop._RETRY_S", 0.001)

    def away() -> None:
        raise LogUnavailable("away")

    archiver = world.archiver(Faults(dict.fromkeys((0, 1, 5, 6, 9), away)))
    with running(archiver):
        archiver.flush(10)

    world.check()


def test_a_newer_writer_ends_the_process(world: World) -> None:
    """It is never tried again."""
    archiver = world.archiver(commit_s=0.0)
    step = iter(range(100))

    def overtake() -> None:
        if next(step) == 4:
            world.tables[TOPICS[0]].positions[FIRST] = 7

    faults = Faults(dict.fromkeys(range(100), overtake))
    for table in world.tables.values():
        table.faults = faults
    with pytest.raises(NewerWriter):
        run_for(archiver, polls=20)


def test_a_log_without_the_next_record_is_refused(world: World) -> None:
    """Retention took it: no silent gap."""
    world.tables[TOPICS[0]].positions[FIRST] = 2
    world.log.first[FIRST] = 3

    with pytest.raises(RecordsGone, match=r"movies.interactions partition 0: .* but the log begins at 3"):
        world.archiver().run(threading.Event())


def test_a_loss_may_be_accepted(world: World) -> None:
    """Then it goes on at the log's first record, as it does where nothing was archived yet."""
    world.tables[TOPICS[0]].positions[FIRST] = 2
    world.log.first[FIRST] = world.log.first[ITEMS] = 3
    archiver = world.archiver(accept_loss=True)
    with running(archiver):
        archiver.flush(10)

    assert [(place, offset) for place, offset, _ in world.tables[TOPICS[0]].rows] == [
        (FIRST, 3),
        (FIRST, 4),
        (FIRST, 6),
    ]
    assert [offset for _, offset, _ in world.tables[TOPICS[1]].rows] == [3]


def test_a_place_that_stands_is_assigned_again_and_the_third_time_the_process_ends(world: World) -> None:
    """As features does: a consumer that hears nothing while the log goes on must not look idle for ever."""
    archiver = world.archiver()
    archiver._resume(threading.Event())
    archiver._watchdog = Watchdog(quiet_s=0.0)

    for _ in range(3):
        archiver._watch()
    assert world.registry.get_sample_value("archiver_stalls_total") == 2 * 3  # three places, twice
    with pytest.raises(Stalled, match="stands at 0"):
        archiver._watch()
