"""Decides for each call who makes it and whether they may: certificate, token, role, quota."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from servicekit.security.errors import PermissionDenied, Unauthenticated
from servicekit.security.policy import DEFAULT, ROLES, Names, Policy, Rule
from servicekit.security.quotas import CallerQuotas
from servicekit.security.settings import EdgeSettings
from servicekit.security.tokens import TokenVerifier

_BEARER: Final = "bearer "
_SANS: Final = ("peer_uri", "peer_dns")  # how gRPC names a certificate's SANs; its common name counts for nothing


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `name` is a token's subject, else a certificate's name; `until_s` when the token ends."""

    name: str
    roles: frozenset[str]
    until_s: float = float("inf")

    def require(self, role: str) -> None:
        """PermissionDenied unless the caller has the role: for what an RPC's message decides."""
        if role not in self.roles:
            raise PermissionDenied("role", f"this needs the role {role}, which {self.name} does not have")


LOCAL: Final = Caller("", frozenset(ROLES))  # nobody is asked: everything on this machine may do everything


@dataclass(frozen=True, slots=True)
class _Compiled:
    rule: Rule
    services: Names
    products: Names


class Door:
    """One server's. Belongs to its event loop. `tokens` None: no token is asked for; `mtls`: certificates are."""

    def __init__(
        self,
        policy: Policy,
        tokens: TokenVerifier | None,
        *,
        mtls: bool,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._tokens = tokens
        self._mtls = mtls
        self._wall = wall
        self.quotas = CallerQuotas(policy.quotas, clock)
        self._rules: Mapping[str, _Compiled] = {
            rpc: _Compiled(rule, Names(rule.services), Names(rule.products)) for rpc, rule in policy.rpcs.items()
        }

    @classmethod
    def of(cls, settings: EdgeSettings) -> "Door | None":
        """The settings' door; None where callers prove nothing. SecurityFilesError as its files."""
        if not settings.is_guarded:
            return None
        keys = settings.token_public_keys
        tokens = keys and TokenVerifier(keys, audience=settings.token_audience, issuer=settings.token_issuer)
        policy = Policy.read(settings.policy or DEFAULT)
        return cls(policy, tokens or None, mtls=settings.tls_client_ca is not None)

    def admit(self, method: str, context: Any) -> Caller:
        """Who makes this call of `/service/Method`; their quota is counted.

        Raises:
            Refused: they may not.
        """
        compiled = self._rules.get(method[1:])
        if compiled is None:
            raise PermissionDenied("rule", f"{method[1:]}: the policy has no rule for it")
        if compiled.rule.open:
            return LOCAL
        caller = self._identified(method, compiled, context)
        self.quotas.take(caller.name)
        return caller

    def check_still(self, caller: Caller) -> None:
        """Unauthenticated if the caller's token has ended since: streams outlive tokens."""
        if self._wall() > caller.until_s:
            raise Unauthenticated("expired", "token: it is over; get a new one and open the stream again")

    def _identified(self, method: str, compiled: _Compiled, context: Any) -> Caller:
        name, needs_token, granted = "", True, frozenset[str]()
        if self._mtls:
            names = _names(context.auth_context())
            granted = self._policy.granted(names)
            name, needs_token = _listed(method, compiled, names)
        token = _bearer(context.invocation_metadata())
        if token is None:
            if needs_token:
                raise Unauthenticated("no_token", "token: send metadata `authorization: Bearer <token>`")
            return Caller(name, granted)
        if self._tokens is None:
            raise Unauthenticated("token", "token: this server verifies none; leave it out")
        identity = self._tokens.verify(token)  # one that is sent must be right, also where none was needed
        if compiled.rule.roles.isdisjoint(identity.roles):
            needed = " or ".join(sorted(compiled.rule.roles))
            raise PermissionDenied("role", f"{method[1:]}: needs the role {needed}")
        return Caller(identity.subject, identity.roles, identity.until_s)


def _listed(method: str, compiled: _Compiled, names: list[str]) -> tuple[str, bool]:
    """Which of a certificate's names the rule lists, and whether a token is needed beside it."""
    if (service := compiled.services.first(names)) is not None:
        return service, False
    if (product := compiled.products.first(names)) is not None:
        return product, True
    raise PermissionDenied("certificate", f"{method[1:]}: this certificate's names are not on its list")


def _names(auth: Mapping[str, Any]) -> list[str]:
    return [name.decode("utf-8", "replace") for kind in _SANS for name in auth.get(kind, ())]


def _bearer(metadata: Any) -> str | None:
    """The call's token; None without one. Unauthenticated where there are two, or another scheme."""
    found = [value for key, value in metadata or () if key == "authorization"]
    if not found:
        return None
    if len(found) > 1:
        raise Unauthenticated("token", "token: `authorization` is there twice")
    value = found[0] if isinstance(found[0], str) else found[0].decode("utf-8", "replace")
    if value[: len(_BEARER)].lower() != _BEARER:
        raise Unauthenticated("token", "token: `authorization` must be `Bearer <token>`")
    return value[len(_BEARER) :].strip()
