"""Bytes that are nearly a request: seeded, so that a run can be repeated."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.message import Message
from millrace.collector.v1 import collector_pb2
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2

_RANKING: Final = "/millrace.ranking.v1.RankingService/"
_COLLECTOR: Final = "/millrace.collector.v1.CollectorService/"
_HUGE: Final = (2**7, 2**14, 2**21, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)
MOST_BYTES: Final = 200_000  # larger ones are another attack


def good_requests() -> Mapping[str, Sequence[bytes]]:
    """Method -> requests that are right, the stock that is broken."""
    context = events_pb2.Context(device=1, surface=2, country=49, session_id=7)
    event = events_pb2.Interaction(
        event_id=1, user_id=196, item_id=50, action=0, value=4.0, event_time_us=893_286_638_000_000, position=1
    )
    item = events_pb2.Item(id=50, external_id="50", embedding=[0.5] * 8)
    item.attributes["year"].number = 1997
    item.attributes["genres"].categories.codes.extend([1, 2, 3])
    requests: dict[str, list[Message]] = {
        f"{_RANKING}Rank": [
            ranking_pb2.RankRequest(usecase="movies", user_id=196, item_ids=range(1, 101), limit=10, context=context),
            ranking_pb2.RankRequest(usecase="movies", user_id=1, item_ids=[1], priority=ranking_pb2.PRIORITY_BATCH),
        ],
        f"{_RANKING}Recommend": [
            ranking_pb2.RecommendRequest(usecase="movies", user_id=196, limit=10, context=context, exclude_ids=[1, 2])
        ],
        f"{_RANKING}Explain": [ranking_pb2.ExplainRequest(usecase="movies", user_id=196, item_ids=[50, 1], top=5)],
        f"{_COLLECTOR}Publish": [collector_pb2.PublishRequest(usecase="movies", events=[event] * 3)],
        f"{_COLLECTOR}PublishStream": [collector_pb2.PublishRequest(usecase="movies", events=[event])],
        f"{_COLLECTOR}PutItems": [collector_pb2.PutItemsRequest(usecase="movies", items=[item])],
        f"{_COLLECTOR}PutUsers": [
            collector_pb2.PutUsersRequest(usecase="movies", users=[events_pb2.User(id=196, external_id="196")])
        ],
    }
    return {method: [each.SerializeToString() for each in found] for method, found in requests.items()}


def mutated(seed: int) -> Iterator[tuple[str, bytes]]:
    """Method and broken bytes, for ever."""
    rng = random.Random(seed)  # noqa: S311  a schedule
    stock = good_requests()
    methods = [*stock, *(method for method in stock if method.startswith(_RANKING))]  # the gateway twice as often
    every = [raw for found in stock.values() for raw in found]
    while True:
        method = rng.choice(methods)
        raw = bytearray(rng.choice(stock[method]))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            raw = rng.choice(_MUTATIONS)(rng, raw, every)[:MOST_BYTES]
        yield method, bytes(raw)


def _at(rng: random.Random, raw: bytearray) -> int:
    return rng.randrange(len(raw) + 1)


def _flip(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    for _step in range(rng.choice((1, 1, 4))):
        if raw:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return raw


def _cut(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    return raw[: _at(rng, raw)]


def _drop(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    begin = _at(rng, raw)
    del raw[begin : begin + rng.randrange(1, 9)]
    return raw


def _insert(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    at = _at(rng, raw)
    raw[at:at] = rng.randbytes(rng.randrange(1, 17))
    return raw


def _noise(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    del raw
    return bytearray(rng.randbytes(rng.choice((0, 1, 2, 16, 256, 4096))))


def _splice(rng: random.Random, raw: bytearray, every: Sequence[bytes]) -> bytearray:
    """The head of one message and the tail of another, of any method."""
    other = rng.choice(every)
    return raw[: _at(rng, raw)] + bytearray(other[rng.randrange(len(other) + 1) :])


def _repeat(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    return bytearray(bytes(raw) * rng.choice((2, 10, 100)))


def _lie(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    """A field with a length, or a number, that is beyond everything."""
    field, kind = rng.randrange(1, 30), rng.choice((0, 1, 2, 3, 4, 5, 6, 7))
    at = _at(rng, raw)
    raw[at:at] = _varint(field << 3 | kind) + _varint(rng.choice(_HUGE))
    return raw


def _nest(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    """Groups and messages in each other, deeper than any parser should follow."""
    if rng.random() < 0.5:
        return raw + bytearray(_varint(rng.randrange(1, 30) << 3 | 3) * rng.choice((10, 200, 5_000)))
    inner = b""
    tag = _varint(rng.randrange(1, 10) << 3 | 2)
    for _step in range(rng.choice((10, 150))):
        inner = tag + _varint(len(inner)) + inner
    return raw + bytearray(inner)


def _text(rng: random.Random, raw: bytearray, _: Sequence[bytes]) -> bytearray:
    """A name that is no UTF-8, or not one that anybody should print."""
    name = rng.choice(
        (b"\xff\xfe", b"\xed\xa0\x80", b"movies\x00", b"../../etc", b"%s%n", b"a" * 70_000, "mövies".encode())
    )
    return bytearray(b"\x0a" + _varint(len(name)) + name) + raw


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


_MUTATIONS: Final = (_flip, _flip, _cut, _drop, _insert, _noise, _splice, _repeat, _lie, _lie, _nest, _text)
