"""Public data sets that come inside wheels: fetched by pip when run, checked, kept under MILLRACE_HOME."""

import hashlib
import subprocess
import sys
from pathlib import Path

from pipelines.errors import DownloadError

DOWNLOAD_TIMEOUT_S = 180


def fetch_wheel(requirement: str, filename: str, sha256: str, folder: Path) -> Path:
    """The wheel `filename`, from `folder` if it is there, else from the package index.

    Args:
        requirement: exact, such as `recbole==1.2.1`; pip asks whatever index it is configured for.
        filename: the wheel's name.
        sha256: of the wheel, in hex; other bytes are never used.
        folder: cache, made if absent.

    Raises:
        DownloadError: pip failed, or the bytes are others.
    """
    path = folder / filename
    if path.exists() and _sha256(path) == sha256:
        return path
    aside = folder / "incoming"
    aside.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(aside), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise DownloadError(f"{requirement}: pip did not finish ({exc}); check the network, or give files") from exc
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DownloadError(f"{requirement}: {reason}; check the network and pip's index, or give files")
    fetched = aside / filename
    if not fetched.exists() or (found := _sha256(fetched)) != sha256:
        what = found if fetched.exists() else "another file"
        raise DownloadError(
            f"{filename}: fetched {what}, expected sha256 {sha256}; the index does not serve the original"
        )
    fetched.replace(path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
