"""The server's certificates, and a count of handshakes that failed: clients see those as an outage."""

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc

from servicekit.security.errors import SecurityFilesError
from servicekit.security.settings import EdgeSettings

HANDSHAKE_S: Final = 10  # a peer that connects and says nothing, or drips its hello, is dropped after this

_FAILED: Final = re.compile(rb"OPENSSL_internal:([A-Z_]+)")
_REASONS: Final = {
    b"PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    b"CERTIFICATE_VERIFY_FAILED": "certificate",
    b"WRONG_VERSION_NUMBER": "not_tls",
    b"HTTP_REQUEST": "not_tls",
    b"UNSUPPORTED_PROTOCOL": "version",
    b"NO_SHARED_CIPHER": "version",
}


def read_pem(path: Path) -> bytes:
    """The bytes of a PEM file. SecurityFilesError if it cannot be read, or is none."""
    try:
        found = path.read_bytes()
    except OSError as exc:
        raise SecurityFilesError(f"{path}: {exc.strerror}; name a PEM file that can be read") from exc
    if b"-----BEGIN " not in found:
        raise SecurityFilesError(f"{path}: is no PEM file")
    return found


def server_credentials(settings: EdgeSettings) -> Any | None:
    """gRPC's credentials for the settings' files, followed as they change; None for plaintext.

    A handshake asks whether the files are newer than the last ones; new files that do not fit each other are left
    alone until they do.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = [each for each in (settings.tls_certificate, settings.tls_key, settings.tls_client_ca) if each]

    def read() -> Any:
        chain, key, *ca = (read_pem(each) for each in files)
        _fits(files[0], chain, key)
        return grpc.ssl_server_certificate_configuration([(key, chain)], ca[0] if ca else None)

    seen = _stamps(files)

    def renewed() -> Any | None:
        nonlocal seen
        try:
            if (now := _stamps(files)) == seen:
                return None
            found = read()
        except (OSError, SecurityFilesError):
            return None
        seen = now
        return found

    return grpc.dynamic_ssl_server_credentials(read(), renewed, settings.tls_client_ca is not None)


def _fits(path: Path, chain: bytes, key: bytes) -> None:
    """SecurityFilesError unless the key is the certificate's: gRPC would accept them and fail every handshake."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        public = x509.load_pem_x509_certificate(chain).public_key()
        own = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError) as exc:
        raise SecurityFilesError(f"{path}: certificate or key is unreadable: {exc}") from exc
    if public != own:
        raise SecurityFilesError(f"{path}: the key is another certificate's")


def _stamps(files: list[Path]) -> list[tuple[int, int]]:
    return [((found := path.stat()).st_mtime_ns, found.st_ino) for path in files]


class HandshakeWatch:
    """Counts handshakes that failed, by reason, from the only place where gRPC tells: its own log on stderr.

    gRPC logs each at level INFO. The process's file descriptor 2 becomes a pipe, read by a thread: lines about
    handshakes are counted, all others go on to where stderr went. Python's own `sys.stderr` keeps the former
    descriptor, so that logs and tracebacks never depend on the thread. Make it before gRPC's first object.
    """

    def __init__(self) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "info")
        sys.stderr.flush()
        self._former = os.dup(2)
        read_end, write_end = os.pipe()
        os.dup2(write_end, 2)
        os.close(write_end)
        sys.stderr = os.fdopen(os.dup(self._former), "w", buffering=1, errors="backslashreplace")
        self._pipe = os.fdopen(read_end, "rb")

    def start(self, count: Callable[[str], object]) -> None:
        """Begin to read; `count(reason)` for each handshake that failed."""
        threading.Thread(target=self._read, args=(count,), name="handshakes", daemon=True).start()

    def _read(self, count: Callable[[str], object]) -> None:
        for line in self._pipe:
            if (reason := handshake_failure(line)) is not None:
                count(reason)
            elif not line.startswith(b"I"):  # gRPC's other lines of that level are for its developers
                os.write(self._former, line)


def handshake_failure(line: bytes) -> str | None:
    """The reason in a line of gRPC's log, if it is about a handshake that failed."""
    if b"Handshake failed" not in line:
        return None
    found = _FAILED.search(line)
    return _REASONS.get(found[1], "other") if found else "other"
