"""What callers do who want a server busy, full or dead; each kind once is one call or one connection."""

import asyncio
import contextlib
import os
import random
import ssl
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from hpack import Encoder
from local_stack.process import stand_behind
from servicekit.security.development import Files

from hostile.certificates import Shown
from hostile.mutations import mutated
from hostile.tokens import bad_tokens

RANK: Final = "/millrace.ranking.v1.RankingService/Rank"
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELD_S: Final = 8.0  # how long a slow connection tries
RESETS: Final = 10  # calls of one such connection
_DATA, _HEADERS, _RESET, _SETTINGS, _PING = 0, 1, 3, 4, 6
_PAUSE_S: Final = 0.25
_TIMEOUT_S: Final = 5.0
_BURN_S: Final = 0.02
_NICE: Final = 19


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def client_context(files: Files, name: str) -> ssl.SSLContext:
    """TLS as a client that has a good certificate."""
    context = ssl.create_default_context(cafile=str(files.ca))
    own = files.client(name)
    context.load_cert_chain(own, own.with_suffix(".key"))
    context.set_alpn_protocols(["h2"])
    return context


@dataclass
class Done:
    """What was done and answered."""

    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    large_taken: int = 0
    let_in: list[str] = field(default_factory=list)
    cores: float = 0.0  # that the attacker used, of one
    failures: list[str] = field(default_factory=list)


