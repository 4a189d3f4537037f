"""Where the servers are, and what opens their door: certificates and a token."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

LOOPBACK = ("127.", "localhost", "[::1]", "unix:")

Token = str | Path | Callable[[], str]


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. `ca`: who signs the servers' certificates; None = the system's authorities. `certificate` and `key`:
    our own (mTLS). `name`: what the servers' certificates must say, if not the host that is asked.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls: certificate and key: give both, or neither")


@dataclass(frozen=True, slots=True)
class Access:
    """Servers that answer alike, and what each call shows them."""

    targets: tuple[str, ...]
    tls: Tls | None = None
    token: Token | None = None

    @classmethod
    def of(cls, target: str | Sequence[str], tls: Tls | None = None, token: Token | None = None) -> "Access":
        """From `host:port`, several of them, or one text that says all.

        `grpcs://host:port,host:port?ca=ca.pem&certificate=me.pem&key=me.key&name=gateway&token=token.txt`; each part
        after `?` may be absent; `token` is a file, read anew when it changes. ValueError names what is wrong.
        """
        if isinstance(target, str) and "://" in target:
            if tls is not None or token is not None:
                raise ValueError("target: says by itself how to connect; leave tls and token out")
            return _parsed(target)
        found = (target,) if isinstance(target, str) else tuple(target)
        return cls(_checked(part.strip() for text in found for part in text.split(",")), tls, token)._safe()

    def _safe(self) -> "Access":
        exposed = [each for each in self.targets if not each.startswith(LOOPBACK)]
        if self.token is not None and self.tls is None and exposed:
            raise ValueError(f"token: {exposed[0]} would get it in plaintext; give tls")
        return self


class TokenSource:
    """The token as metadata of a call; a file is read again when it has changed."""

    def __init__(self, token: Token | None) -> None:
        self._token = token
        self._stamp = 0
        self._said = ""

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call carries. OSError if the token's file is gone."""
        if self._token is None:
            return ()
        if isinstance(self._token, Path):
            if (stamp := self._token.stat().st_mtime_ns) != self._stamp:
                self._said, self._stamp = self._token.read_text(encoding="utf-8").strip(), stamp
        else:
            self._said = self._token if isinstance(self._token, str) else self._token()
        return (("authorization", f"Bearer {self._said}"),)


def _parsed(text: str) -> Access:
    parts = urlsplit(text)
    if parts.scheme not in ("grpc", "grpcs") or parts.path or parts.fragment:
        raise ValueError(f"target: {text!r} is not host:port, grpc://host:port or grpcs://host:port?ca=...")
    given = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    token = given.pop("token", None)
    if unknown := sorted(set(given) - {"ca", "certificate", "key", "name"}):
        raise ValueError(f"target: {unknown[0]!r} is not one of ca, certificate, key, name, token")
    if given and parts.scheme == "grpc":
        raise ValueError("target: grpc:// is plaintext; say grpcs://")
    files = {name: Path(given[name]) for name in ("ca", "certificate", "key") if name in given}
    tls = Tls(**files, name=given.get("name")) if parts.scheme == "grpcs" else None
    return Access(_checked(parts.netloc.split(",")), tls, Path(token) if token else None)._safe()


def _checked(targets: Iterable[str]) -> tuple[str, ...]:
    found = tuple(targets)
    for each in found:
        host, _, port = each.rpartition(":")
        if not each.startswith("unix:") and (not host or not port.isdecimal()):
            raise ValueError(f"target: {each!r} is not host:port")
    if not found:
        raise ValueError("target: name at least one host:port")
    return found
