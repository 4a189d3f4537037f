"""What the gateway costs: in one run and interleaved, a no-op grpc.aio server, Triton itself, and the gateway with
everything on.
"""

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
import uvloop
from bundle import Bundle, load_bundle, write_bundle
from definitions.item_feed import item_features_key, marker_value, partial_value
from definitions.item_table import ItemTable
from definitions.layout import Layout
from definitions.user_state import UserTable
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2 as pb
from servicekit import kafka
from servicekit.topics import id_key, item_features_topic, topic
from stores.online import open_online
from tritonclient.grpc import service_pb2

from pipelines.bench import at_least, at_most, uncollected
from pipelines.datasets import Dataset
from pipelines.errors import BadInputError, UnavailableError
from pipelines.progress import SILENT, Progress

USECASE: Final = Path(__file__).with_name("gateway.yaml")
SHARE: Final = 0.15
SHARE_MOONSHOT: Final = 0.30
ADDED_MS: Final = 2.0
ADDED_MOONSHOT_MS: Final = 1.0
MANY: Final = 32  # in flight
MODEL_SHARE: Final = 0.999

_REQUESTS: Final = 2_048  # different ones: users and candidates
_WRITTEN: Final = ("manifest.json", "signature")  # by write_bundle itself
_CALL_S: Final = 1.0
_SHED_S: Final = 0.2
_CONNECT_S: Final = 10.0
_EPOCH: Final = 1
RANK: Final = "/millrace.ranking.v1.RankingService/Rank"
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_OWN_STAGES: Final = ("retrieval", "features", "rerank", "answer")  # without a wait: their time is processor time


@dataclass(frozen=True)
class Server:
    """Who is asked: `target` host:port, `pid` of its process, and the encoded requests in turn."""

    name: str
    target: str
    pid: int
    method: str
    requests: Sequence[bytes]
    metadata: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Round:
    """One server for a few seconds: `seconds` of wall time, `cpu_s` of its process, each call's time, its answers."""

    seconds: float
    cpu_s: float
    main_cpu_s: float
    times_ms: list[float]
    answers: list[bytes]

    @property
    def rps(self) -> float:
        """Answers a second."""
        return len(self.times_ms) / self.seconds


def served(trained: Bundle, model: str, bundles: Path) -> Bundle:
    """The bundle with `lightgbm` (as it was trained) or `lr` (its fallback) as the model, in `bundles`.

    Raises:
        BadInputError: another name.
    """
    graphs = {"lightgbm": trained.model_path, "lr": trained.fallback_path}
    if model not in graphs:
        raise BadInputError(f"--model: {model!r}; use one of {', '.join(graphs)}")
    golden, manifest = trained.golden, trained.manifest
    scores = golden.scores if model == "lightgbm" else golden.fallback_scores
    target = bundles / manifest.name / str(manifest.version)
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        rows = Path(folder) / "golden.npz"
        replace(golden, scores=scores).save(rows)
        files = {str(path.relative_to(trained.folder)): path for path in trained.folder.rglob("*") if path.is_file()}
        files |= {"model.onnx": graphs[model], "golden.npz": rows}
        write_bundle(target, manifest, {name: path for name, path in files.items() if name not in _WRITTEN})
    return load_bundle(target)


def put_world(layout: Layout, dataset: Dataset, bootstrap: str, valkey: str) -> None:
    """The data set as the features service would leave it: rows in Valkey, catalogue and item partials on the log.

    Raises:
        StoreError, LogError: a server does not answer.
    """
    users, items = UserTable(layout), ItemTable(layout)
    users.fold(dataset.interactions)
    users.fold_users(dataset.users, range(len(dataset.users)))
    items.fold(dataset.interactions)
    store = open_online(layout.usecase.name, layout.revision, valkey=valkey, lmdb_path=Path())
    try:
        store.write({user: users.row(user, _EPOCH) for user in users.all_users().tolist()})
    finally:
        store.close()
    name = layout.usecase.name
    producer = kafka.make_producer(bootstrap)
    try:
        with kafka.translated("writing the catalogue"):
            for item in dataset.items:
                producer.send(topic(name, "items"), key=id_key(item.id), value=item.SerializeToString(), partition=0)
            features = item_features_topic(name, layout.revision)
            for item_id in items.all_items().tolist():
                value = partial_value(_EPOCH, items.partial(item_id))
                producer.send(features, key=item_features_key(item_id, 0), value=value, partition=0)
            value = marker_value(_EPOCH, len(dataset.interactions))
            producer.send(features, key=item_features_key(0, 0), value=value, partition=0)
            producer.flush(timeout=_CONNECT_S)
    finally:
        producer.close()