class Abuser:
    """Makes abusive calls and connections of mixed kinds at a rate. `target`: a secured gateway."""

    def __init__(self, target: str, files: Files, token: str, tokens: Mapping[str, str], seed: int) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._target = target
        self._files = files
        self._rng = random.Random(seed)  # noqa: S311  a schedule
        self._tls = client_context(files, "product/shop")
        self._token = f"Bearer {token}"
        self._tokens = list(tokens.items())
        self._broken = (raw for method, raw in mutated(seed) if method == RANK)
        self._bad = client_context_without(files)
        self.done = Done()

    async def run(self, rate: float, seconds: float) -> None:
        """Begin `rate` a second for so long; then wait for those under way."""
        kinds: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
            ("malformed", 60, self._malformed), ("token", 60, self._bad_token), ("large", 12, self._large),
            ("bomb", 3, self._bomb), ("metadata", 10, self._metadata), ("handshake_drip", 10, self._handshake_drip),
            ("preface_drip", 10, self._preface_drip), ("body_drip", 15, self._body_drip),
            ("garbage", 10, self._garbage), ("no_certificate", 6, self._no_certificate), ("resets", 4, self._resets),
        ]  # fmt: skip
        weights = [weight for _, weight, _ in kinds]
        own = self._files.client("product/shop")
        credentials = grpc.ssl_channel_credentials(
            self._files.ca.read_bytes(), own.with_suffix(".key").read_bytes(), own.read_bytes()
        )
        loop = asyncio.get_running_loop()
        begun = loop.time()
        tasks: set[asyncio.Task[None]] = set()
        async with grpc.aio.secure_channel(self._target, credentials) as channel:
            self._rank: Any = channel.unary_unary(RANK)
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
                name, _, act = self._rng.choices(kinds, weights)[0]
                self.done.kinds[name] += 1
                task = loop.create_task(self._guarded(name, act))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(tasks, timeout=HELD_S + _TIMEOUT_S)

    async def _guarded(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except (OSError, asyncio.IncompleteReadError):  # the server hung up, as it should
            self.done.statuses["hung up"] += 1
        except Exception as exc:  # noqa: BLE001  counted and told; the run goes on
            self.done.failures.append(f"{name}: {type(exc).__name__}: {exc}")

    async def _status(self, raw: bytes, metadata: Any, **how: Any) -> str:
        try:
            await self._rank(raw, timeout=_TIMEOUT_S, metadata=metadata, **how)
        except grpc.aio.AioRpcError as exc:
            self.done.statuses[exc.code().name] += 1
            return str(exc.code().name)
        self.done.statuses["OK"] += 1
        return "OK"

    async def _malformed(self) -> None:
        await self._status(next(self._broken), [("authorization", self._token)])

    async def _bad_token(self) -> None:
        name, header = self._rng.choice(self._tokens)
        if await self._status(b"", [("authorization", header)]) == "OK":
            self.done.let_in.append(name)

    async def _large(self) -> None:
        size = self._rng.choice((256 * 1024 + 1, 256 * 1024 + 1, 400_000, 1_000_000, 4 * 2**20 + 1))
        if await self._status(bytes(size), [("authorization", self._token)]) != "RESOURCE_EXHAUSTED":
            self.done.large_taken += 1

    async def _bomb(self) -> None:
        metadata = [("authorization", self._token)]
        if await self._status(bytes(8 * 2**20), metadata, compression=grpc.Compression.Gzip) != "RESOURCE_EXHAUSTED":
            self.done.large_taken += 1

    async def _metadata(self) -> None:
        await self._status(b"", [("authorization", self._token), ("x", "y" * self._rng.choice((9_000, 40_000)))])

    async def _handshake_drip(self) -> None:
        """The first bytes of a TLS hello, one by one."""
        await self._drip(None, bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]) + self._rng.randbytes(600))

    async def _preface_drip(self) -> None:
        await self._drip(self._tls, PREFACE + frame(_SETTINGS, 0, 0) + frame(_PING, 0, 0, bytes(8)) * 50)

    async def _body_drip(self) -> None:
        """A call whose message never comes to its end, and has no deadline."""
        begin = PREFACE + frame(_SETTINGS, 0, 0) + frame(_HEADERS, 4, 1, self._headers())
        await self._drip(self._tls, frame(_DATA, 0, 1, b"\0" + struct.pack(">I", 200_000)), begin, one_frame_each=True)

    async def _drip(
        self, tls: ssl.SSLContext | None, slowly: bytes, begin: bytes = b"", *, one_frame_each: bool = False
    ) -> None:
        async with self._connected(tls) as (reader, writer):
            writer.write(begin)
            ends = asyncio.get_running_loop().time() + HELD_S
            for at in range(len(slowly) * 1000):
                byte = slowly[at % len(slowly) : at % len(slowly) + 1]
                writer.write(frame(_DATA, 0, 1, byte) if one_frame_each else byte)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    if not await asyncio.wait_for(reader.read(65_536), _PAUSE_S):
                        self.done.statuses["hung up"] += 1
                        return
                if asyncio.get_running_loop().time() > ends:
                    self.done.statuses["held"] += 1
                    return

    async def _garbage(self) -> None:
        """Another protocol, or none: before TLS, or behind it."""
        raw = self._rng.choice((b"GET / HTTP/1.1\r\n\r\n", self._rng.randbytes(2_000), b"\0" * 5_000))
        begin = self._rng.choice((b"", PREFACE, PREFACE + frame(_SETTINGS, 0, 0)))
        tls = self._rng.choice((None, self._tls))
        async with self._connected(tls) as (reader, writer):
            writer.write(begin + raw)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                while await asyncio.wait_for(reader.read(65_536), 1.0):
                    pass
            self.done.statuses["hung up"] += 1

    async def _no_certificate(self) -> None:
        async with self._connected(self._bad) as (reader, writer):
            writer.write(PREFACE + frame(_SETTINGS, 0, 0))
            await writer.drain()
            found = await asyncio.wait_for(reader.read(10), _TIMEOUT_S)  # TLS 1.3 tells only now
            if found:
                self.done.let_in.append("no certificate")
            self.done.statuses["hung up"] += 1

    async def _resets(self) -> None:
        """Calls that are taken back before they are answered (CVE-2023-44487)."""
        headers = self._headers()
        calls = b"".join(
            frame(_HEADERS, 4, 2 * n + 1, headers) + frame(_RESET, 0, 2 * n + 1, bytes([0, 0, 0, 8]))
            for n in range(RESETS)
        )
        async with self._connected(self._tls) as (reader, writer):
            writer.write(PREFACE + frame(_SETTINGS, 0, 0) + calls)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                while await asyncio.wait_for(reader.read(65_536), 0.5):
                    pass
            self.done.statuses["reset"] += 1

    def _headers(self) -> bytes:
        return Encoder().encode(
            [
                (":method", "POST"), (":scheme", "https"), (":path", RANK), (":authority", "localhost"),
                ("te", "trailers"), ("content-type", "application/grpc"), ("authorization", self._token),
            ],
            huffman=False,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _connected(self, tls: ssl.SSLContext | None) -> Any:
        name = "localhost" if tls else None
        connecting = asyncio.open_connection(self._host, self._port, ssl=tls, server_hostname=name)
        reader, writer = await asyncio.wait_for(connecting, _TIMEOUT_S)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()  # a close would wait for the peer's goodbye


def attack(target: str, root: Path, token: str, *, seed: int, rate: float, seconds: float) -> Done:
    """Abuse for so long, in a process of its own: attackers have processors of their own.

    Where they share the servers' two cores, theirs stand behind: what they spend on encrypting a message is not the
    servers' to answer for.
    """
    _stand_behind()
    files = Files(root)
    abuser = Abuser(target, files, token, bad_tokens(files), seed)
    began = time.monotonic(), time.process_time()
    asyncio.run(abuser.run(rate, seconds))
    abuser.done.cores = (time.process_time() - began[1]) / (time.monotonic() - began[0])
    return abuser.done


def burn(cores: float, seconds: float) -> None:
    """Use as much processor as `attack` did, at the same priority, and reach nobody: the control of an experiment."""
    _stand_behind()
    ends = time.monotonic() + seconds
    while (now := time.monotonic()) < ends:
        used = time.process_time() + _BURN_S * cores
        while time.process_time() < used and time.monotonic() < ends:
            pass
        time.sleep(max(0.0, now + _BURN_S - time.monotonic()))


def _stand_behind() -> None:
    os.setsid()  # beside the generator of good traffic a nice value would count against that one only
    stand_behind(os.getpid(), _NICE)


def client_context_without(files: Files) -> ssl.SSLContext:
    """TLS as a client that has no certificate."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["h2"])
    return context


def credentials_of(files: Files, shown: Shown) -> Any | None:
    """gRPC's credentials for what is shown; None for plaintext."""
    if shown.plaintext:
        return None
    own = (shown.pair.key, shown.pair.certificate) if shown.pair else (None, None)
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), *own)
