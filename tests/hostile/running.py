"""One run against a secured stack: every bad token, certificate and role, broken bytes, abuse beside good traffic."""

import asyncio
import multiprocessing
import statistics
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import grpc
import grpc.aio
import psutil
from loadtest.access import Access
from local_stack.harness import NativeStack
from servicekit.security import development
from servicekit.security.development import Files, Pair
from servicekit.security.policy import ROLES, Policy
from servicekit.security.tls import HANDSHAKE_S

from hostile.abuse import Done, attack, burn, credentials_of
from hostile.certificates import bad_certificates
from hostile.mutations import good_requests, mutated
from hostile.tokens import bad_tokens
from loadtest import run_loadtest

SERVERS: Final = ("gateway", "collector")
LOADTEST: Final = "loadtest"  # the caller whose quota the policy lifts
_IN_FLIGHT: Final = 32
_TIMEOUT_S: Final = 10.0
_BAD: Final = ("INTERNAL", "UNKNOWN")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much of it. `seconds` of good traffic with and without abuse, each `rounds` times."""

    seed: int = 1
    mutated: int = 100_000
    rate: float = 200.0  # abusive calls and connections a second
    good_rate: float = 50.0
    seconds: float = 20.0
    rounds: int = 3


@dataclass
class Found:
    """What came of it."""

    statuses: Counter[str] = field(default_factory=Counter)
    let_in: list[str] = field(default_factory=list)
    tokens: int = 0
    certificates: int = 0
    grid: int = 0
    grid_wrong: list[str] = field(default_factory=list)


class Run:
    """The parts of a run; `stack` is secured and up, `files` are its certificates."""

    def __init__(self, stack: NativeStack, files: Files, plan: Plan, tell: Tell) -> None:
        self._stack = stack
        self._files = files
        self._plan = plan
        self._tell = tell
        self.found = Found()
        self._abuse = Done()
        self._cores: list[float] = []  # that the gateway used, each time that good traffic was sent

    def whole(self) -> dict[str, Any]:
        """All of it; keys as `docs/security.md` says."""
        begun = time.monotonic()
        pids = {name: self._stack.pids()[name] for name in SERVERS}
        asyncio.run(self._grids())
        self._tell(f"{self.found.tokens} calls with bad tokens, {self.found.certificates} with bad certificates")
        asyncio.run(self._mutated())
        self._tell(f"{self._plan.mutated} mutated requests: {dict(self.found.statuses.most_common())}")
        self._load()  # as it is when it works
        taken = [_taken(pids)]
        good = self._good_traffic(pids, taken)
        return self._summary(pids, taken, good, time.monotonic() - begun)

    async def _grids(self) -> None:
        """Every RPC with every bad token, bad certificate and role."""
        tokens, certificates = bad_tokens(self._files), bad_certificates(self._files)
        product = credentials_of(self._files, _shown(self._files, "product-shop"))
        for server, rpcs in _rpcs().items():
            address = self._stack.address(server)
            async with Caller(address, product) as channel:
                for rpc, name, header in ((r, n, h) for r in rpcs for n, h in tokens.items()):
                    await self._refused(channel, rpc, f"token {name}", header)
                    self.found.tokens += 1
                await self._roles(channel, rpcs)
            for name, shown in certificates.items():
                async with Caller(address, credentials_of(self._files, shown)) as channel:
                    for rpc in rpcs:
                        await self._refused(channel, rpc, f"certificate {name}", f"Bearer {self._token(*ROLES)}")
                        self.found.certificates += 1

    async def _roles(self, channel: "Caller", rpcs: Sequence[str]) -> None:
        """A product with each role alone: let in exactly where the rule lists it."""
        policy = Policy.read()
        for rpc in rpcs:
            rule = policy.rpcs[rpc[1:]]
            for role in ROLES:
                status = await channel.status(rpc, b"", f"Bearer {self._token(role)}")
                self.found.statuses[status] += 1
                self.found.grid += 1
                if (status not in ("PERMISSION_DENIED", "UNAUTHENTICATED")) != (role in rule.roles):
                    self.found.grid_wrong.append(f"{rpc} with {role}: {status}")

    async def _refused(self, channel: "Caller", rpc: str, what: str, header: str) -> None:
        status = await channel.status(rpc, b"", header)
        self.found.statuses[status] += 1
        if status not in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE"):
            self.found.let_in.append(f"{rpc} by {what}: {status}")

    async def _mutated(self) -> None:
        """Broken bytes by somebody who is let in, as fast as they are answered."""
        operator = credentials_of(self._files, _shown(self._files, "operator"))
        rpcs = {rpc: server for server, found in _rpcs().items() for rpc in found}
        source = islice(mutated(self._plan.seed), self._plan.mutated)
        callers = {name: Caller(self._stack.address(name), operator) for name in SERVERS}

        async def send() -> None:
            for rpc, raw in source:
                self.found.statuses[await callers[rpcs[rpc]].status(rpc, raw, None)] += 1

        await asyncio.gather(*(send() for _ in range(_IN_FLIGHT)))
        for caller in callers.values():
            await caller.close()

    def _good_traffic(self, pids: "Pids", taken: "list[dict[str, Taken]]") -> Mapping[str, list[Any]]:
        """Verdicts of good traffic: alone, beside abuse, and beside a process that only uses the attackers' processor
        time, in turn; what is held after each round is added to `taken`."""
        verdicts: dict[str, list[Any]] = {"before": [], "beside": [], "burnt": []}
        for number in range(self._plan.rounds):
            verdicts["before"].append(self._load())
            verdicts["beside"].append(self._beside(number))
            verdicts["burnt"].append(self._burnt())
            taken.append(_settled(pids, taken[0]))
            self._tell(
                f"round {number + 1}: p99 {verdicts['before'][-1].p99_ms} ms, "
                f"beside abuse {verdicts['beside'][-1].p99_ms} ms, beside its processor time alone "
                f"{verdicts['burnt'][-1].p99_ms} ms"
            )
        return verdicts

    def _beside(self, number: int) -> Any:
        plan, token = self._plan, self._token("rank.read")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as attackers:
            attacking = attackers.submit(
                attack, self._stack.address("gateway"), self._files.root, token,
                seed=plan.seed * 1_000 + number, rate=plan.rate, seconds=plan.seconds + 3,
            )  # fmt: skip
            verdict = self._load()
            done = attacking.result()
        self._abuse.kinds += done.kinds
        self._abuse.statuses += done.statuses
        self._abuse.large_taken += done.large_taken
        self._abuse.let_in += done.let_in
        self._abuse.cores = done.cores
        self._abuse.failures += done.failures
        return verdict

    def _burnt(self) -> Any:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as burners:
            burning = burners.submit(burn, self._abuse.cores, self._plan.seconds + 3)
            verdict = self._load()
            burning.result()
        return verdict

    def _load(self) -> Any:
        own = self._files.client("product/shop")
        path = self._files.root / f"{LOADTEST}.token"
        development.write_secret(path, self._token("rank.read", caller=LOADTEST).encode())
        access = Access(ca=self._files.ca, certificate=own, key=own.with_suffix(".key"), token=path)
        gateway = psutil.Process(self._stack.pids()["gateway"])
        began, used = time.monotonic(), sum(gateway.cpu_times()[:2])
        verdict = run_loadtest(
            self._stack.address("gateway"), "movies", self._plan.good_rate, self._plan.seconds, 100,
            warmup_s=2.0, deadline_ms=1_000, access=access,
        )  # fmt: skip
        self._cores.append((sum(gateway.cpu_times()[:2]) - used) / (time.monotonic() - began))
        return verdict

    def _token(self, *roles: str, caller: str = "mallory") -> str:
        # calls of this run must not be refused for being many
        return development.token(self._files, caller if caller == LOADTEST else LOADTEST, roles, now_s=time.time())

    def _summary(
        self,
        pids: "Pids",
        taken: "Sequence[Mapping[str, Taken]]",
        good: Mapping[str, list[Any]],
        seconds: float,
    ) -> dict[str, Any]:
        found, abuse = self.found, self._abuse
        before, first, after = taken[0], taken[1], taken[-1]  # memory for connections is made once, and kept
        p99 = {name: statistics.median(each.p99_ms for each in verdicts) for name, verdicts in good.items()}
        statuses = found.statuses + abuse.statuses
        exits = [name for name in SERVERS if self._stack.pids()[name] != pids[name]]
        counted = sum(_counted(self._stack.metrics(name), code) for name in SERVERS for code in _BAD)
        return {
            "mutated": self._plan.mutated,
            "tokens": found.tokens,
            "certificates": found.certificates,
            "grid": found.grid,
            "grid_wrong": found.grid_wrong,
            "let_in": len(found.let_in) + len(abuse.let_in),
            "let_in_how": (found.let_in + abuse.let_in)[:20],
            "internal": statuses["INTERNAL"],
            "unknown": statuses["UNKNOWN"],
            "counted_by_servers": counted,
            "statuses": dict(statuses.most_common()),
            "abuse": dict(abuse.kinds.most_common()),
            "abuse_rate": round(abuse.kinds.total() / (self._plan.rounds * (self._plan.seconds + 3)), 1),
            "refused_large": abuse.kinds["large"] + abuse.kinds["bomb"] - abuse.large_taken,
            "large_taken": abuse.large_taken,
            "abuse_failures": len(abuse.failures),
            "abuse_failed_how": abuse.failures[:5],
            "p99_before_ms": p99["before"],
            "p99_beside_ms": p99["beside"],
            "p99_burnt_ms": p99["burnt"],
            "gateway_cores": {
                name: round(statistics.median(self._cores[1 + place :: len(good)]), 3)  # the first warmed it up
                for place, name in enumerate(good)
            },
            "attackers_cores": round(abuse.cores, 3),
            "p99_ratio": round(p99["beside"] / p99["before"], 3),
            "good_errors": sum(sum(each.errors_by_code.values()) for each in good["beside"]),
            "failed_handshakes": _counted(self._stack.metrics("gateway"), None, "gateway_failed_handshakes_total"),
            "exits": len(exits),
            "fds_grown": max(after[name].fds - before[name].fds for name in SERVERS),
            "threads_grown": max(after[name].threads - before[name].threads for name in SERVERS),
            "rss_grown": round(max(after[name].rss / first[name].rss - 1 for name in SERVERS), 3),
            "rss_mib": {name: [each[name].rss >> 20 for each in taken] for name in SERVERS},
            "seed": self._plan.seed,
            "seconds": round(seconds, 1),
        }


def missed(summary: Mapping[str, Any], *, ratio: float = 2.0) -> list[str]:
    """Promises that did not hold, in words."""
    zero = ("let_in", "internal", "unknown", "counted_by_servers", "large_taken", "exits", "good_errors")
    found = [f"{name} is {summary[name]}, not 0" for name in zero if summary[name]]
    if summary["grid_wrong"]:
        found.append(f"the grid is not the policy's: {summary['grid_wrong'][:3]}")
    if summary["p99_ratio"] > ratio:
        found.append(f"p99 beside abuse is {summary['p99_ratio']} times that before")
    for name, most in (("fds_grown", 5), ("threads_grown", 5), ("rss_grown", 0.1)):
        if summary[name] > most:
            found.append(f"{name} is {summary[name]}, above {most}")
    return found


@dataclass(frozen=True)
class Taken:
    """What a process holds."""

    fds: int
    threads: int
    rss: int


Pids = Mapping[str, int | None]


def _taken(pids: Pids) -> dict[str, Taken]:
    found = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        found[name] = Taken(process.num_fds(), process.num_threads(), process.memory_info().rss)
    return found


def _settled(pids: Pids, before: Mapping[str, Taken]) -> dict[str, Taken]:
    """What they hold once slow connections were dropped, which takes a handshake's time."""
    ends = time.monotonic() + HANDSHAKE_S + 5
    while True:
        after = _taken(pids)
        if all(after[name].fds <= before[name].fds for name in pids) or time.monotonic() > ends:
            return after
        time.sleep(0.25)


