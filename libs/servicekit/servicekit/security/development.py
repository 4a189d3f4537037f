"""A certificate authority, certificates and token keys for development and tests. Production brings its own."""

import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from servicekit.security.errors import SecurityFilesError

DAYS: Final = 365
TOKEN_S: Final = 8 * 3600.0
KEY_ID: Final = "development"
# Who gets a certificate; see `policy.yaml`.
CLIENTS: Final = ("operator", "simulator", "product/shop")
_EARLIER: Final = datetime.timedelta(minutes=5)  # clocks differ


def spiffe(name: str) -> str:
    """The name that a client's certificate bears: `operator` -> `spiffe://millrace/operator`."""
    return f"spiffe://millrace/{name}"


@dataclass(frozen=True)
class Files:
    """Where everything lies below `root` (`MILLRACE_HOME/certs`)."""

    root: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate: what clients and servers trust."""
        return self.root / "ca.pem"

    @property
    def server(self) -> Path:
        """The servers' certificate."""
        return self.root / "server.pem"

    @property
    def server_key(self) -> Path:
        """Its key."""
        return self.root / "server.key"

    def client(self, name: str) -> Path:
        """A client's certificate; its key beside it as `.key`."""
        return self.root / "clients" / f"{name.replace('/', '-')}.pem"

    @property
    def token_public_keys(self) -> Path:
        """Folder of the public keys that verify tokens."""
        return self.root / "tokens"

    @property
    def token_key(self) -> Path:
        """The private key that signs tokens."""
        return self.root / "token.key"

    @property
    def complete(self) -> bool:
        """Whether a secured stack can start with what is there."""
        return all(path.exists() for path in (self.ca, self.server, self.server_key, self.token_key))


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, path: Path) -> None:
        """To `path` and, for the key, readable by its owner only, beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_secret(path.with_suffix(".key"), self.key)
        path.write_bytes(self.certificate)


class Authority:
    """Signs certificates. Its own key is in memory or in `ca.key`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str = "Millrace development") -> "Authority":
        """One of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, subject, key.public_key(), DAYS * 2)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def pair(self) -> Pair:
        """Certificate and key."""
        return Pair(self._certificate.public_bytes(serialization.Encoding.PEM), private_pem(self._key))

    @classmethod
    def read(cls, path: Path) -> "Authority":
        """The one of `ca.pem` and `ca.key`. SecurityFilesError if they are not there or broken."""
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            key = serialization.load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
        except (OSError, ValueError) as exc:
            raise SecurityFilesError(f"{path}: no authority can be read ({exc}); run: millrace certs --new") from exc
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  written by `new`
        return cls(certificate, key)

    def server(self, hosts: Sequence[str], *, days: float = DAYS) -> Pair:
        """A server's certificate for host names and addresses."""
        return self._issue("server", [_host(each) for each in hosts], ExtendedKeyUsageOID.SERVER_AUTH, days)

    def client(self, names: Iterable[str], *, days: float = DAYS, purpose: str = "client") -> Pair:
        """A client's certificate with these SANs: URIs, or DNS names."""
        sans = [
            x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name) for name in names
        ]  # fmt: skip
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if purpose == "client" else ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue("client", sans, usage, days)

    def _issue(
        self, name: str, sans: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier, days: float
    ) -> Pair:  # fmt: skip
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, self._certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))


def make(files: Files, hosts: Sequence[str]) -> None:
    """Everything that a secured development stack needs: authority, certificates, a key pair for tokens."""
    authority = Authority.new()
    authority.pair.write(files.ca)
    authority.server(hosts).write(files.server)
    for name in CLIENTS:
        authority.client([spiffe(name)]).write(files.client(name))
    key = ec.generate_private_key(ec.SECP256R1())
    write_secret(files.token_key, private_pem(key))
    files.token_public_keys.mkdir(parents=True, exist_ok=True)
    (files.token_public_keys / f"{KEY_ID}.pem").write_bytes(public_pem(key.public_key()))


def token(
    files: Files, subject: str, roles: Sequence[str], *, now_s: float, seconds: float = TOKEN_S,
    audience: str = "millrace", issuer: str = "millrace",
) -> str:  # fmt: skip
    """A signed token. SecurityFilesError if there is no key to sign with."""
    try:
        key = files.token_key.read_text(encoding="ascii")
    except OSError as exc:
        raise SecurityFilesError(f"{files.token_key}: {exc.strerror}; run: millrace certs") from exc
    claims = {
        "sub": subject, "aud": audience, "iss": issuer, "iat": int(now_s), "exp": int(now_s + seconds),
        "roles": list(roles),
    }  # fmt: skip
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": KEY_ID})


def private_pem(key: "ec.EllipticCurvePrivateKey") -> bytes:
    """A private key as PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: "ec.EllipticCurvePublicKey") -> bytes:
    """A public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_secret(path: Path, secret: bytes) -> None:
    """Write what only its owner may read, never readable by others in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - max(_EARLIER, datetime.timedelta(days=-2 * days)))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=signs, crl_sign=signs, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
