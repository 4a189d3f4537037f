"""The Python environment that has Feast.

Feast holds packages back (pandas < 3, prometheus-client < 0.25, redis < 8), so it has a lock of its own, `infra/feast`,
and lies in `.venv-feast/` beside `.venv/`. An image that has Feast runs it in its own interpreter.
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
PROJECT: Final = "infra/feast"
_INSTALL_S: Final = 600.0  # a first download: 1.4 GB unpacked


def interpreter() -> Path:
    """Python that can `import feast` with its Redis and duckdb stores, and our packages.

    Installs it from the lock the first time; afterwards this takes 0.1 s.

    Raises:
        UnavailableError: there is no uv, or the packages cannot be fetched.
    """
    root = checkout_root()
    if not (root / PROJECT / "uv.lock").is_file():
        if importlib.util.find_spec("feast") is None:
            raise UnavailableError(f"Feast is not installed; an image for it is made from {PROJECT} of the checkout")
        return Path(sys.executable)
    own = root / ".tools" / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        raise UnavailableError("uv is not installed, and Feast's environment needs it: make setup")
    command = [uv, "sync", "--quiet", "--frozen", "--python", sys.executable, "--project", str(root / PROJECT)]
    environ = {**feast_environ(), "UV_PROJECT_ENVIRONMENT": str(root / FOLDER)}
    try:
        subprocess.run(command, cwd=root, env=environ, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.SubprocessError) as exc:
        why = (getattr(exc, "stderr", None) or str(exc)).strip()
        raise UnavailableError(f"Feast's environment {root / FOLDER} could not be installed: {why}") from exc
    return root / FOLDER / "bin" / "python"


if __name__ == "__main__":
    interpreter()
