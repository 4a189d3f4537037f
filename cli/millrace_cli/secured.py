"""A stack behind TLS and tokens: what its servers get, and what the command shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from millrace_cli.errors import BadInput

if TYPE_CHECKING:
    from loadtest.access import Access
    from servicekit.security.development import Files

    from millrace_cli.settings import Settings

_MARK: Final = "secured"  # in a home whose stack asks for certificates and tokens
_HOSTS: Final = ("localhost", "127.0.0.1", "::1", "gateway", "collector")
_LOADTEST: Final = "loadtest"  # as the policy's quotas name it


def files(settings: Settings) -> Files:
    """The development certificates of this home."""
    from servicekit.security.development import Files

    return Files(settings.home / "certs")


def is_on(settings: Settings) -> bool:
    """Whether the stack of this home is, or will be, secured."""
    return (files(settings).root / _MARK).exists()


def choose(settings: Settings, wanted: bool | None) -> None:
    """Remember what `up` was told; None: as before. Certificates are made where none are."""
    if wanted is None:
        return
    mark = files(settings).root / _MARK
    if wanted:
        if settings.env == "production":
            raise BadInput("--secured: its certificates are for development; give production's own by MILLRACE_TLS_...")
        make(settings)
        mark.touch()
    else:
        mark.unlink(missing_ok=True)


def make(settings: Settings, *, new: bool = False, hosts: tuple[str, ...] = ()) -> bool:
    """Make the authority, certificates and token keys where they are absent or `new`; whether they were made."""
    from servicekit.security import development

    if files(settings).complete and not (new or hosts):
        return False
    development.make(files(settings), [*_HOSTS, *hosts])
    return True


def server_settings(settings: Settings) -> Mapping[str, str]:
    """`MILLRACE_...` of the servers of a secured stack; nothing for another."""
    if not is_on(settings):
        return {}
    found = files(settings)
    return {
        "MILLRACE_TLS_CERTIFICATE": str(found.server),
        "MILLRACE_TLS_KEY": str(found.server_key),
        "MILLRACE_TLS_CLIENT_CA": str(found.ca),
        "MILLRACE_TOKEN_PUBLIC_KEYS": str(found.token_public_keys),
    }


def target(settings: Settings, endpoint: str) -> str:
    """`endpoint` as the clients take it: with the operator's certificate, where the stack is secured."""
    if not is_on(settings):
        return endpoint
    found = files(settings)
    own = found.client("operator")
    shown = {"ca": found.ca, "certificate": own, "key": own.with_suffix(".key")}
    return f"grpcs://{endpoint}?{urlencode({name: str(path) for name, path in shown.items()})}"


def loadtest_access(settings: Settings) -> Access | None:
    """How load gets into a secured stack: as a product's, with a certificate and a token of its own."""
    if not is_on(settings):
        return None
    from loadtest.access import Access
    from servicekit.security import development

    found = files(settings)
    own = found.client("product/shop")
    said = development.token(found, _LOADTEST, ["rank.read", "events.write"], now_s=time.time())
    path = own.with_name(f"{_LOADTEST}.token")
    development.write_secret(path, said.encode())
    return Access(ca=found.ca, certificate=own, key=own.with_suffix(".key"), token=path)
