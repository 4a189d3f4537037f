"""Events from Kafka into features, by one `features` process, end to end; beside kafka-python and Quix Streams."""

import contextlib
import http.client
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb
from servicekit.kafka import assign, make_consumer
from servicekit.topics import topic

from pipelines.bench import at_least, at_most
from pipelines.errors import UnavailableError
from pipelines.progress import SILENT, Progress
from pipelines.settings import bare_environ

EVENTS_PER_S: Final = 1_000_000.0
RATIO_QUIX: Final = 20.0

PARTITIONS: Final = 4
_QUIX: Final = "quixstreams==3.28.1"
_PROTOBUF: Final = "protobuf>=6.33,<7"
_SPAN_US: Final = 3_600_000_000  # of event times, up to now
_CATEGORIES: Final = 40
_STOCK_EVENTS: Final = 300_000
_QUIX_EVENTS: Final = 150_000
_READY_S: Final = 120.0
_GIVE_UP_S: Final = 300.0
_LOOK_S: Final = 0.05
_PARTS: Final = ("poll", "fold", "rows", "items", "checkpoint")  # of the loop
_EMIT_SHARE: Final = 0.25

# A record: its key, then the message field by field, as protobuf writes it; all of one size.
_RECORD: Final = np.dtype(
    [
        ("key", ">u8"),
        *((part, kind) for name, kind, tag in (
            ("event_id", "<u8", 0x09),
            ("user_id", "<u8", 0x11),
            ("item_id", "<u8", 0x19),
            ("action", "u1", 0x20),
            ("value", "<f4", 0x2D),
            ("event_time_us", "<i8", 0x31),
            ("session_id", "<u8", 0x49),
            ("device", "u1", 0x50),
            ("category", "u1", 0x68),
        ) for part, kind in ((f"tag_{name}_{tag}", "u1"), (name, kind))),
    ]
)  # fmt: skip


