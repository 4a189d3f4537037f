"""A signature says who made every byte of a bundle."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle import SIGNATURE, IntegrityError, Manifest, SignatureError, Trust, load_bundle, write_bundle
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Files = dict[str, Path]
Sign = Callable[[Path], None]
TYPE = "application/vnd.in-toto+json"


def signer(key: ec.EllipticCurvePrivateKey, algorithm: str = "sha256") -> Sign:
    """Writes what OpenSSF Model Signing writes; pipelines' tests compare ours with its own."""

    def sign(folder: Path) -> None:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SIGNATURE]
        resources = [
            {
                "name": str(path.relative_to(folder)),
                "algorithm": algorithm,
                "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        ]
        statement = {
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {"serialization": {"method": "files"}, "resources": resources},
        }
        payload = json.dumps(statement).encode()
        signed = key.sign(f"DSSEv1 {len(TYPE)} {TYPE} {len(payload)} ".encode() + payload, ec.ECDSA(hashes.SHA256()))
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": TYPE,
            "signatures": [{"sig": base64.b64encode(signed).decode()}],
        }
        (folder / SIGNATURE).write_text(json.dumps({"dsseEnvelope": envelope}))

    return sign


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def trust(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> Trust:
    """A folder with an old key and ours."""
    folder = tmp_path / "trusted"
    folder.mkdir()
    for name, each in (("old.pem", ec.generate_private_key(ec.SECP256R1())), ("ours.pem", key)):
        pem = each.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / name).write_bytes(pem)
    return Trust.read(folder, required=True)


@pytest.fixture
def signed(tmp_path: Path, manifest: Manifest, files: Files, key: ec.EllipticCurvePrivateKey) -> Path:
    folder = tmp_path / "movies" / "1"
    write_bundle(folder, manifest, files, sign=signer(key))
    return folder


def test_a_signed_bundle_is_read_by_who_trusts_the_key(signed: Path, trust: Trust) -> None:
    """One of several trusted keys is enough: keys are replaced without a gap."""
    assert signed == load_bundle(signed, trust=trust).folder


def test_a_bundle_that_is_not_signed_is_refused_only_where_it_must_be(
    tmp_path: Path, manifest: Manifest, files: Files, trust: Trust
) -> None:
    """Development serves it, production does not."""
    folder = tmp_path / "movies" / "2"
    write_bundle(folder, manifest, files)

    load_bundle(folder, trust=Trust(trust.keys, required=False))
    with pytest.raises(SignatureError, match="not signed"):
        load_bundle(folder, trust=trust)


def test_a_foreign_signature_is_refused_everywhere(
    tmp_path: Path, manifest: Manifest, files: Files, trust: Trust
) -> None:
    """Even where none is required: a wrong one means that somebody else made this."""
    folder = tmp_path / "movies" / "2"
    write_bundle(folder, manifest, files, sign=signer(ec.generate_private_key(ec.SECP256R1())))

    with pytest.raises(SignatureError, match="none of the 2 trusted keys"):
        load_bundle(folder, trust=Trust(trust.keys, required=False))


def test_a_changed_manifest_is_refused(signed: Path, trust: Trust) -> None:
    """Its own hashes cannot save it: the manifest's hash is signed."""
    path = signed / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"auc": 0.5', b'"auc": 0.9'))

    with pytest.raises(SignatureError, match=r"manifest\.json differ"):
        load_bundle(signed, trust=trust)


@pytest.mark.parametrize("name", ["model.onnx", "fallback.onnx", "golden.npz"])
def test_a_changed_byte_is_refused(signed: Path, trust: Trust, name: str) -> None:
    """Of any file."""
    raw = bytearray((signed / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (signed / name).write_bytes(raw)

    with pytest.raises(IntegrityError, match="changed"):
        load_bundle(signed, trust=trust)


def test_a_file_that_came_later_is_refused(signed: Path, trust: Trust) -> None:
    """What nobody signed does not travel with what somebody did."""
    (signed / "extra.py").write_text("pass")

    with pytest.raises(IntegrityError, match="extra"):
        load_bundle(signed, trust=trust)


def test_a_file_added_to_manifest_and_folder_is_refused(signed: Path, trust: Trust) -> None:
    """A consistent forgery of the manifest is still not what was signed."""
    (signed / "extra.txt").write_text("x")
    path = signed / "manifest.json"
    found = json.loads(path.read_bytes())
    found["files"]["extra.txt"] = hashlib.sha256(b"x").hexdigest()
    path.write_text(json.dumps(found))

    with pytest.raises(SignatureError, match=r"extra\.txt, manifest\.json differ"):
        load_bundle(signed, trust=trust)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"dsseEnvelope": {"payload": "%%"}}', b"[1]"])
def test_bytes_that_are_no_signature_are_refused(signed: Path, trust: Trust, content: bytes) -> None:
    """With the package's own error."""
    (signed / SIGNATURE).write_bytes(content)

    with pytest.raises(SignatureError, match="no signature of a model"):
        load_bundle(signed, trust=trust)


def test_a_weak_hash_is_refused(
    tmp_path: Path, manifest: Manifest, files: Files, trust: Trust, key: ec.EllipticCurvePrivateKey
) -> None:
    """Only sha256 says which bytes were meant."""
    folder = tmp_path / "movies" / "2"
    write_bundle(folder, manifest, files, sign=signer(key, algorithm="md5"))

    with pytest.raises(SignatureError, match="hashed by md5"):
        load_bundle(folder, trust=trust)


def test_production_without_a_key_does_not_start(tmp_path: Path) -> None:
    """An empty folder would otherwise refuse every bundle, one by one."""
    with pytest.raises(SignatureError, match="no public key"):
        Trust.read(tmp_path, required=True)

    assert () == Trust.read(tmp_path, required=False).keys


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "a.pem").write_text("no key")

    with pytest.raises(SignatureError, match=r"a\.pem"):
        Trust.read(tmp_path, required=True)