def _rpcs() -> dict[str, list[str]]:
    """Server -> its RPCs as paths."""
    areas = {"gateway": "/millrace.ranking.", "collector": "/millrace.collector."}
    return {server: [rpc for rpc in good_requests() if rpc.startswith(area)] for server, area in areas.items()}


def _shown(files: Files, name: str) -> Any:
    from hostile.certificates import Shown

    path = files.root / "clients" / f"{name}.pem"
    return Shown(Pair(path.read_bytes(), path.with_suffix(".key").read_bytes()))


class Caller:
    """Sends bytes to one server and says how the call ended. `credentials` None: plaintext."""

    def __init__(self, address: str, credentials: Any | None) -> None:
        if credentials is None:
            self._channel, self._streams = grpc.aio.insecure_channel(address), grpc.insecure_channel(address)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials)
            self._streams = grpc.secure_channel(address, credentials)

    async def status(self, rpc: str, raw: bytes, authorization: str | None) -> str:
        """The status's name."""
        metadata = [("authorization", authorization)] if authorization is not None else []
        try:
            if rpc.endswith("Stream"):
                await asyncio.to_thread(self._stream, rpc, raw, metadata)
            else:
                await self._channel.unary_unary(rpc)(raw, timeout=_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as exc:
            return str(exc.code().name)
        return "OK"

    def _stream(self, rpc: str, raw: bytes, metadata: Any) -> None:
        """By gRPC's threads: where the server ends a stream first, grpc.aio's client makes an INTERNAL of its own."""
        for _ in self._streams.stream_stream(rpc)(iter([raw]), timeout=_TIMEOUT_S, metadata=metadata):
            pass

    async def close(self) -> None:
        """Close the connections."""
        self._streams.close()
        await self._channel.close()

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def _counted(address: str, code: str | None, series: str = "_rpcs_total") -> int:
    """A counter's sum over its labels, of one `code` if it has that label."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(int(float(line.rpartition(" ")[2])) for line in _lines(text, series, code))


def _lines(text: str, series: str, code: str | None) -> Iterator[str]:
    for line in text.splitlines():
        name, _, labels = line.partition("{")
        if not line.startswith("#") and name.endswith(series) and (code is None or f'code="{code}"' in labels):
            yield line
