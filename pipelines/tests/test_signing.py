"""What training signs is read by serving's verifier and by everybody's."""

from pathlib import Path

import pytest
from bundle import SIGNATURE, SignatureError, Trust
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from pipelines.errors import BadInputError
from pipelines.signing import DEVELOPMENT, development_key, signer

FILES = {"a": "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7"}  # sha256 of b"a\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_bytes(b"a\n")
    return tmp_path / "model"


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    return tmp_path / "trusted"


def test_both_verifiers_accept_what_was_signed(folder: Path, tmp_path: Path, trusted: Path) -> None:
    """Ours, which serving carries, and OpenSSF's, which an auditor has; both see a changed byte."""
    from model_signing import hashing, verifying

    signer(development_key(tmp_path / "signing.pem", trusted))(folder)
    ours = Trust.read(trusted, required=True)
    theirs = verifying.Config().use_elliptic_key_verifier(public_key=trusted / DEVELOPMENT)
    theirs.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False))

    ours.check(folder, FILES)
    theirs.verify(folder, folder / SIGNATURE)
    (folder / "a").write_bytes(b"b\n")
    with pytest.raises(ValueError, match="Hash mismatch"):
        theirs.verify(folder, folder / SIGNATURE)
    with pytest.raises(SignatureError, match="a differ"):
        ours.check(folder, {"a": "0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f"})


def test_set_up_makes_one_key_and_keeps_it_secret(tmp_path: Path, trusted: Path) -> None:
    """A second call finds the first's key; nobody else can read it."""
    key = development_key(tmp_path / "keys" / "signing.pem", trusted)
    made = key.read_bytes()

    assert made == development_key(key, trusted).read_bytes()
    assert 0o600 == key.stat().st_mode & 0o777
    assert 1 == len(Trust.read(trusted, required=True).keys)


def test_a_key_that_cannot_sign_is_bad_input(tmp_path: Path) -> None:
    """The message names the file and the remedy."""
    other = tmp_path / "other.pem"
    other.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    for key in (tmp_path / "absent.pem", other):
        with pytest.raises(BadInputError, match=f"{key.name}.*openssl"):
            signer(key)
