"""Steady requests to gateways while something happens to them: sent by the clock, every end of a request kept."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
import numpy as np
import numpy.typing as npt
from millrace.client import Context, MillraceError, RankingClient
from millrace.events.v1 import events_pb2
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc

from pipelines.bench import uncollected
from pipelines.errors import UnavailableError

DEADLINE_S: Final = 0.15
GRACE_S: Final = 0.02  # an answer that comes later after its deadline has failed, whatever it says
RECOMMEND_LIMIT: Final = 100
_CALLERS: Final = 64
_LOOK_S: Final = 0.05  # between two looks at the newest answers

_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 500),
    ("grpc.http2.ping_timeout_ms", 500),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, eq=False)
class Question:
    """One user's candidates uint64 (n,), and of those that the data knows the truth of: `judged` ids, `labels` 0/1.

    `time_us`: when features are evaluated; None is now.
    """

    user_id: int
    item_ids: npt.NDArray[np.uint64]
    judged: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int64]
    time_us: int | None = None

    def by(self, user_id: int) -> "Question":
        """The same, asked for another user."""
        return Question(user_id, self.item_ids, self.judged, self.labels, self.time_us)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """How one request ended. Times are monotonic seconds: when it was `due`, sent, and over.

    `question`: its place; -1 for a `Recommend`. `code`: the status; `rung` and the rest only of OK. `item_ids` uint64.
    """

    due: float
    sent: float
    ended: float
    question: int
    code: str
    rung: str = ""
    reason: str = ""
    version: int = 0
    item_ids: npt.NDArray[np.uint64] | None = None

    @property
    def ms(self) -> float:
        """From the schedule to the answer: a late start is the server's, or the bench's, but never left out."""
        return (self.ended - self.due) * 1e3


class OpenLoop:
    """`rate` requests a second of the questions in turn, every `recommend_every`th a `Recommend`, until `close`.

    A request never waits for the one before. One target is asked directly, each request once, so that nothing hides
    what it did; several are asked by `millrace.client`, as a product would.
    """

    def __init__(
        self,
        targets: Sequence[str],
        usecase: str,
        questions: Sequence[Question],
        *,
        rate: float,
        deadline_s: float = DEADLINE_S,
        recommend_every: int = 0,
    ) -> None:
        self.deadline_s = deadline_s
        self._usecase = usecase
        self._every_s = 1 / rate
        self._recommend_every = recommend_every
        self._turn = itertools.count()
        self._ended: list[Answer] = []
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._under_way = threading.Semaphore(0)
        self._sent = 0
        self._channel = grpc.insecure_channel(targets[0], options=_OPTIONS)
        self._stub = ranking_pb2_grpc.RankingServiceStub(self._channel)
        self._client = RankingClient(targets, timeout_s=deadline_s) if len(targets) > 1 else None
        self._pool = ThreadPoolExecutor(_CALLERS, "caller")
        self._open = contextlib.ExitStack()
        self.ask(questions)
        self._thread = threading.Thread(target=self._run, name="open loop", daemon=True)

    def __enter__(self) -> Self:
        try:
            grpc.channel_ready_future(self._channel).result(timeout=10)
        except grpc.FutureTimeoutError as exc:
            raise UnavailableError("no gateway answers; is the stack up? Try: millrace status") from exc
        self._open.enter_context(uncollected())
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask these from now on."""
        self.questions = questions
        self._requests = [self._rank(question) for question in questions]

    def close(self) -> None:
        """Send no more, and wait for what is under way."""
        if self._halt.is_set():
            return
        self._halt.set()
        self._thread.join(timeout=10)
        for _ in range(self._sent):
            self._under_way.acquire(timeout=self.deadline_s + 1)
        self._open.close()
        self._pool.shutdown()
        if self._client is not None:
            self._client.close()
        self._channel.close()

    @property
    def answers(self) -> list[Answer]:
        """All that have ended, by the time that they were due."""
        with self._lock:
            return sorted(self._ended, key=lambda answer: answer.due)

    def between(self, since: float, until: float = float("inf")) -> list[Answer]:
        """Answers to requests that were sent in [since, until)."""
        return [answer for answer in self.answers if since <= answer.sent < until]

    def wait_for(self, holds: Callable[[Answer], bool], *, since: float, count: int, within_s: float) -> float | None:
        """Seconds from `since` until the last `count` answers to questions sent since then hold; None if that is not
        so within `within_s`.
        """
        gives_up = time.monotonic() + within_s
        while time.monotonic() < gives_up:
            newest = self._newest(since, count)
            if len(newest) == count and all(holds(answer) for answer in newest):
                return max(0.0, newest[0].ended - since)
            self._halt.wait(_LOOK_S)
        return None

    def _newest(self, since: float, count: int) -> list[Answer]:
        """The last `count` to end of those to questions sent since then, or fewer; in the order of their ends.

        Looks at no more than these: whoever waits does it while requests are sent, by the same interpreter.
        """
        with self._lock:
            ended_since = itertools.takewhile(lambda answer: answer.ended >= since, reversed(self._ended))
            wanted = (answer for answer in ended_since if answer.question >= 0 and answer.sent >= since)
            found = list(itertools.islice(wanted, count))
        return found[::-1]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._halt.wait(max(0.0, due - time.monotonic())):
            self._send(next(self._turn), due)
            due += self._every_s

    def _send(self, turn: int, due: float) -> None:
        place = turn % len(self.questions)
        if self._client is not None:
            self._sent += 1
            self._pool.submit(self._by_client, self._client, place, due)
            return
        if self._recommend_every and turn % self._recommend_every == 0:
            question = self.questions[place]
            request: Any = pb.RecommendRequest(
                usecase=self._usecase, user_id=question.user_id, limit=RECOMMEND_LIMIT, context=_context(question)
            )
            method, place = self._stub.Recommend, -1
        else:
            method, request = self._stub.Rank, self._requests[place]
        self._sent += 1
        sent = time.monotonic()
        call = method.future(request, timeout=self.deadline_s)
        call.add_done_callback(lambda ended: self._note(ended, due, sent, place))

    def _note(self, call: Any, due: float, sent: float, place: int) -> None:
        over = time.monotonic()
        if call.code() is grpc.StatusCode.OK:
            found = call.result()
            answer = Answer(
                due, sent, over, place, self._in_time(over - sent),
                rung=events_pb2.Rung.Name(found.served_by).removeprefix("RUNG_"),
                reason=found.reason, version=found.model_version,
                item_ids=np.fromiter((item.item_id for item in found.items), np.uint64, len(found.items)),
            )  # fmt: skip
        else:
            answer = Answer(due, sent, over, place, call.code().name, reason=call.details() or "")
        self._keep(answer)

    def _by_client(self, client: RankingClient, place: int, due: float) -> None:
        question, sent = self.questions[place], time.monotonic()
        context = Context(time_us=question.time_us)
        try:
            found = client.rank(self._usecase, question.user_id, question.item_ids.tolist(), context=context)
        except MillraceError as exc:
            answer = Answer(due, sent, time.monotonic(), place, type(exc).__name__, reason=str(exc))
        else:
            over = time.monotonic()
            answer = Answer(
                due, sent, over, place, self._in_time(over - sent),
                rung=found.served_by, reason=found.reason, version=found.model_version,
                item_ids=np.fromiter((item.item_id for item in found.items), np.uint64, len(found.items)),
            )  # fmt: skip
        self._keep(answer)

    def _in_time(self, seconds: float) -> str:
        return "OK" if seconds <= self.deadline_s + GRACE_S else "LATE"

    def _keep(self, answer: Answer) -> None:
        with self._lock:
            self._ended.append(answer)
        self._under_way.release()

    def _rank(self, question: Question) -> pb.RankRequest:
        return pb.RankRequest(
            usecase=self._usecase,
            user_id=question.user_id,
            item_ids=question.item_ids.tolist(),
            context=_context(question),
        )


def _context(question: Question) -> events_pb2.Context:
    return events_pb2.Context(time_us=question.time_us)


def failures(answers: Sequence[Answer]) -> Mapping[str, int]:
    """Status -> how many ended so, OK left out."""
    found: dict[str, int] = {}
    for answer in answers:
        if answer.code != "OK":
            found[answer.code] = found.get(answer.code, 0) + 1
    return found
