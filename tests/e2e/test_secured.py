"""A secured stack: who gets in, what hostile callers do to it, and the documented grpcurl calls through reflection."""

import json
import re
import shlex
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hostile.running import Plan, Run, missed
from local_stack.harness import NativeStack, free_offset
from local_stack.home import checkout_root
from millrace.client import Entity, Event, EventClient, HandshakeFailed, NotAllowed, RankingClient, Tls
from servicekit.security import development
from servicekit.security.development import Authority, Files

PAGE = checkout_root() / "docs/security.md"
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Secured:
    """The stack and the certificates that open it."""

    stack: NativeStack
    files: Files

    def tls(self, name: str) -> Tls:
        own = self.files.client(name)
        return Tls(self.files.ca, own, own.with_suffix(".key"))

    def token(self, *roles: str) -> str:
        return development.token(self.files, "shop", roles, now_s=time.time())


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The embedded profile is enough: what is secured are our own servers."""
    home = tmp_path_factory.mktemp("secured")
    with free_offset() as offset:
        stack = NativeStack(home, offset)
        try:
            stack.millrace("up", "--profile", "embedded", "--secured")
            yield Secured(stack, Files(home / "certs"))
        finally:
            stack.millrace("down")


def test_a_product_calls_with_certificate_and_token_and_nobody_without(secured: Secured, tmp_path: Path) -> None:
    """The typed client against real servers; what it raises says why."""
    gateway, collector = secured.stack.address("gateway"), secured.stack.address("collector")
    product = secured.tls("product/shop")
    with EventClient(collector, tls=product, token=secured.token("batch.write", "events.write")) as events:
        assert 1 == len(events.put_items("movies", [Entity(id=50, external_id="50")]).accepted)
        assert 1 == len(events.publish("movies", [Event(user_id=7, item_id=50, action=0)]).accepted)
        with pytest.raises(NotAllowed, match="erase"):
            events.put_users("movies", [Entity(id=7, deleted=True)])
    with RankingClient(gateway, tls=product, token=secured.token("rank.read"), timeout_s=PATIENCE_S) as client:
        assert (50,) == tuple(item.item_id for item in client.rank("movies", 7, [50]).items)
    with RankingClient(gateway, tls=product, timeout_s=PATIENCE_S) as client, pytest.raises(NotAllowed, match="token"):
        client.rank("movies", 7, [50])
    writer = secured.token("events.write")
    with (
        RankingClient(gateway, tls=product, token=writer, timeout_s=PATIENCE_S) as client,
        pytest.raises(NotAllowed, match=r"rank\.read"),
    ):
        client.rank("movies", 7, [50])
    other = tmp_path / "ca.pem"
    other.write_bytes(Authority.new().pair.certificate)
    with RankingClient(gateway, tls=Tls(other), timeout_s=PATIENCE_S) as client, pytest.raises(HandshakeFailed):
        client.rank("movies", 7, [50])


def test_the_command_gets_in_as_the_operator(secured: Secured) -> None:
    """Whoever secures the stack goes on as before."""
    assert "items" in secured.stack.millrace("recommend", "7")
    assert secured.stack.millrace("status")["healthy"]


def test_failed_handshakes_are_counted_apart(secured: Secured) -> None:
    """A client takes them for an outage; the server's operator sees what they are."""
    before = failed_handshakes(secured)
    with grpc.insecure_channel(secured.stack.address("gateway")) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/millrace.ranking.v1.RankingService/Rank")(b"", timeout=PATIENCE_S)

    ends = time.monotonic() + PATIENCE_S
    while failed_handshakes(secured) == before and time.monotonic() < ends:
        time.sleep(0.01)
    assert failed_handshakes(secured) > before


def test_hostile_callers_get_nowhere(secured: Secured) -> None:
    """The short form of `make hostile`: all but the latency, which a busy machine does not show."""
    plan = Plan(seed=7, mutated=1_500, seconds=3.0, rounds=1)
    summary = Run(secured.stack, secured.files, plan, lambda _: None).whole()

    assert [] == missed(summary, ratio=float("inf"))
    assert summary["tokens"] >= 60 * 7
    assert summary["certificates"] >= 12 * 7
    assert summary["statuses"]["INVALID_ARGUMENT"] > 500
    assert not summary["abuse_failures"], summary["abuse_failed_how"]


