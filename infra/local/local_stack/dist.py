"""Fills `dist/`: jars by Maven, Triton's own environment by uv. Each folder is filled aside and renamed."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from local_stack.errors import FetchFailed, MissingProgram
from local_stack.home import Home, checkout_root

PACKAGE = Path(__file__).resolve().parent
TRITON_REQUIREMENTS = PACKAGE / "triton-requirements.txt"
TRITON_PYTHON = "3.11"  # the stub of the Python backend is built for one minor version


def jars_folder(home: Home, name: str) -> Path:
    """Where the jars of `name` (a pom of this package) are or will be; the pom's hash is in the name."""
    return home.dist_folder(f"{name}-{_digest(PACKAGE / 'poms' / f'{name}.xml')}")


def triton_folder(home: Home) -> Path:
    """Where Triton's environment is or will be: `venv/`, `backends/`, `libdir`."""
    return home.dist_folder(f"triton-{_digest(TRITON_REQUIREMENTS)}")


def fetch_jars(home: Home, name: str) -> Path:
    """Folder with the jars of `name`, fetched if it is not there yet.

    Raises:
        MissingProgram: no Maven.
        FetchFailed: Maven failed; the message ends with its output.
    """
    folder = jars_folder(home, name)
    if folder.exists():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingProgram("Maven (mvn) is not installed: install it, or use --profile embedded")
    pom = PACKAGE / "poms" / f"{name}.xml"
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

    def copy(target: Path) -> None:
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
        _run([maven, "-q", "-B", "-C", "-f", str(pom), goal, *options], tries=2)

    # One Maven at a time: two would share, and could break, the user's local repository.
    return _fill(folder, copy, lock=home.dist / ".maven.lock")


def fetch_triton(home: Home) -> Path:
    """Triton's environment and backend folder, made if not there yet.

    Raises:
        MissingProgram: no uv.
        FetchFailed: the packages could not be installed.
    """
    folder = triton_folder(home)
    if folder.exists():
        return folder
    uv = find_uv()

    def build(target: Path) -> None:
        python, libdir = _python_with_library(uv)
        venv = target / "venv"
        _run([uv, "venv", "--quiet", "--relocatable", "--python", python, str(venv)])
        install = [
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--python",
            str(venv / "bin" / "python"),
            *(["--compile-bytecode"] if sys.dont_write_bytecode else []),  # else each stub compiles numpy at its start
        ]
        _run([uv, *install, "-r", str(TRITON_REQUIREMENTS)], tries=2)
        server = site_packages(target) / "pytriton" / "tritonserver"
        backend = target / "backends" / "python"
        shutil.copytree(server / "backends" / "python", backend)
        stub = "triton_python_backend_stub"
        shutil.copy2(server / "python_backend_stubs" / TRITON_PYTHON / stub, backend / stub)
        (target / "libdir").write_text(libdir)

    return _fill(folder, build, lock=home.dist / ".triton.lock")


def site_packages(triton: Path) -> Path:
    """`site-packages` of Triton's environment."""
    return triton / "venv" / "lib" / f"python{TRITON_PYTHON}" / "site-packages"


def find_uv() -> str:
    """Path of uv: the checkout's own, else the one on PATH."""
    own = checkout_root() / ".tools" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise MissingProgram("uv is not installed: run `make setup`")
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _fill(folder: Path, build: Callable[[Path], None], *, lock: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock):
        if folder.exists():  # another process was faster
            return folder
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            build(aside)
            aside.chmod(0o755)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], *, tries: int = 1) -> None:
    """Run a fetching command; a failure is retried, as most are the network's."""
    for left in reversed(range(tries)):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return
        if not left:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
            raise FetchFailed(f"`{Path(command[0]).name} {command[1]} …` failed (is the network there?):\n{tail}")


def _python_with_library(uv: str) -> tuple[str, str]:
    """A Python 3.11 that has its shared library, which the stub loads, and the folder of that library."""
    candidates = [os.path.realpath(sys.executable)] if sysconfig.get_python_version() == TRITON_PYTHON else []
    candidates += [found for found in [shutil.which(f"python{TRITON_PYTHON}")] if found]
    for python in candidates:
        if libdir := _library_folder(python):
            return python, libdir
    _run([uv, "python", "install", "--quiet", TRITON_PYTHON], tries=2)
    found = subprocess.run(
        [uv, "python", "find", "--managed-python", TRITON_PYTHON], capture_output=True, text=True
    ).stdout.strip()
    libdir = _library_folder(found) if found else ""
    if not libdir:
        raise FetchFailed(f"no Python {TRITON_PYTHON} with a shared library, which Triton's Python backend loads")
    return found, libdir


_ASK_LIBRARY = """
import sysconfig
from pathlib import Path
get = sysconfig.get_config_var
folders = [Path(get("LIBDIR") or "/"), Path(get("LIBDIR") or "/") / (get("MULTIARCH") or "")]
print(next((folder for folder in folders if (folder / (get("INSTSONAME") or "-")).is_file()), ""))
"""


def _library_folder(python: str) -> str:
    """Folder of `python`'s shared library, or "" if it has none."""
    done = subprocess.run([python, "-c", _ASK_LIBRARY], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
