"""Callers' tokens: who gets in, who does not, and what a repeat costs."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from servicekit.security import development
from servicekit.security.development import Files, private_pem, public_pem
from servicekit.security.errors import SecurityFilesError, Unauthenticated
from servicekit.security.tokens import KEYS_EVERY_S, KNOWN, TokenVerifier, read_keys

NOW = float(int(time.time()))
OTHER = ec.generate_private_key(ec.SECP256R1())


class Clock:
    """Seconds since the epoch, as told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("certs"))
    development.make(made, ["localhost"])
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(files: Files, clock: Clock) -> TokenVerifier:
    return TokenVerifier(files.token_public_keys, audience="millrace", issuer="millrace", clock=clock)


def claims(**changed: Any) -> dict[str, Any]:
    """A good token's claims but for what is changed; one that becomes None is left out."""
    good = {"sub": "shop", "aud": "millrace", "iss": "millrace", "exp": NOW + 60, "roles": ["rank.read"]}
    return {name: value for name, value in (good | changed).items() if value is not None}


def token(files: Files, changed: Mapping[str, Any] | None = None, headers: Mapping[str, Any] | None = None) -> str:
    """A signed token with these claims and headers changed."""
    key = files.token_key.read_text()
    return jwt.encode(claims(**dict(changed or {})), key, algorithm="ES256", headers=dict(headers or {}))


