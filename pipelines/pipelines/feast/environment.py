"""The Python environment that has Feast.

Feast holds packages back (pandas<3, prometheus-client<0.25, redis<8), so it is an extra that no other process installs.
It lies in `.venv-feast/` beside `.venv/`, from the same lock; an image that has Feast runs it in its own interpreter.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from servicekit.settings import checkout_root

from pipelines.errors import UnavailableError
from pipelines.settings import feast_environ

FOLDER: Final = ".venv-feast"
_SYNC: Final = ("--package", "millrace-pipelines", "--no-dev", "--extra", "feast")
_STOCK: Final = ("--group", "feast-stock", "--group", "test")
_INSTALL_S: Final = 600.0  # a first download: 1.4 GB unpacked


def interpreter() -> Path:
    """Python that can `import feast` and our packages, with Feast's own Redis and duckdb stores where it is a checkout.

    Installs it from the lock the first time; afterwards this takes 0.1 s.

    Raises:
        UnavailableError: there is no uv, or the packages cannot be fetched.
    """
    root = checkout_root()
    if not (root / "uv.lock").is_file():
        if importlib.util.find_spec("feast") is None:
            raise UnavailableError("Feast is not installed; install it: pip install 'millrace-pipelines[feast]'")
        return Path(sys.executable)
    own = root / ".tools" / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        raise UnavailableError("uv is not installed, and Feast's environment needs it: make setup")
    command = [uv, "sync", "--quiet", "--frozen", *_SYNC, *_STOCK]
    environ = {**feast_environ(), "UV_PROJECT_ENVIRONMENT": str(root / FOLDER)}
    try:
        subprocess.run(command, cwd=root, env=environ, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.SubprocessError) as exc:
        why = (getattr(exc, "stderr", None) or str(exc)).strip()
        raise UnavailableError(f"Feast's environment {root / FOLDER} could not be installed: {why}") from exc
    return root / FOLDER / "bin" / "python"


if __name__ == "__main__":
    interpreter()
