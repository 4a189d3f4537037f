"""Twelve and more ways to come without a certificate that opens anything."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from servicekit.security.development import Authority, Files, Pair, private_pem, spiffe


@dataclass(frozen=True)
class Shown:
    """What a client shows: `pair` None: no certificate; `plaintext`: no TLS at all."""

    pair: Pair | None = None
    plaintext: bool = False


def bad_certificates(files: Files) -> Mapping[str, Shown]:
    """What it is -> what is shown. All name what a rule lists, unless the name is what is wrong."""
    ours = Authority.read(files.ca)
    operator = [spiffe("operator")]
    leaf = ours.client(operator)
    pairs = {
        "another CA": Authority.new().client(operator),
        "another CA of our CA's name": Authority.new("Millrace development").client(operator),
        "signed by itself": _crafted(operator),
        "signed by a client's certificate": _crafted(operator, by=leaf),
        "over since yesterday": ours.client(operator, days=-1),
        "begins tomorrow": _crafted(operator, by=ours.pair, begins=1),
        "a server's purpose": ours.client(operator, purpose="server"),
        "the server's own": Pair(files.server.read_bytes(), files.server_key.read_bytes()),
        "the CA itself": ours.pair,
        "no name but a common one": _crafted([], by=ours.pair, common="spiffe://millrace/operator"),
        "another service's name": ours.client([spiffe("features")]),
        "a longer name": ours.client([spiffe("operator/x"), spiffe("operator.evil")]),
        "another trust domain": ours.client(["spiffe://evil/operator"]),
        "a star for a name": ours.client([spiffe("*"), "*"]),
        "the name as DNS": ours.client(["operator", "millrace.operator"]),
        "a product's prefix": ours.client([spiffe("product"), "spiffe://millrace/products/shop"]),
    }
    return {
        "plaintext": Shown(plaintext=True),
        "no certificate": Shown(),
        **{name: Shown(pair) for name, pair in pairs.items()},
    }


def _crafted(names: list[str], *, by: Pair | None = None, begins: float = 0, common: str = "client") -> Pair:
    """A certificate that no authority of ours would issue."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    issuer, signer = subject, key
    if by is not None:
        issuer = x509.load_pem_x509_certificate(by.certificate).subject
        loaded: Any = load_pem_private_key(by.key, None)
        signer = loaded
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=begins)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    if names:
        sans = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return Pair(builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM), private_pem(key))