def rank_requests(layout: Layout, dataset: Dataset, candidates: int, shown: int, seed: int = 0) -> list[bytes]:
    """Encoded Rank requests of different users of the data set, each with other items of its catalogue."""
    rng = np.random.default_rng(seed)
    users = rng.choice(np.array([user.id for user in dataset.users], np.uint64), _REQUESTS)
    items = np.array([item.id for item in dataset.items], np.uint64)
    return [
        pb.RankRequest(
            usecase=layout.usecase.name,
            user_id=user,
            item_ids=rng.choice(items, candidates, replace=False).tolist(),
            limit=shown,
            context=events_pb2.Context(device=1, surface=1, country=1),
        ).SerializeToString()
        for user in users.tolist()
    ]


def infer_requests(bundle: Bundle, candidates: int) -> list[bytes]:
    """One encoded ModelInfer of golden rows, as many as a ranking has candidates."""
    manifest, golden = bundle.manifest, bundle.golden
    places = np.arange(candidates) % len(golden.features)
    request = service_pb2.ModelInferRequest(model_name=manifest.name, model_version=str(manifest.version))
    request.inputs.add(name="features", datatype="FP32", shape=(candidates, golden.features.shape[1]))
    request.raw_input_contents.append(golden.features[places].tobytes())
    if manifest.int_names and golden.ints is not None:
        request.inputs.add(name="int_features", datatype="INT64", shape=(candidates, golden.ints.shape[1]))
        request.raw_input_contents.append(golden.ints[places].tobytes())
    return [request.SerializeToString()]


