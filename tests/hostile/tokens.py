"""Sixty and more tokens that must open nothing."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from servicekit.security.development import KEY_ID, Files, private_pem, public_pem
from servicekit.security.policy import ROLES


def b64(raw: bytes) -> str:
    """As JWT writes bytes."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(content: Any) -> str:
    """One part of a token."""
    return b64(json.dumps(content).encode())


def claims(**changed: Any) -> dict[str, Any]:
    """Claims that would do, with every role, but for what is changed; what becomes `...` is left out."""
    good = {"sub": "mallory", "aud": "millrace", "iss": "millrace", "exp": int(time.time()) + 600, "roles": list(ROLES)}
    return {name: value for name, value in (good | changed).items() if value is not ...}


def bad_tokens(files: Files) -> Mapping[str, str]:
    """What it is -> the header `authorization`. Of those that are signed by the right key, the claims are wrong."""
    return {
        **{f"Bearer: {name}": f"Bearer {token}" for name, token in _unsigned(files).items()},
        **{f"Bearer: {name}": f"Bearer {token}" for name, token in _wrongly_signed(files).items()},
        **{f"Bearer: {name}": f"Bearer {token}" for name, token in _wrong_claims(files).items()},
        **_headers(files),
    }


def _signed(files: Files, payload: Any, headers: Mapping[str, Any] | None = None) -> str:
    """Signed by the right key, whatever it says."""
    key = load_pem_private_key(files.token_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    body = f"{part({'alg': 'ES256', 'typ': 'JWT', 'kid': KEY_ID} | dict(headers or {}))}."
    body += payload if isinstance(payload, str) else part(payload)
    return f"{body}.{b64(_raw(key.sign(body.encode(), ec.ECDSA(hashes.SHA256()))))}"


def _raw(der: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _unsigned(files: Files) -> dict[str, str]:
    body = f"{part({'alg': 'ES256', 'kid': KEY_ID})}.{part(claims())}"
    none = {
        f"alg {alg or 'empty'}": f"{part({'alg': alg, 'kid': KEY_ID})}.{part(claims())}."
        for alg in ("none", "None", "NONE", "nOnE", "")
    }
    return none | {
        "empty": "",
        "a word": "hello",
        "dots": "..",
        "spaces": " . . ",
        "one part": part(claims()),
        "two parts": body,
        "four parts": f"{body}.a.b",
        "five parts, as encryption has": f"{body}.a.b.c",
        "no signature": f"{body}.",
        "signature of zeros": f"{body}.{b64(bytes(64))}",
        "signature of ones": f"{body}.{b64(b'' + bytes([255]) * 64)}",
        "short signature": f"{body}.{b64(b'x')}",
        "long signature": f"{body}.{b64(bytes(4_000))}",
        "header no JSON": f"{b64(b'{')}.{part(claims())}.{b64(bytes(64))}",
        "header a list": f"{part([])}.{part(claims())}.{b64(bytes(64))}",
        "no alg": f"{part({'kid': KEY_ID})}.{part(claims())}.{b64(bytes(64))}",
        "alg a list": f"{part({'alg': ['ES256'], 'kid': KEY_ID})}.{part(claims())}.{b64(bytes(64))}",
        "deeply nested": f"{b64(b'{' + b'[' * 3_000)}.{part(claims())}.",
        "base64 with padding signs": f"{body}====.====",
        "long": f"{body}.{'x' * 6_000}",  # gRPC itself refuses some of 8 KiB of metadata, and all of 16
    }


def _wrongly_signed(files: Files) -> dict[str, str]:
    (public,) = files.token_public_keys.glob("*.pem")
    other, edwards = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    p384, rsa_key = ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)
    good = _signed(files, claims())
    head, payload, signature = good.split(".")
    flipped = bytearray(base64.urlsafe_b64decode(signature + "=="))
    halves = bytes(flipped[32:] + flipped[:32])
    flipped[5] ^= 1
    key = load_pem_private_key(files.token_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    der = key.sign(f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(other.public_key(), as_dict=True)
    own = {"kid": KEY_ID}

    def shared(secret: bytes, alg: str, digest: Any) -> str:
        body = f"{part({'alg': alg, 'kid': KEY_ID})}.{part(claims())}"
        return f"{body}.{b64(hmac.new(secret, body.encode(), digest).digest())}"

    return {
        "HS256 with the public key": shared(public.read_bytes(), "HS256", hashlib.sha256),
        "HS384 with the public key": shared(public.read_bytes(), "HS384", hashlib.sha384),
        "HS512 with the public key": shared(public.read_bytes(), "HS512", hashlib.sha512),
        "HS256 with the CA": shared(files.ca.read_bytes(), "HS256", hashlib.sha256),
        "HS256 with nothing": shared(b"", "HS256", hashlib.sha256),
        "another key": jwt.encode(claims(), private_pem(other), "ES256", headers=own),
        "another key, no kid": jwt.encode(claims(), private_pem(other), "ES256"),
        "the CA's key": jwt.encode(claims(), files.ca.with_suffix(".key").read_bytes(), "ES256", headers=own),
        "the server's key": jwt.encode(claims(), files.server_key.read_bytes(), "ES256", headers=own),
        "ES384": jwt.encode(claims(), private_pem(p384), "ES384", headers=own),
        "RS256": jwt.encode(claims(), private_pem(rsa_key), "RS256", headers=own),
        "PS256": jwt.encode(claims(), private_pem(rsa_key), "PS256", headers=own),
        "EdDSA": jwt.encode(claims(), edwards, "EdDSA", headers=own),
        "own key in the header": jwt.encode(claims(), private_pem(other), "ES256", headers={"jwk": jwk}),
        "own key by address": jwt.encode(claims(), private_pem(other), "ES256", headers={"jku": "http://127.0.0.1/k"}),
        "unknown kid": _signed(files, claims(), {"kid": "other"}),
        "kid a path": _signed(files, claims(), {"kid": "../../token"}),
        "kid a number": _signed(files, claims(), {"kid": 7}),
        "kid empty": _signed(files, claims(), {"kid": ""}),
        "critical extension": _signed(files, claims(), {"crit": ["b64"], "b64": False}),
        "one bit of the signature": f"{head}.{payload}.{b64(bytes(flipped))}",
        "halves of the signature exchanged": f"{head}.{payload}.{b64(halves)}",
        "signature in DER": f"{head}.{payload}.{b64(der)}",
        "payload exchanged": f"{head}.{part(claims(sub='root'))}.{signature}",
        "header exchanged": f"{part({'alg': 'ES256', 'typ': 'x'})}.{payload}.{signature}",
        "public key as the signature": f"{head}.{payload}.{b64(public_pem(other.public_key()))}",
    }


def _wrong_claims(files: Files) -> dict[str, str]:
    now = int(time.time())
    wrong: dict[str, Any] = {
        "over": claims(exp=now - 60),
        "over for ten years": claims(exp=now - 315_360_000),
        "exp at the epoch": claims(exp=0),
        "exp negative": claims(exp=-1),
        "no exp": claims(exp=...),
        "exp null": claims(exp=None),
        "exp a text": claims(exp="tomorrow"),
        "exp a list": claims(exp=[now + 60]),
        "exp true": claims(exp=True),
        "exp infinite": claims(exp=float("inf")),
        "exp no number": claims(exp=float("nan")),
        "begins later": claims(nbf=now + 3600),
        "nbf a text": claims(nbf="x"),
        "issued later": claims(iat=now + 3600),
        "another audience": claims(aud="billing"),
        "audience in other letters": claims(aud="Millrace"),
        "no audience": claims(aud=...),
        "audience null": claims(aud=None),
        "audience an empty list": claims(aud=[]),
        "audience a number": claims(aud=1),
        "another issuer": claims(iss="evil"),
        "no issuer": claims(iss=...),
        "issuer a list": claims(iss=["millrace"]),
        "no subject": claims(sub=...),
        "subject empty": claims(sub=""),
        "subject a number": claims(sub=7),
        "subject endless": claims(sub="x" * 1_000),
        "roles a text": claims(roles="rank.read"),
        "roles numbers": claims(roles=[1, 2]),
        "roles an object": claims(roles={"rank.read": True}),
        "no roles": claims(roles=...),
        "roles empty": claims(roles=[]),
        "roles in other letters": claims(roles=["RANK.READ", "Events.Write"]),
        "roles with a star": claims(roles=["*", "rank.*", "admin"]),
        "payload a list": [],
        "payload a text": "x",
        "payload a number": 7,
    }
    return {name: _signed(files, part(payload)) for name, payload in wrong.items()} | {
        "payload no JSON": _signed(files, b64(b"\xff{")),
    }


def _headers(files: Files) -> dict[str, str]:
    good = _signed(files, claims())
    return {
        "no scheme": good,
        "Basic": f"Basic {b64(b'root:root')}",
        "Digest": f"Digest {good}",
        "scheme alone": "Bearer",
        "two tokens in one": f"Bearer {good} {good}",
        "two tokens by comma": f"Bearer {good}, Bearer {good}",
    }
