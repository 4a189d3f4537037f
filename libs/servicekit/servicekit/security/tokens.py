"""Callers' tokens: JWT, signed by RSA or ECDSA, verified with public keys, remembered by hash until they end."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from servicekit.security.errors import SecurityFilesError, Unauthenticated

LEEWAY_S: Final = 30.0
MAX_TOKEN: Final = 8 * 1024  # characters; gRPC takes 8 KiB of metadata
KNOWN: Final = 10_000  # tokens remembered
WRONG: Final = 1_000  # and wrong ones, so that a client in a loop costs no signature check a call
WRONG_S: Final = 5.0
KEYS_EVERY_S: Final = 10.0  # how soon a key that was added or removed is noticed
_REQUIRED: Final = ["exp", "aud", "iss", "sub"]
_RSA_BITS: Final = 2048
_EC: Final[Mapping[str, str]] = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for, what it grants, and until when (seconds since the epoch, leeway included)."""

    subject: str
    roles: frozenset[str]
    until_s: float


@dataclass(frozen=True, slots=True)
class _Key:
    public: Any
    algorithm: str


def read_keys(path: Path) -> dict[str, _Key]:
    """Public keys by id: of each `<id>.pem` in a folder, or the one of a file.

    Raises:
        SecurityFilesError: none is there, one is no public key, or not RSA of 2,048 bits and more or ECDSA on a NIST
            curve.
    """
    try:
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        keys = {file.stem: _key(file) for file in files}
    except OSError as exc:
        raise SecurityFilesError(f"{path}: {exc.strerror}; name a public key or a folder of them") from exc
    if not keys:
        raise SecurityFilesError(f"{path}: holds no *.pem; put the public keys there that sign callers' tokens")
    return keys


def _key(file: Path) -> _Key:
    try:
        public = load_pem_public_key(file.read_bytes())
    except ValueError as exc:
        raise SecurityFilesError(f"{file}: is no PEM public key") from exc
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= _RSA_BITS:
        return _Key(public, "RS256")
    if isinstance(public, ec.EllipticCurvePublicKey) and (algorithm := _EC.get(public.curve.name)):
        return _Key(public, algorithm)
    raise SecurityFilesError(f"{file}: use RSA of at least {_RSA_BITS} bits, or ECDSA on P-256, P-384 or P-521")


class TokenVerifier:
    """Verifies tokens for one audience and issuer. Belongs to one thread. `clock`: seconds since the epoch."""

    def __init__(self, keys: Path, *, audience: str, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._path = keys
        self._keys = read_keys(keys)
        self._audience = audience
        self._issuer = issuer
        self._clock = clock
        self._known: dict[bytes, Identity] = {}
        self._wrong: dict[bytes, tuple[float, Unauthenticated]] = {}
        self._look_again = clock() + KEYS_EVERY_S
        self._seen = _stamp(keys)

    def verify(self, token: str) -> Identity:
        """Who it speaks for; microseconds where it is known.

        Raises:
            Unauthenticated: with the reason.
        """
        now = self._clock()
        if now >= self._look_again:
            self._renew_keys(now)
        digest = blake2b(token.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._known.get(digest)
        if known is not None:
            if now <= known.until_s:
                return known
            raise Unauthenticated("expired", "token: it is over; get a new one")
        wrong = self._wrong.get(digest)
        if wrong is not None and now < wrong[0]:
            raise wrong[1]
        try:
            found = self._check(token, now)
        except Unauthenticated as exc:
            _make_room(self._wrong, WRONG)
            self._wrong[digest] = (now + WRONG_S, exc)
            raise
        _make_room(self._known, KNOWN)
        self._known[digest] = found
        return found

    def _check(self, token: str, now: float) -> Identity:
        claims = self._claims(token)
        exp, subject, roles = claims["exp"], claims["sub"], claims.get("roles", [])
        if not isinstance(exp, int | float) or isinstance(exp, bool) or not math.isfinite(exp):
            raise Unauthenticated("token", "token: `exp` must be seconds since the epoch")
        if exp + LEEWAY_S < now:
            raise Unauthenticated("expired", "token: it is over; get a new one")
        if not isinstance(subject, str) or not subject or len(subject) > 256:
            raise Unauthenticated("token", "token: `sub` must be a text of 1 to 256 characters")
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise Unauthenticated("token", "token: `roles` must be a list of texts")
        return Identity(subject, frozenset(roles), exp + LEEWAY_S)

    def _claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that one of our keys has signed for us; all is checked but `exp`."""
        if len(token) > MAX_TOKEN:
            raise Unauthenticated("token", f"token: longer than {MAX_TOKEN} characters")
        why = "the signature is by no key of ours"
        for key in self._candidates(token):
            try:
                return dict(
                    jwt.decode(
                        token, key.public, algorithms=[key.algorithm], audience=self._audience, issuer=self._issuer,
                        leeway=LEEWAY_S, options={"require": _REQUIRED, "verify_exp": False},
                    )
                )  # fmt: skip
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as exc:
                raise Unauthenticated("token", f"token: {exc}") from exc
            except Exception as exc:  # hostile claims overflow and recurse in places of their own
                raise Unauthenticated("token", f"token: unreadable ({type(exc).__name__})") from exc
        raise Unauthenticated("token", f"token: {why}")

    def _candidates(self, token: str) -> Iterator[_Key]:
        """The keys that may have signed it: never chosen by what the token says of its algorithm alone."""
        try:
            header = jwt.get_unverified_header(token)
        except Exception as exc:  # as above
            raise Unauthenticated("token", "token: it is no JWT") from exc
        if "crit" in header:
            raise Unauthenticated("token", "token: `crit` headers are not understood here")
        kid = header.get("kid")
        keys = self._keys.values() if kid is None else filter(None, [self._keys.get(kid)])
        return (key for key in keys if key.algorithm == header.get("alg"))

    def _renew_keys(self, now: float) -> None:
        """Take added keys, forget removed ones and all that they had signed. A folder that broke keeps what it had."""
        self._look_again = now + KEYS_EVERY_S
        try:
            if (seen := _stamp(self._path)) == self._seen:
                return
            self._keys, self._seen = read_keys(self._path), seen
        except (OSError, SecurityFilesError):
            return
        self._known.clear()
        self._wrong.clear()


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a key does."""
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    return tuple((file.name, (stat := file.stat()).st_mtime_ns, stat.st_ino) for file in files)


def _make_room(entries: dict[bytes, Any], limit: int) -> None:
    while len(entries) >= limit:
        del entries[next(iter(entries))]  # the one that came first
