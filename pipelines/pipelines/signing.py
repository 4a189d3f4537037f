"""Signs bundles, and makes the key that development signs with. Who may verify is `bundle.Trust`."""

import os
from collections.abc import Callable
from pathlib import Path

from bundle import SIGNATURE, SignatureError, Trust
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.errors import BadInputError
from pipelines.settings import Settings

DEVELOPMENT = "development.pem"


def trusted(settings: Settings) -> Trust:
    """Whose bundles count; production needs at least one key.

    Raises:
        BadInputError: there is none, or a file is no public key.
    """
    try:
        return Trust.read(settings.trusted_keys, required=settings.env == "production")
    except SignatureError as exc:
        raise BadInputError(f"MILLRACE_TRUSTED_KEYS: {exc}") from exc


def signer_of(settings: Settings) -> Callable[[Path], None]:
    """What training signs with: the key that is set, outside production one that is made here.

    Raises:
        BadInputError: there is no such key.
    """
    key = settings.signing_key
    return signer(key if settings.env == "production" else development_key(key, settings.trusted_keys))


def signer(key: Path) -> Callable[[Path], None]:
    """What `bundle.write_bundle` takes as `sign`: the format of OpenSSF Model Signing, by the private key in `key`.

    Raises:
        BadInputError: `key` is no private key on P-256, P-384 or P-521 in PEM.
    """
    # Imported here: half a second, and only training signs.
    from model_signing import hashing, signing

    config = signing.Config()
    try:
        config.use_elliptic_key_signer(private_key=key)
    except (OSError, ValueError, AttributeError, TypeError) as exc:
        raise BadInputError(
            f"{key}: is no private key that signs bundles ({exc}); make one: openssl ecparam -genkey -name prime256v1"
        ) from exc

    def sign(folder: Path) -> None:
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False))
        config.sign(folder, folder / SIGNATURE)

    return sign


def development_key(key: Path, trusted: Path) -> Path:
    """`key`, made if it is not there, with its public half in `trusted`: what set-up does outside production.

    Raises:
        BadInputError: the folders cannot be written.
    """
    if key.exists():
        return key
    private = ec.generate_private_key(ec.SECP256R1())
    try:
        key.parent.mkdir(parents=True, exist_ok=True)
        trusted.mkdir(parents=True, exist_ok=True)
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        secret = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # The public half first: whoever finds the private one finds a key that is trusted.
        (trusted / DEVELOPMENT).write_bytes(public)
        aside = key.with_name(f"{key.name}.{os.getpid()}")
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secret)
        aside.replace(key)
    except OSError as exc:
        raise BadInputError(f"{key}: cannot be made ({exc.strerror}); give MILLRACE_SIGNING_KEY") from exc
    return key