def run(
    bootstrap: str,
    home: Path,
    protos: Path,
    metrics_port: int,
    usecase: UseCase,
    *,
    events: int = 10_000_000,
    users: int = 1_000_000,
    items: int = 100_000,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Read a log that was written beforehand, from the moment that a ready `features` may go on to its last row.

    The process starts on the empty log, is stopped (SIGSTOP) while the log is written, and goes on: so it replays
    nothing in silence. It fetches, checks, decodes, dedupes, folds, writes rows to LMDB and partials to Kafka, and
    saves checkpoints, as always.

    Args:
        bootstrap: a broker with the use case's topics, empty; their partitions are `PARTITIONS`.
        home: an empty folder for the process's state.
        protos: folder of the generated protos, for Quix Streams.
        metrics_port: a free one, for the features process.
        usecase: one of the checkout's.
        events: on the log, uncompressed.
        users: ids, by Zipf's law with exponent 1; `items` likewise.
        seed: of the events.
        progress: is told each stage.

    Raises:
        UnavailableError: a process did not do its part.
    """
    name = topic(usecase.name, "interactions")
    records = _records(np.random.default_rng(seed), len(usecase.actions), events, users, items)
    values = home / "records"
    with _features(bootstrap, home, usecase, metrics_port) as features:
        progress.stage("write the log")
        records.tofile(values)
        features.hold()
        _by_quix("produce", protos, bootstrap=bootstrap, topic=name, values=str(values), record=_RECORD.itemsize,
                 partitions=PARTITIONS)  # fmt: skip
        values.unlink()
        progress.stage("features")
        seen = features.watch(usecase.name, events)
        peak_mib, state = features.peak_mib(), features.state(usecase.name)
    progress.stage("kafka-python")
    sample = min(events // 2, _STOCK_EVENTS)  # beside what the first poll gives, which is not timed
    stock = _stock(bootstrap, name, sample)
    progress.stage("Quix Streams")
    quix = float(
        _by_quix("sum", protos, bootstrap=bootstrap, topic=name, events=min(events, _QUIX_EVENTS))["events_per_s"]
    )
    rate = events / seen.seconds
    result: dict[str, Any] = {
        "events_per_s": rate,
        "emit_interval_p99_ms": seen.interval_p99_ms,
        "stock_events_per_s": stock,
        "quix_events_per_s": quix,
        "ratio_stock": rate / stock,
        "ratio_quix": rate / quix,
        "peak_mib": peak_mib,
        "bytes_per_user": state["user_bytes"] / max(1.0, state["users"]),
        "bytes_per_item": state["item_bytes"] / max(1.0, state["items"]),
        "events": events,
        "users": int(state["users"]),
        "rows": seen.rows,
        "emit_share": (seen.parts_s["rows"] + seen.parts_s["items"]) / seen.seconds,
        "parts_s": seen.parts_s,
    }
    return result | {
        "what": f"{events:,} events of {usecase.name}, {_RECORD.itemsize - 8} bytes each, uncompressed in {PARTITIONS} "
        f"partitions; {users:,} users and {items:,} items by Zipf, {seen.rows:,} rows written",
        "table": [
            {"who": "Millrace features, end to end", "events/s": rate},
            {"who": f"kafka-python, one parse each ({sample:,} events)", "events/s": stock},
            {"who": f"Quix Streams, one tumbling sum ({min(events, _QUIX_EVENTS):,} events)", "events/s": quix},
        ],
        "bars": [
            at_least(result, "events_per_s", EVENTS_PER_S),
            at_least(result, "ratio_quix", RATIO_QUIX),
            at_most(result, "emit_share", _EMIT_SHARE),
        ],
    }


def _records(random: np.random.Generator, actions: int, events: int, users: int, items: int) -> npt.NDArray[np.void]:
    records = np.zeros(events, _RECORD)
    for part in _RECORD.names or ():
        if part.startswith("tag_"):
            records[part] = int(part.rsplit("_", 1)[1])
    records["event_id"] = np.arange(1, events + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    records["user_id"] = records["key"] = _zipf(random, users, events)
    records["item_id"] = _zipf(random, items, events)
    records["action"] = random.integers(0, actions, events)
    records["value"] = random.integers(0, 60, events)
    now_us = time.time_ns() // 1000
    records["event_time_us"] = now_us - _SPAN_US + np.arange(events) * (_SPAN_US // events)
    records["session_id"] = records["user_id"] * 7
    records["device"] = 1 + records["event_id"] % 3
    records["category"] = 1 + records["item_id"] % _CATEGORIES
    return records


def _zipf(random: np.random.Generator, size: int, draws: int) -> npt.NDArray[np.uint64]:
    """Ids 1 to `size`, the r-th likeliest with a weight of 1 / r."""
    weights = np.cumsum(1 / np.arange(1, size + 1))
    ranks = np.searchsorted(weights, random.random(draws) * weights[-1])
    ids: npt.NDArray[np.uint64] = random.permutation(size).astype(np.uint64)[ranks] + np.uint64(1)
    return ids


_Page = Callable[..., float]


@dataclass
class _Seen:
    """What the process's metrics showed."""

    seconds: float = 0.0
    rows: int = 0
    parts_s: dict[str, float] = field(default_factory=dict)
    emitted_at: list[float] = field(default_factory=list)

    @property
    def interval_p99_ms(self) -> float:
        return float(np.percentile(np.diff(self.emitted_at), 99)) * 1000 if len(self.emitted_at) > 1 else 0.0


class _Process:
    """A running `features`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process, self._port, self._log = process, port, log
        self._before: _Page = lambda *_: 0.0

    def hold(self) -> None:
        """Stop it where it is."""
        self._before = self._page()
        self._process.send_signal(signal.SIGSTOP)

    def await_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            with contextlib.suppress(OSError):
                if self._get("/ready")[0] == HTTPStatus.OK:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"features was not ready: {self._log.read_text()[-2000:]}")
            time.sleep(_LOOK_S)

    def watch(self, usecase: str, events: int) -> _Seen:
        """Let it go on after `hold`, and look until all rows are written of all events. It has written none before."""
        seen, emissions = _Seen(), 0.0
        self._process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        seen.emitted_at.append(began)
        while time.monotonic() - began < _GIVE_UP_S and self._process.poll() is None:
            time.sleep(_LOOK_S)
            with contextlib.suppress(OSError):
                page = self._page()
                now_emissions = page("features_emit_seconds_count", usecase, "users")
                if now_emissions > emissions:
                    emissions = now_emissions
                    seen.emitted_at.append(time.monotonic())
                is_read = page("features_events_total", usecase, "interactions") >= events
                if is_read and not page("features_changed_rows", usecase):
                    seen.seconds = time.monotonic() - began
                    seen.rows = int(page("features_emitted_total", usecase, "users"))
                    series = "features_loop_seconds_total"
                    seen.parts_s = {part: page(series, part) - self._before(series, part) for part in _PARTS}
                    return seen
        raise UnavailableError(f"features did not read {events:,} events: {self._log.read_text()[-2000:]}")

    def state(self, usecase: str) -> dict[str, float]:
        """Keys and bytes in memory."""
        deadline = time.monotonic() + 30
        while not (page := self._page())("features_state_keys", usecase, "users") and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return {
            name: page(series, usecase, what)
            for name, series, what in (
                ("users", "features_state_keys", "users"),
                ("items", "features_state_keys", "items"),
                ("user_bytes", "features_state_bytes", "users"),
                ("item_bytes", "features_state_bytes", "items"),
            )
        }

    def peak_mib(self) -> float:
        """Greatest resident memory so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def _get(self, path: str) -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def _page(self) -> _Page:
        """A page of metrics: asked for a series and labels' values, it gives the sum over all that have these."""
        lines = self._get("/metrics")[1].splitlines()

        def total(series: str, *labels: str) -> float:
            return sum(
                float(line.rsplit(" ", 1)[1])
                for line in lines
                if line.startswith(f"{series}{{") and all(f'"{label}"' in line for label in labels)
            )

        return total


@contextmanager
def _features(bootstrap: str, home: Path, usecase: UseCase, port: int) -> Iterator[_Process]:
    log = home / "features.log"
    environ = bare_environ() | {
        "MILLRACE_HOME": str(home),
        "MILLRACE_KAFKA": bootstrap,
        "MILLRACE_USECASES": usecase.name,
        "MILLRACE_METRICS_PORT": str(port),
    }
    with log.open("wb") as output, subprocess.Popen(
        [sys.executable, "-m", "features"], env=environ, stdout=output, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        running = _Process(process, port, log)
        try:
            running.await_ready()
            yield running
        finally:
            process.kill()  # its state is thrown away


def _stock(bootstrap: str, name: str, events: int) -> float:
    """Events a second of kafka-python's consumer, each parsed once; timed from the first that it gives."""
    parse, read, began = pb.Interaction.FromString, 0, 0.0
    with contextlib.closing(make_consumer(bootstrap)) as consumer:
        assign(consumer, name, dict.fromkeys(range(PARTITIONS), 0))
        while read < events:
            polled = consumer.poll(timeout_ms=10_000)
            if not polled:
                raise UnavailableError(f"{name} gave {read:,} of {events:,} records")
            if not began:
                began = time.monotonic()
                continue
            for found in polled.values():
                for record in found:
                    parse(record.value)
                read += len(found)
    return read / (time.monotonic() - began)


def _by_quix(task: str, protos: Path, **arguments: Any) -> Mapping[str, Any]:
    """Run `stream_quix.py` where Quix Streams is installed, which uv does on the first use."""
    own = Path(__file__).parents[3] / ".tools" / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        raise UnavailableError("uv is not installed, and Quix Streams' environment needs it: make setup")
    with tempfile.TemporaryDirectory(prefix="quix-") as folder:
        given, answered = Path(folder) / "arguments.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(arguments))
        command = [
            uv,
            "run",
            "--quiet",
            "--no-project",
            "--python",
            sys.executable,
            "--with",
            _QUIX,
            "--with",
            _PROTOBUF,
        ]
        try:
            done = subprocess.run(
                [*command, "python", str(Path(__file__).with_name("stream_quix.py")), task, str(given), str(answered)],
                env=bare_environ() | {"PYTHONPATH": str(protos)},
                capture_output=True,
                text=True,
                timeout=_GIVE_UP_S,
            )
        except subprocess.TimeoutExpired as exc:
            raise UnavailableError(f"Quix Streams did not {task} within {_GIVE_UP_S:.0f} s") from exc
        if done.returncode or not answered.exists():
            raise UnavailableError(f"Quix Streams failed at {task}: {(done.stderr or done.stdout)[-2000:]}")
        answer: dict[str, Any] = json.loads(answered.read_text())
        return answer