def documented() -> list[list[str]]:
    """The words of every grpcurl call of the page."""
    page = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(r"^grpcurl (.+)$", page, flags=re.MULTILINE)
    return [shlex.split(re.sub(r"\$\(millrace certs token --role ([a-z.]+)\)", r"TOKEN:\1", call)) for call in calls]


@dataclass(frozen=True)
class Call:
    """What grpcurl would be told."""

    options: dict[str, str]
    address: str
    what: list[str]

    @classmethod
    def of(cls, words: list[str]) -> "Call":
        options, rest = {}, []
        given = iter(words)
        for word in given:
            if word == "-plaintext":
                options[word] = ""
            elif word.startswith("-"):
                options[word] = next(given)
            else:
                rest.append(word)
        return cls(options, rest[0], rest[1:])


class Headers(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):  # type: ignore[misc]
    """Adds headers to each call."""

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, go: Any, details: Any, request: Any) -> Any:
        return go(details._replace(metadata=self._metadata), request)

    def intercept_stream_stream(self, go: Any, details: Any, requests: Any) -> Any:
        return go(details._replace(metadata=self._metadata), requests)


@pytest.mark.parametrize("words", documented(), ids=lambda words: words[-1])
def test_a_documented_grpcurl_call_is_answered(secured: Secured, words: list[str]) -> None:
    """Method and message by reflection alone, as grpcurl finds them; flags, files and JSON are the page's."""
    call = Call.of(words)
    service = {"50051": "gateway", "50052": "collector"}[call.address.rpartition(":")[2]]
    is_product = "-cacert" in call.options
    credentials, metadata = shown(secured, call) if is_product else (operator(secured), [])
    with grpc.secure_channel(secured.stack.address(service), credentials) as plain:
        channel = grpc.intercept_channel(plain, Headers(metadata))  # grpcurl sends them to reflection as well
        found = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(found)
        if call.what == ["list"]:
            assert "millrace.ranking.v1.RankingService" in found.get_services()
        elif call.what[0] == "describe":
            assert pool.FindServiceByName(call.what[1]).methods
        else:
            answered(channel, pool, call)


def answered(channel: Any, pool: DescriptorPool, call: Call) -> None:
    """Send it. AssertionError unless it is answered as one that is right."""
    service, _, method = call.what[0].rpartition("/")
    descriptor = pool.FindServiceByName(service).FindMethodByName(method)
    if method == "Explain":  # nothing is deployed here that could be explained; its message is checked
        json_format.ParseDict(json.loads(call.options["-d"]), GetMessageClass(descriptor.input_type)())
        return
    request = json_format.ParseDict(json.loads(call.options.get("-d", "{}")), GetMessageClass(descriptor.input_type)())
    answer, call_ended = channel.unary_unary(f"/{service}/{method}").with_call(
        request.SerializeToString(), timeout=PATIENCE_S
    )
    assert grpc.StatusCode.OK is call_ended.code()
    said = json_format.MessageToDict(GetMessageClass(descriptor.output_type).FromString(answer))
    assert not said.get("rejected"), said


def operator(secured: Secured) -> Any:
    """The operator's certificate, for the calls that the page makes in plaintext."""
    own = secured.files.client("operator")
    return grpc.ssl_channel_credentials(
        secured.files.ca.read_bytes(), own.with_suffix(".key").read_bytes(), own.read_bytes()
    )


def shown(secured: Secured, call: Call) -> tuple[Any, list[tuple[str, str]]]:
    """Certificates and header as the page's flags say, from the folder that it names."""
    read = {flag: (secured.files.root / call.options[flag]).read_bytes() for flag in ("-cacert", "-key", "-cert")}
    name, _, value = call.options["-H"].partition(": ")
    token = re.sub(r"TOKEN:(\S+)", lambda match: secured.token(match[1]), value)
    return grpc.ssl_channel_credentials(*read.values()), [(name, token)]


def test_every_unary_rpc_has_a_documented_call() -> None:
    """Whoever wants to try one finds it."""
    named = {words[-1].rpartition("/")[2] for words in documented()}

    assert {"Rank", "Recommend", "Explain", "Publish", "PutItems", "PutUsers"} <= named


def failed_handshakes(secured: Secured) -> float:
    """Of the gateway, for any reason."""
    with urllib.request.urlopen(f"http://{secured.stack.metrics('gateway')}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(n) for n in re.findall(r"^gateway_failed_handshakes_total\{.*\} (\S+)$", text, re.MULTILINE))
