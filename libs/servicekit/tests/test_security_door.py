"""Who may call what: the whole grid of the policy, and what callers of each kind must show."""

from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
from servicekit.security.door import LOCAL, Caller, Door
from servicekit.security.errors import OverQuota, PermissionDenied, SecurityFilesError, Unauthenticated
from servicekit.security.policy import DEFAULT, ROLES, Policy
from servicekit.security.tokens import Identity

POLICY = Policy.read()
RANK = "millrace.ranking.v1.RankingService/Rank"
NAMES = (
    "spiffe://millrace/operator", "spiffe://millrace/simulator", "spiffe://millrace/product/shop", "spiffe://millrace/features",
    "spiffe://millrace/product", "spiffe://evil/operator", "operator", "*", "",
)  # fmt: skip


class FakeTokens:
    """Takes a token's text for the caller's roles."""

    def verify(self, token: str) -> Identity:
        if token == "bad":  # noqa: S105
            raise Unauthenticated("token", "token: bad")
        return Identity("caller", frozenset(token.split(",")), 1_000.0)


class Call:
    """What a door reads of a call."""

    def __init__(self, name: str | None = None, *tokens: str) -> None:
        self._auth = {} if name is None else {"peer_uri": [name.encode()], "x509_common_name": [b"operator"]}
        self._metadata = [("user-agent", "x"), *(("authorization", token) for token in tokens)]

    def auth_context(self) -> Any:
        return self._auth

    def invocation_metadata(self) -> Any:
        return self._metadata


class Clock:
    """Seconds, as told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def door(*, mtls: bool = False, tokens: bool = True, policy: Policy = POLICY, clock: Clock | None = None) -> Door:
    clock = clock or Clock()
    return Door(policy, FakeTokens() if tokens else None, mtls=mtls, clock=clock, wall=clock)  # type: ignore[arg-type]


def admitted(at: Door, rpc: str, call: Call) -> bool:
    try:
        at.admit(f"/{rpc}", call)
    except (Unauthenticated, PermissionDenied):
        return False
    return True


def test_the_grid_of_rpcs_and_roles_is_the_policys_and_no_wider() -> None:
    """Every RPC with every set of up to two roles: in exactly where the rule shares one of them."""
    at = door()
    sets = list(chain.from_iterable(combinations((*ROLES, "admin"), size) for size in (1, 2)))
    for rpc, rule in POLICY.rpcs.items():
        for roles in sets:
            expected = rule.open or bool(rule.roles & set(roles))
            assert expected == admitted(at, rpc, Call(None, f"Bearer {','.join(roles)}")), (rpc, roles)


def test_the_grid_of_rpcs_and_certificates_is_the_policys_and_no_wider() -> None:
    """A certificate's SAN decides, never its common name; any certificate of the CA is not enough."""
    at = door(mtls=True)
    for rpc, rule in POLICY.rpcs.items():
        for name in NAMES:
            product = name.startswith("spiffe://millrace/product/") and bool(rule.products)
            alone = rule.open or name in rule.services
            token = f"Bearer {','.join(ROLES)}"
            assert alone == admitted(at, rpc, Call(name)), (rpc, name)
            assert (alone or product) == admitted(at, rpc, Call(name, token)), (rpc, name)


@pytest.mark.parametrize("rpc", ["millrace.ranking.v1.RankingService/Reset", "x/y", ""])
def test_an_rpc_without_a_rule_is_closed(rpc: str) -> None:
    """Whoever calls, with every role."""
    with pytest.raises(PermissionDenied, match="rule"):
        door().admit(f"/{rpc}", Call(None, f"Bearer {','.join(ROLES)}"))


def test_a_bad_token_is_refused_where_none_was_needed() -> None:
    """A service whose certificate suffices does not get in with a forged token beside it."""
    at = door(mtls=True)

    assert "spiffe://millrace/operator" == at.admit(f"/{RANK}", Call("spiffe://millrace/operator")).name
    with pytest.raises(Unauthenticated):
        at.admit(f"/{RANK}", Call("spiffe://millrace/operator", "Bearer bad"))