def part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def hmac_with_the_public_key(files: Files) -> str:
    """The classic: a verifier that trusts `alg` takes the public key for a shared secret."""
    (public,) = files.token_public_keys.glob("*.pem")
    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims())}"
    signature = hmac.new(public.read_bytes(), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


BAD: Mapping[str, Callable[[Files], str]] = {
    "no JWT": lambda _: "hello",
    "empty": lambda _: "",
    "too long": lambda f: token(f, {"pad": "x" * 9_000}),
    "no signature": lambda f: token(f).rpartition(".")[0] + ".",
    "alg none": lambda _: f"{part({'alg': 'none'})}.{part({'sub': 'x', 'exp': NOW + 60})}.",
    "hmac": hmac_with_the_public_key,
    "another key": lambda _: jwt.encode(claims(), private_pem(OTHER), "ES256"),
    "unknown kid": lambda f: token(f, headers={"kid": "other"}),
    "kid a path": lambda f: token(f, headers={"kid": "../token"}),
    "crit": lambda f: token(f, headers={"crit": ["b64"], "b64": False}),
    "expired": lambda f: token(f, {"exp": NOW - 31}),
    "no exp": lambda f: token(f, {"exp": None}),
    "exp a text": lambda f: token(f, {"exp": "soon"}),
    "exp true": lambda f: token(f, {"exp": True}),
    "exp infinite": lambda f: token(f, {"exp": float("inf")}),
    "exp no number": lambda f: token(f, {"exp": float("nan")}),
    "not yet": lambda f: token(f, {"nbf": NOW + 3_000, "exp": NOW + 3_600}),
    "other audience": lambda f: token(f, {"aud": "billing"}),
    "no audience": lambda f: token(f, {"aud": None}),
    "other issuer": lambda f: token(f, {"iss": "evil"}),
    "no issuer": lambda f: token(f, {"iss": None}),
    "no subject": lambda f: token(f, {"sub": None}),
    "empty subject": lambda f: token(f, {"sub": ""}),
    "roles a text": lambda f: token(f, {"roles": "rank.read"}),
    "roles numbers": lambda f: token(f, {"roles": [1]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_gets_nobody_in(kind: str, files: Files, verifier: TokenVerifier) -> None:
    """Whatever is wrong with it, the answer is that nobody is known; at the first try and at the second."""
    bad = BAD[kind](files)

    for _ in range(2):
        with pytest.raises(Unauthenticated, match=r"^token: "):
            verifier.verify(bad)


def test_a_good_token_names_its_caller(files: Files, verifier: TokenVerifier) -> None:
    """Subject, roles, and until when, leeway included."""
    found = verifier.verify(token(files))

    assert ("shop", {"rank.read"}, NOW + 90) == (found.subject, found.roles, found.until_s)


def test_a_known_token_ends_with_its_time(files: Files, verifier: TokenVerifier, clock: Clock) -> None:
    """30 s of leeway for clocks that differ, and no second more, although it is remembered."""
    good = token(files)
    verifier.verify(good)
    clock.now = NOW + 90
    verifier.verify(good)
    clock.now = NOW + 90.1

    with pytest.raises(Unauthenticated, match="over"):
        verifier.verify(good)


def test_a_known_token_costs_no_signature_check(
    files: Files, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Microseconds instead of the third of a millisecond that ECDSA takes."""
    good, bad = token(files), token(files, {"aud": "billing"})
    verifier.verify(good)
    with pytest.raises(Unauthenticated):
        verifier.verify(bad)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("checked again"))

    assert "shop" == verifier.verify(good).subject
    with pytest.raises(Unauthenticated):
        verifier.verify(bad)


def test_memory_of_tokens_is_bounded(files: Files, clock: Clock) -> None:
    """A caller who mints a token a call cannot fill the memory."""
    verifier = TokenVerifier(files.token_public_keys, audience="millrace", issuer="millrace", clock=clock)
    verifier._known = {bytes([n % 256, n // 256]): None for n in range(KNOWN)}  # type: ignore[misc]

    verifier.verify(token(files))

    assert len(verifier._known) == KNOWN


def test_keys_are_exchanged_without_a_restart(files: Files, clock: Clock, tmp_path: Path) -> None:
    """Add the new one, sign with it, remove the old one: what that had signed is out within seconds."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (old,) = files.token_public_keys.glob("*.pem")
    (folder / "old.pem").write_bytes(old.read_bytes())
    verifier = TokenVerifier(folder, audience="millrace", issuer="millrace", clock=clock)
    of_old = token(files, {"exp": NOW + 3600})
    verifier.verify(of_old)
    (folder / "new.pem").write_bytes(public_pem(OTHER.public_key()))
    clock.now += KEYS_EVERY_S
    of_new = jwt.encode(claims(sub="new", exp=NOW + 3600), private_pem(OTHER), "ES256", headers={"kid": "new"})

    assert "new" == verifier.verify(of_new).subject
    verifier.verify(of_old)
    (folder / "old.pem").unlink()
    clock.now += KEYS_EVERY_S
    with pytest.raises(Unauthenticated):
        verifier.verify(of_old)
    assert "new" == verifier.verify(of_new).subject


def test_rsa_is_taken_too(clock: Clock, tmp_path: Path) -> None:
    """RS256 with 2,048 bits; the algorithm is the key's, whatever else the token could have been signed by."""
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "k.pem").write_bytes(public_pem(key.public_key()))
    verifier = TokenVerifier(tmp_path, audience="millrace", issuer="millrace", clock=clock)

    assert "shop" == verifier.verify(jwt.encode(claims(), private_pem(key), "RS256")).subject
    with pytest.raises(Unauthenticated):
        verifier.verify(jwt.encode(claims(), private_pem(key), "PS256"))


def test_keys_that_are_too_weak_or_no_keys_are_refused_at_start(files: Files, tmp_path: Path) -> None:
    """The message names the file."""
    weak = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505  that is what is refused
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    for name, content in (
        ("weak.pem", public_pem(weak)),
        ("edwards.pem", edwards.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
        ("private.pem", files.token_key.read_bytes()),
        ("text.pem", b"hello"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SecurityFilesError, match=name):
            read_keys(tmp_path / name)
    with pytest.raises(SecurityFilesError, match="nowhere"):
        read_keys(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SecurityFilesError, match="empty"):
        read_keys(tmp_path / "empty")