def run(
    usecase: str,
    servers: Mapping[str, Server],
    *,
    candidates: int = 100,
    shown: int = 10,
    rounds: int = 5,
    seconds: float = 3.0,
    warmup_s: float = 5.0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Ask `noop`, `triton` and `gateway` in turn, 1 and 32 in flight, by one grpc.aio client on the same machine.

    A figure is the median of its rounds; a share or a difference is of the same round.

    Raises:
        UnavailableError: a call failed, or `model_share` says that the model was not measured.
    """
    with uncollected():
        found = uvloop.run(_rounds(servers, rounds, seconds, warmup_s, progress))
    answers = [answer for n in (1, MANY) for measured in found["gateway", n] for answer in measured.answers]
    share = model_share(answers, min(candidates, shown))
    return {**_result(usecase, found, candidates, shown, seconds), "model_share": round(share, 5)}


async def _rounds(
    servers: Mapping[str, Server], rounds: int, seconds: float, warmup_s: float, progress: Progress
) -> dict[tuple[str, int], list[Round]]:
    found: dict[tuple[str, int], list[Round]] = {(name, n): [] for name in servers for n in (1, MANY)}
    channels = {name: grpc.aio.insecure_channel(server.target) for name, server in servers.items()}
    try:
        calls = {
            name: channel.unary_unary(servers[name].method) for name, channel in channels.items()
        }  # bytes in, bytes out: the client encodes and parses nothing
        progress.stage("warm up", len(servers))
        for name, server in servers.items():
            for in_flight in (1, MANY):  # all at once would queue before a process that is still cold, and be shed
                await _round(server, calls[name], in_flight, warmup_s / 2, patient=True)
            progress.advance(1)
        progress.stage("measure", 2 * rounds * len(servers))
        for _ in range(rounds):
            for in_flight in (1, MANY):
                for name, server in servers.items():
                    found[name, in_flight].append(await _round(server, calls[name], in_flight, seconds))
                    progress.advance(1)
    except grpc.aio.AioRpcError as exc:
        raise UnavailableError(f"{exc.code().name}: {exc.details()}; is the machine busy? Run again") from exc
    finally:
        for channel in channels.values():
            await channel.close()
    return found


async def _round(
    server: Server, call: Callable[..., Awaitable[bytes]], in_flight: int, seconds: float, *, patient: bool = False
) -> Round:
    """`patient`: who is shed comes again after a while, instead of ending it all."""
    times, answers = list[float](), list[bytes]()
    requests, metadata, clock = server.requests, tuple(server.metadata) or None, time.perf_counter
    turn = 0

    async def caller() -> None:
        nonlocal turn
        while (began := clock()) < ends:
            request = requests[turn % len(requests)]
            turn += 1
            try:
                answer = await call(request, timeout=_CALL_S, metadata=metadata)
            except grpc.aio.AioRpcError as exc:
                if not patient or exc.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(_SHED_S)
                continue
            times.append((clock() - began) * 1e3)
            answers.append(answer)

    cpu, main, began = _cpu_s(server.pid), _cpu_s(server.pid, main=True), clock()
    ends = began + seconds
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    spent = clock() - began
    return Round(spent, _cpu_s(server.pid) - cpu, _cpu_s(server.pid, main=True) - main, times, answers)


def _cpu_s(pid: int, *, main: bool = False) -> float:
    """Processor seconds of a process, or of its first thread; its children's that still run count too."""
    if main:
        return _ticks(Path(f"/proc/{pid}/task/{pid}/stat"))
    total = _ticks(Path(f"/proc/{pid}/stat"))
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            total += _cpu_s(int(child))
    return total


def _ticks(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def model_share(answers: Sequence[bytes], shown: int) -> float:
    """Share of the gateway's answers that are on rung MODEL: one in a thousand may have met a pause of the machine.

    Raises:
        UnavailableError: more have, so that the model would not be measured; or an answer has not `shown` items.
    """
    others = Counter[str]()
    for answer in answers:
        said = pb.RankResponse.FromString(answer)
        if len(said.items) != shown:
            raise UnavailableError(f"gateway: an answer with {len(said.items)} of {shown} items ({said.reason})")
        if said.served_by != events_pb2.RUNG_MODEL:
            others[f"{events_pb2.Rung.Name(said.served_by)} ({said.reason})"] += 1
    share = 1 - others.total() / len(answers)
    if share < MODEL_SHARE:
        told = ", ".join(f"{count} on {rung}" for rung, count in others.most_common())
        raise UnavailableError(
            f"gateway: of {len(answers):,} answers {told}; the machine is too busy to measure on: run again"
        )
    return share


def _result(
    usecase: str, found: Mapping[tuple[str, int], Sequence[Round]], candidates: int, shown: int, seconds: float
) -> dict[str, Any]:
    def rps(name: str, in_flight: int) -> float:
        return float(np.median([each.rps for each in found[name, in_flight]]))

    def ms(name: str, in_flight: int, q: float) -> float:
        return float(np.percentile(np.concatenate([each.times_ms for each in found[name, in_flight]]), q))

    shares = [g.rps / n.rps for g, n in zip(found["gateway", MANY], found["noop", MANY], strict=True)]
    added = [
        float(np.median(g.times_ms) - np.median(t.times_ms))
        for g, t in zip(found["gateway", 1], found["triton", 1], strict=True)
    ]
    keys = {
        "noop_rps": round(rps("noop", MANY), 1),
        "triton_rps": round(rps("triton", MANY), 1),
        "gateway_rps": round(rps("gateway", MANY), 1),
        "share_of_noop": round(float(np.median(shares)), 4),
        "share_moonshot": SHARE_MOONSHOT,
        "added_p50_ms": round(float(np.median(added)), 3),
        "added_moonshot_ms": ADDED_MOONSHOT_MS,
        "cpu_us": {**_stages(found), **_processes(found)},
    }
    table = [
        {
            "who": {"noop": "no-op grpc.aio", "triton": "Triton alone", "gateway": "gateway, everything on"}[name],
            "in flight": in_flight,
            "req/s": rps(name, in_flight),
            "p50 ms": ms(name, in_flight, 50),
            "p99 ms": ms(name, in_flight, 99),
            "its CPU us": _cpu_us(found[name, in_flight]),
        }
        for in_flight in (1, MANY)
        for name in ("noop", "triton", "gateway")
    ]
    return {
        **keys,
        "what": f"{usecase}: Rank of {candidates} candidates, {shown} shown; {len(shares)} rounds of {seconds:g} s, "
        f"in turn, 1 and {MANY} in flight, one grpc.aio client on the same {os.cpu_count()} cores",
        "table": table,
        "bars": [at_least(keys, "share_of_noop", SHARE), at_most(keys, "added_p50_ms", ADDED_MS)],
    }


def _cpu_us(rounds: Sequence[Round]) -> float:
    return 1e6 * sum(each.cpu_s for each in rounds) / sum(len(each.times_ms) for each in rounds)


def _processes(found: Mapping[tuple[str, int], Sequence[Round]]) -> dict[str, float]:
    """CPU a request at 32 in flight: of the no-op, of Triton alone, of the gateway and of its event loop's thread."""
    gateway = found["gateway", MANY]
    calls = sum(len(each.times_ms) for each in gateway)
    return {
        "noop": round(_cpu_us(found["noop", MANY]), 1),
        "triton": round(_cpu_us(found["triton", MANY]), 1),
        "gateway": round(_cpu_us(gateway), 1),
        "gateway_loop": round(1e6 * sum(each.main_cpu_s for each in gateway) / calls, 1),
    }


def _stages(found: Mapping[tuple[str, int], Sequence[Round]]) -> dict[str, float]:
    """Median of each stage that waits for nothing, at 1 in flight, as the answers tell it."""
    laps: dict[str, list[int]] = {}
    for each in found["gateway", 1]:
        for answer in each.answers:
            for stage in pb.RankResponse.FromString(answer).stages:
                laps.setdefault(stage.stage, []).append(stage.micros)
    return {name: float(np.median(laps[name])) for name in _OWN_STAGES if name in laps}