@pytest.mark.parametrize(
    "headers", [(), ("Basic abc",), ("rank.read",), ("Bearer rank.read", "Bearer rank.read"), ("",)]
)
def test_only_one_bearer_token_counts(headers: tuple[str, ...]) -> None:
    """Two could be read differently by two parts."""
    with pytest.raises(Unauthenticated):
        door().admit(f"/{RANK}", Call(None, *headers))


def test_a_server_that_verifies_no_tokens_takes_none() -> None:
    """A product behind mTLS alone proves nothing of who calls."""
    at = door(mtls=True, tokens=False)

    with pytest.raises(Unauthenticated):
        at.admit(f"/{RANK}", Call("spiffe://millrace/product/shop"))
    with pytest.raises(Unauthenticated):
        at.admit(f"/{RANK}", Call("spiffe://millrace/product/shop", "Bearer rank.read"))


def test_a_caller_without_a_role_that_a_message_needs_is_refused() -> None:
    """Erasing needs more than writing, in one and the same RPC."""
    with pytest.raises(PermissionDenied, match="erase"):
        Caller("shop", frozenset({"batch.write"})).require("erase")
    LOCAL.require("erase")


def test_each_caller_has_a_bucket_of_its_own() -> None:
    """One caller's flood leaves the others alone, and the refusal says when to come again."""
    clock = Clock()
    at = door(clock=clock)
    quota = POLICY.quotas.default
    for _ in range(int(quota.burst)):
        at.quotas.take("flood")

    with pytest.raises(OverQuota) as refused:
        at.quotas.take("flood")
    at.quotas.take("other")
    assert refused.value.retry_after_s == pytest.approx(1 / quota.rate)
    clock.now += 1 / quota.rate
    at.quotas.take("flood")


def test_a_stream_is_slowed_to_the_quota_and_counted() -> None:
    """Not shed: what a caller sends in bulk waits; but streams are not for the taking."""
    at = door()
    quota = POLICY.quotas.default
    delays = [at.quotas.delay_s("bulk") for _ in range(int(quota.burst) + 10)]
    assert 0 == max(delays[: int(quota.burst)])
    assert delays[-1] == pytest.approx(10 / quota.rate)

    for _ in range(quota.streams):
        at.quotas.open_stream("bulk")
    with pytest.raises(OverQuota, match="streams"):
        at.quotas.open_stream("bulk")
    at.quotas.close_stream("bulk")
    at.quotas.open_stream("bulk")


def test_a_stream_ends_with_its_token() -> None:
    """It was right when the stream was opened; that was then."""
    clock = Clock()
    at = door(clock=clock)
    caller = at.admit(f"/{RANK}", Call(None, "Bearer rank.read"))
    at.check_still(caller)
    clock.now = 1_000.1

    with pytest.raises(Unauthenticated):
        at.check_still(caller)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("roles: [rank.read]\n", "rank.readx"),
        ("services:", "servces:"),
        ("spiffe://millrace/product/*", '"*"'),
        ("spiffe://millrace/product/*", "spiffe://*/product"),
        ("{open: true}", "{open: false}"),
        ("rate: 500", "rate: 0"),
    ],
)
def test_a_policy_with_a_mistake_is_refused_by_its_place(change: str, named: str, tmp_path: Path) -> None:
    """A misspelt role would lock everybody out, a misspelt key let everybody in."""
    path = tmp_path / "policy.yaml"
    replaced = "roles: [rank.readx]\n" if named == "rank.readx" else named
    text = DEFAULT.read_text()
    assert change in text
    path.write_text(text.replace(change, replaced, 1))

    with pytest.raises(SecurityFilesError, match=r"policy\.yaml: (rpcs|quotas)\."):
        Policy.read(path)
