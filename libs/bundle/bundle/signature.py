"""Who made a bundle: its `signature` is verified here, with nothing but the public keys that a process trusts.

The file has the format of OpenSSF Model Signing 1.0 (a DSSE envelope around an in-toto statement that names every file
with its sha256), so `model_signing verify key` reads it too. Serving carries `cryptography` for it, not that package.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bundle.errors import SignatureError

SIGNATURE = "signature"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_PREDICATE = "https://model_signing/signature/v1.0"
_HASHES: Mapping[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}


@dataclass(frozen=True)
class Trust:
    """The public keys that a bundle may be signed by.

    `required` False: a bundle without a signature passes (development); a wrong one does not, where there is any key.
    """

    keys: tuple[ec.EllipticCurvePublicKey, ...]
    required: bool = True

    @classmethod
    def read(cls, folder: Path, *, required: bool) -> Self:
        """Every `*.pem` of `folder`; several keys stand side by side while one replaces the other.

        Raises:
            SignatureError: `required` and there is none, or a file is no public key on P-256, P-384 or P-521.
        """
        keys = tuple(_public_key(path) for path in sorted(folder.glob("*.pem")))
        if required and not keys:
            raise SignatureError(
                f"{folder}: holds no public key (*.pem), and bundles without a trusted signature are refused here"
            )
        return cls(keys, required)

    def check(self, folder: Path, files: Mapping[str, str]) -> None:
        """Refuse the bundle in `folder` unless one of the keys signed exactly `files` (name -> sha256 in hex).

        Raises:
            SignatureError: not signed, signed by nobody we trust, or something else was signed.
        """
        if not self.keys and not self.required:
            return  # nobody here can tell
        path = folder / SIGNATURE
        if not path.is_file():
            if self.required:
                raise SignatureError(f"{folder}: is not signed; train it where MILLRACE_SIGNING_KEY is set")
            return
        try:
            envelope = json.loads(path.read_bytes())["dsseEnvelope"]
            payload = base64.b64decode(envelope["payload"], validate=True)
            signed = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
            if envelope["payloadType"] != _PAYLOAD_TYPE:
                raise SignatureError(f"{path}: holds {envelope['payloadType']!r}, expected {_PAYLOAD_TYPE}")
            if not any(_verifies(key, signed, payload) for key in self.keys):
                raise SignatureError(
                    f"{path}: none of the {len(self.keys)} trusted keys made it; the bundle is foreign"
                )
            listed = _resources(path, json.loads(payload))
        except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as exc:
            raise SignatureError(f"{path}: is no signature of a model ({exc!r}); sign the bundle again") from exc
        if listed != dict(files):
            apart = sorted(name for name in {*listed, *files} if listed.get(name) != files.get(name))
            raise SignatureError(f"{folder}: {', '.join(apart)} differ from what was signed; copy the bundle again")


def _verifies(key: ec.EllipticCurvePublicKey, signed: bytes, payload: bytes) -> bool:
    # Pre-authentication encoding of DSSE 1.0 (secure-systems-lab/dsse, protocol).
    encoded = f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    try:
        key.verify(signed, encoded, ec.ECDSA(_HASHES[key.key_size]))
    except InvalidSignature:
        return False
    return True


def _resources(path: Path, statement: dict[str, Any]) -> dict[str, str]:
    """Name -> sha256 of what was signed."""
    predicate = statement["predicate"]
    if statement["predicateType"] != _PREDICATE or predicate["serialization"]["method"] != "files":
        raise SignatureError(f"{path}: signs a {statement['predicateType']}, expected {_PREDICATE} by files")
    found = {}
    for resource in predicate["resources"]:
        if resource["algorithm"] != "sha256":
            raise SignatureError(f"{path}: {resource['name']} is hashed by {resource['algorithm']}, expected sha256")
        found[str(resource["name"])] = str(resource["digest"])
    return found


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as exc:
        raise SignatureError(f"{path}: is no public key in PEM ({exc})") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.key_size not in _HASHES:
        raise SignatureError(f"{path}: is no key on P-256, P-384 or P-521")
    return key
