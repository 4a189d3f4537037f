"""Several targets, retries within a budget, hedges, tokens: against servers of ours on real sockets."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from millrace.client import Access, Hedging, NotAllowed, RankingClient, Tls, Unavailable, _channel
from millrace.client.access import TokenSource
from millrace.client.budgets import MOST, HedgeBudget, RetryBudget
from millrace.ranking.v1 import ranking_pb2 as pb
from millrace.ranking.v1 import ranking_pb2_grpc

WAIT_S = 60.0  # of what happens at once, unless something is wrong


class Server(ranking_pb2_grpc.RankingServiceServicer):
    """Answers with its number, at once or when it is let go; fails as often as it is told to."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.go = threading.Event()
        self.go.set()
        self.tokens: list[str | None] = []
        self.fails = 0
        self.status = grpc.StatusCode.UNAVAILABLE
        self.entered = threading.Semaphore(0)
        self.finished = threading.Semaphore(0)
        self._server = grpc.server(ThreadPoolExecutor(8))
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(self, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    @property
    def calls(self) -> int:
        return len(self.tokens)

    def Rank(self, request: pb.RankRequest, context: Any) -> pb.RankResponse:  # noqa: N802
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        self.entered.release()
        self.go.wait(WAIT_S)
        if self.fails:
            self.fails -= 1
            context.abort(self.status, f"{self.number} is away")
        self.finished.release()
        return pb.RankResponse(model_version=self.number)

    def stop(self) -> None:
        self.go.set()
        self._server.stop(0).wait()


Servers = Callable[[int], Sequence[Server]]


@pytest.fixture
def servers() -> Iterator[Servers]:
    started: list[Server] = []

    def start(count: int) -> Sequence[Server]:
        started.extend(Server(number) for number in range(1, count + 1))
        return started

    yield start
    for server in started:
        server.stop()


def came(server: Server, calls: int) -> bool:
    """Whether so many more calls have reached it, once they have."""
    return all(server.entered.acquire(timeout=WAIT_S) for _ in range(calls))


def ask(client: RankingClient, timeout_s: float = WAIT_S) -> int:
    return client.rank("movies", 1, [2], timeout_s=timeout_s).model_version


def test_targets_are_asked_in_turn(servers: Servers) -> None:
    """Each gets its share."""
    one, two = servers(2)
    with RankingClient([one.target, two.target]) as client:
        asked = [ask(client) for _ in range(10)]

    assert 5 == asked.count(1) == asked.count(2)


def test_a_target_that_is_away_costs_no_call(servers: Servers) -> None:
    """The next one answers at once, and the one that is away is asked last for a while."""
    one, two = servers(2)
    one.stop()
    with RankingClient(f"{one.target},{two.target}") as client:
        assert {2} == {ask(client) for _ in range(6)}
    assert 6 == two.calls


def test_when_one_of_two_goes_all_its_calls_are_answered_by_the_other(servers: Servers) -> None:
    """However many were under way there: the retry budget is for those who ask what is known to be away."""
    one, two = servers(2)
    one.fails = 1_000
    one.go.clear()
    with RankingClient([one.target, two.target], hedging=None) as client, ThreadPoolExecutor(16) as callers:
        answers = [callers.submit(ask, client) for _ in range(16)]
        assert came(one, 8)
        one.go.set()
        assert {2} == {answer.result() for answer in answers}


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_stopping_server_cancels_is_asked_again(servers: Servers, count: int) -> None:
    """gRPC's core ends so what reaches a server in the moment of its stop; the caller did not cancel anything."""
    started = servers(count)
    started[0].fails, started[0].status = 1, grpc.StatusCode.CANCELLED
    with RankingClient([server.target for server in started], hedging=None) as client:
        assert {count} == {ask(client) for _ in range(2)}
    assert 0 == started[0].fails


def test_where_every_try_is_cancelled_the_server_is_unavailable(servers: Servers) -> None:
    """The retries have an end, and the error says who it was."""
    (one,) = servers(1)
    one.fails, one.status = 100, grpc.StatusCode.CANCELLED
    with RankingClient(one.target) as client, pytest.raises(Unavailable, match="1 is away"):
        ask(client)
    assert _channel.ATTEMPTS == one.calls


def test_of_a_target_that_was_away_one_caller_finds_out(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on as if it were away, until it has answered; then it has its share again."""
    monkeypatch.setattr(_channel, "AWAY_S", 0.0)  # it is due at once
    one, two = servers(2)
    with RankingClient([one.target, two.target], hedging=None) as client, ThreadPoolExecutor(1) as caller:
        one.fails = 1
        assert [2, 2] == [ask(client), ask(client)]
        assert came(one, 1)
        one.go.clear()
        monkeypatch.setattr(_channel, "AWAY_S", 600.0)
        first = [caller.submit(ask, client) for _ in range(2)]  # in turn: one of them begins there, and hangs
        assert came(one, 1)
        assert [2] * 6 == [ask(client) for _ in range(6)]
        one.go.set()
        assert {1, 2} >= {answer.result() for answer in first}
        assert 2 == [ask(client) for _ in range(4)].count(1)


def test_where_nobody_answers_the_retries_end_with_their_budget(servers: Servers) -> None:
    """An outage is not doubled by those who wait for its end: with half the budget gone, one try a call."""
    (one,) = servers(1)
    one.fails = 1_000
    with RankingClient(one.target, timeout_s=0.3) as client:
        for _ in range(12):
            with pytest.raises(Unavailable, match="1 is away"):
                client.rank("movies", 1, [2])
    assert one.calls <= 12 + 5


def test_a_slow_target_is_hedged_and_its_call_runs_on(servers: Servers) -> None:
    """The other's answer counts; nobody is cancelled, since a cancelled call may cost the server more than its end."""
    one, two = servers(2)
    with RankingClient([one.target, two.target], hedging=Hedging(share=1.0, least_s=0.001)) as client:
        for _ in range(70):
            ask(client)
        one.go.clear()
        asked, hedged = one.calls, client.hedges[1]

        assert [2, 2] == [ask(client), ask(client)]  # in turn: one of them begins at the slow target
        assert one.calls > asked
        assert client.hedges[1] > hedged
        one.go.set()
        assert all(one.finished.acquire(timeout=WAIT_S) for _ in range(one.calls))  # answered, unheard


def test_hedges_are_at_most_a_twentieth_of_the_calls() -> None:
    """From the first call on, whatever the servers do."""
    budget = HedgeBudget(Hedging(share=0.05), clock=lambda: 0.0)
    hedged = 0
    for calls in range(1, 1_001):
        budget.begin()
        hedged += budget.take()
        assert hedged <= 0.05 * calls + 1e-9


def test_the_wait_before_a_hedge_is_the_rolling_p95() -> None:
    """Of the calls of late; with too few of them there is no hedge."""
    now = [0.0]
    budget = HedgeBudget(Hedging(least_s=0.0), clock=lambda: now[0])
    assert budget.begin() is None
    for step in range(100):
        budget.answered(step / 1_000)
    now[0] = 1.0
    assert budget.begin() == pytest.approx(0.095)
    for _ in range(512):
        budget.answered(0.2)
    now[0] = 2.0
    assert budget.begin() == pytest.approx(0.2)


def test_the_retry_budget_refills_with_answers() -> None:
    """Ten good calls pay for one retry."""
    budget = RetryBudget()
    while budget.failed():
        pass
    for _ in range(20):
        budget.succeeded()
    assert budget.failed()
    assert MOST > 0


def test_each_call_carries_the_token_and_a_changed_file_is_read_again(servers: Servers, tmp_path: Path) -> None:
    """Whoever renews tokens writes a file; nobody restarts."""
    (one,) = servers(1)
    file = tmp_path / "token"
    file.write_text("first\n")
    source = TokenSource(file)
    with RankingClient(one.target, token=file) as client:
        ask(client)
        file.write_text("second")
        ask(client)
    assert ["Bearer first", "Bearer second"] == one.tokens
    assert (("authorization", "Bearer second"),) == source.metadata()
    file.unlink()
    with RankingClient(one.target, token=file) as client, pytest.raises(NotAllowed, match="token"):
        ask(client)


def test_a_token_is_never_sent_in_plaintext_beyond_this_machine() -> None:
    """Whoever listens on the way could use it."""
    with pytest.raises(ValueError, match=r"shop\.example:50051 would get it in plaintext"):
        RankingClient("shop.example:50051", token="secret")  # noqa: S106


def test_one_text_says_where_and_how() -> None:
    """What a settings file or a command line can hold."""
    found = Access.of("grpcs://a:1,b:2?ca=/ca.pem&certificate=/me.pem&key=/me.key&name=gateway&token=/t")

    assert ("a:1", "b:2") == found.targets
    assert Tls(Path("/ca.pem"), Path("/me.pem"), Path("/me.key"), "gateway") == found.tls
    assert Path("/t") == found.token
    assert Access(("a:1",)) == Access.of("a:1") == Access.of("grpc://a:1")


@pytest.mark.parametrize(
    "text", ["a", "a:b", "", "http://a:1", "grpcs://a:1?cert=/x", "grpc://a:1?ca=/x", "grpcs://a:1?certificate=/x"]
)
def test_a_text_that_says_nothing_clear_is_refused(text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=r"target|tls"):
        Access.of(text)


def test_a_closed_client_answers_nobody(servers: Servers) -> None:
    """Closing in the middle of a hedged call ends it, within the deadline."""
    one, two = servers(2)
    client = RankingClient([one.target, two.target], hedging=Hedging(least_s=0.001))
    for _ in range(70):
        ask(client)
    one.go.clear()
    two.go.clear()
    one.entered = two.entered = threading.Semaphore(0)
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(ask, client)
        assert came(one, 1)
        client.close()

        assert isinstance(asked.exception(timeout=WAIT_S), Unavailable)
        with pytest.raises(Unavailable, match="closed"):
            ask(client)
