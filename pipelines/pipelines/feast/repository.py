"""Feast's repository of a use case: a folder with which `feast apply`, `feast ui` and the SDK work as they are."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase
from millrace.decisions.v1.decisions_pb2 import ServingState

from pipelines.errors import UnavailableError
from pipelines.feast.environment import interpreter
from pipelines.feast.errors import NotReadableError
from pipelines.feast.views import project_of
from pipelines.settings import feast_environ

USECASE: Final = "usecase.yaml"
OBJECTS: Final = "feature_repo.py"  # Feast imports it by this name, which nothing else may have
_APPLY_S: Final = 300.0
_OBJECTS_FILE: Final = '''"""Written by `millrace feast apply`: all objects of the use case beside this file."""

from pathlib import Path

from pipelines.feast.definitions import objects_of

globals().update(objects_of(Path(__file__).with_name("{usecase}"), {revision}))
'''


@dataclass(frozen=True, slots=True)
class Places:
    """Where the stores behind Feast are. `registry`: SQLAlchemy's URL. `valkey` None: rows are in LMDB below `lmdb`."""

    registry: str
    lake: str
    valkey: str | None
    lmdb: Path
    kafka: str
    collector: str


def served_layout(state: ServingState, usecase: UseCase, revision: int) -> Layout:
    """The layout whose rows are read: of the revision that serves; of `revision` before the first deploy.

    Raises:
        NotReadableError: the use case was changed since; its rows do not exist yet.
    """
    layout = layout_of(usecase, state.pin.revision or revision)
    if state.HasField("pin") and state.pin.layout_hash != layout.layout_hash:
        raise NotReadableError(
            f"{usecase.name}: what serves has layout {state.pin.layout_hash:08x}, the file {layout.layout_hash:08x}; "
            "deploy a model of the changed use case first"
        )
    return layout


def write(folder: Path, usecase: Path, layout: Layout, places: Places) -> None:
    """Make the repository, or bring it up to date. `usecase`: the layout's file, copied: the folder can be moved."""
    spec, revision = layout.usecase, layout.revision
    folder.mkdir(parents=True, exist_ok=True)
    _ensure_database(places.registry)
    shutil.copyfile(usecase, folder / USECASE)
    (folder / OBJECTS).write_text(_OBJECTS_FILE.format(usecase=USECASE, revision=revision), encoding="utf-8")
    head = (
        f"# Written by `millrace feast apply` for {spec.name}, revision {revision}, layout {layout.layout_hash:08x}.\n"
    )
    config = _config(project_of(spec.name), revision, places)
    text = head + yaml.safe_dump(config, sort_keys=False)
    (folder / "feature_store.yaml").write_text(text, encoding="utf-8")


def apply(folder: Path) -> str:
    """Register the repository's objects; what Feast said.

    Raises:
        UnavailableError: no environment with Feast, or Feast refused; its words are in the message.
    """
    command = [str(interpreter().with_name("feast")), "apply"]
    try:
        done = subprocess.run(
            command, cwd=folder, env=feast_environ(), capture_output=True, text=True, timeout=_APPLY_S
        )
    except subprocess.TimeoutExpired as exc:
        raise UnavailableError(f"feast apply in {folder} was not done after {_APPLY_S:.0f} s") from exc
    if done.returncode:
        raise UnavailableError(f"feast apply in {folder} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def become_ui(folder: Path, host: str, port: int) -> NoReturn:
    """Be Feast's UI from here on, in this process: what stops it, stops the UI. Raises UnavailableError as `apply`."""
    feast = str(interpreter().with_name("feast"))
    os.chdir(folder)
    os.execve(feast, [feast, "ui", "--host", host, "--port", str(port)], feast_environ())  # noqa: S606  ours, no shell


def _config(project: str, revision: int, places: Places) -> dict[str, Any]:
    return {
        "project": project,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": places.registry, "cache_ttl_seconds": 60},
        "online_store": {
            "type": "pipelines.feast.online.MillraceOnlineStore",
            "usecase": USECASE,
            "revision": revision,
            "valkey": places.valkey,
            "lmdb": str(places.lmdb),
            "kafka": places.kafka,
            "collector": places.collector,
        },
        "offline_store": {
            "type": "pipelines.feast.offline.MillraceOfflineStore",
            "usecase": USECASE,
            "revision": revision,
            "lake": places.lake,
        },
        "entity_key_serialization_version": 3,
    }


def _ensure_database(registry: str) -> None:
    """SQLite makes its file, not its folder."""
    if registry.startswith("sqlite:///"):
        Path(registry.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
