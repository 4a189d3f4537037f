"""MLflow: one run a training, one registered version a bundle.

Alias `challenger` names what was trained last, `champion` what the newest decision says is champion: a mirror, which
`follow` mends where a gateway took a champion back by itself. Serving never reads it; it reads bundles. Bundles are
logged as files and never by `mlflow.onnx`, whose second `log_model` of a process keeps no weights.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bundle import Bundle, BundleError, load_bundle
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines.errors import RegistryError
from pipelines.progress import Progress
from pipelines.settings import quiet_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
_ARTIFACT = "bundle"
_DIGEST = "digest"


@dataclass(frozen=True)
class Registered:
    """Where MLflow keeps it."""

    run_id: str
    name: str
    version: int
    alias: str


def register(folder: Path, bundle: Bundle, parameters: Mapping[str, object]) -> Registered:
    """Log a run with the bundle's metrics, register the bundle as a model version, point `challenger` at it.

    Ends with a download of what the alias names: the bundle is verified and its golden rows scored again.

    Args:
        folder: of MLflow's database and artifacts.
        bundle: verified.
        parameters: of the training, for the run's page.

    Raises:
        RegistryError: MLflow failed, or gave back something else.
    """
    with _opened(folder) as client:
        version = _register(client, folder, bundle, parameters)
        return _point(client, folder, CHALLENGER, version, bundle)


def crown(folder: Path, bundle: Bundle) -> Registered:
    """Point `champion` at the registered version of this very bundle, and check what the alias then gives back.

    Args:
        folder: of MLflow's database and artifacts.
        bundle: what a decision says is champion.

    Raises:
        RegistryError: MLflow does not know the bundle, failed, or gave back something else.
    """
    with _opened(folder) as client:
        return _point(client, folder, CHAMPION, _registered(client, folder, bundle), bundle)


def check_registered(folder: Path, bundle: Bundle) -> None:
    """Asked before it is decided that it be champion. RegistryError where MLflow does not know this very bundle."""
    with _opened(folder) as client:
        _registered(client, folder, bundle)


def follow(folder: Path, bundles: Path, champion: pb.ModelPin) -> None:
    """Have the alias name what the newest decision says is champion.

    Args:
        folder: of MLflow's database and artifacts.
        bundles: folder of all bundles.
        champion: of the serving state.

    Raises:
        RegistryError: the bundle is not there any more, or as in `crown`.
    """
    with _opened(folder) as client:
        version = _champion(client, champion.name)
        if version is not None and _digest(version) == champion.digest:
            return
    try:
        bundle = load_bundle(bundles / champion.name / str(champion.version), digest=champion.digest)
    except BundleError as exc:
        raise RegistryError(f"alias {CHAMPION} of {champion.name} cannot follow the decision: {exc}") from exc
    crown(folder, bundle)


def champion_version(folder: Path, name: str) -> int | None:
    """Version of the bundle that `champion` names; None before the first promotion.

    Raises:
        RegistryError: MLflow failed.
    """
    if not (folder / "mlflow.db").exists():
        return None
    with _opened(folder) as client:
        version = _champion(client, name)
        return None if version is None else int(version.tags["bundle_version"])


def mirror(folder: Path, bundles: Path, state: pb.ServingState, progress: Progress) -> None:
    """`follow` where the state has a champion. Told, not raised: what is decided does not depend on the registry."""
    if not state.HasField("champion"):
        return
    try:
        follow(folder, bundles, state.champion)
    except RegistryError as exc:
        progress.note(f"the registry could not be told who is champion: {exc}")


@contextmanager
def _opened(folder: Path) -> Iterator["MlflowClient"]:
    """The client of the registry in `folder`; its errors as ours."""
    quiet_mlflow(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own dependencies
        # Imported here: it takes seconds, and nothing else needs it.
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        try:
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except MlflowException as exc:
            raise RegistryError(f"MLflow in {folder}: {exc.message}; move the folder aside and train again") from exc


def _champion(client: "MlflowClient", name: str) -> "ModelVersion | None":
    """What alias `champion` of the model names; None where there is no such model or alias."""
    if not client.search_registered_models(f"name = '{name}'"):
        return None
    if CHAMPION not in client.get_registered_model(name).aliases:
        return None
    return client.get_model_version_by_alias(name, CHAMPION)


def _registered(client: "MlflowClient", folder: Path, bundle: Bundle) -> "ModelVersion":
    """The newest version that is this very bundle; RegistryError if there is none."""
    name = bundle.manifest.name
    known = [each for each in client.search_model_versions(f"name = '{name}'") if _digest(each) == bundle.digest]
    if not known:
        raise RegistryError(
            f"MLflow in {folder} has no version of {name} with digest {bundle.digest[:12]}: it was trained "
            "elsewhere; train it here, or move its registry here"
        )
    return max(known, key=lambda each: int(each.version))


def _register(client: "MlflowClient", folder: Path, bundle: Bundle, parameters: Mapping[str, object]) -> "ModelVersion":
    manifest = bundle.manifest
    found = client.get_experiment_by_name(manifest.usecase)
    experiment = (
        found.experiment_id
        if found
        else client.create_experiment(
            manifest.usecase, artifact_location=(folder / "artifacts" / manifest.usecase).as_uri()
        )
    )
    run = client.create_run(experiment, run_name=f"{manifest.name}-{manifest.version}")
    run_id = run.info.run_id
    for key, value in parameters.items():
        client.log_param(run_id, key, value)
    for model, metrics in manifest.metrics.items():
        for metric, number in metrics.items():
            if number is not None:
                client.log_metric(run_id, f"{model}.{metric}", number)
    for key, number in manifest.parity.items():
        client.log_metric(run_id, f"parity.{key}", number)
    client.log_artifacts(run_id, str(bundle.folder), _ARTIFACT)
    client.set_terminated(run_id)
    if not client.search_registered_models(f"name = '{manifest.name}'"):
        client.create_registered_model(manifest.name)
    return client.create_model_version(
        manifest.name,
        f"{run.info.artifact_uri}/{_ARTIFACT}",
        run_id=run_id,
        tags={
            "bundle_version": str(manifest.version),
            _DIGEST: bundle.digest,
            "layout_hash": f"{manifest.layout_hash:08x}",
        },
    )


def _point(client: "MlflowClient", folder: Path, alias: str, version: "ModelVersion", bundle: Bundle) -> Registered:
    """Move the alias once what it will name is known to be the bundle, byte for byte and score for score."""
    _check(version, bundle, folder / "check")
    client.set_registered_model_alias(version.name, alias, version.version)
    if _digest(client.get_model_version_by_alias(version.name, alias)) != bundle.digest:
        raise RegistryError(f"{version.name}: alias {alias} was moved by somebody else; look at both, then try again")
    return Registered(str(version.run_id), version.name, int(version.version), alias)


def _check(version: "ModelVersion", bundle: Bundle, target: Path) -> None:
    """What the registry gives back is what was exported."""
    import mlflow.artifacts

    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as aside:
        where = mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=aside)
        try:
            again = load_bundle(Path(where), digest=bundle.digest)
        except BundleError as exc:
            raise RegistryError(f"{version.name} version {version.version}: {exc}") from exc
        scores = again.model().score(again.golden.features, again.golden.ints)
        if not np.array_equal(scores, bundle.model().score(bundle.golden.features, bundle.golden.ints)):
            raise RegistryError(f"{version.name} version {version.version}: scores differ from the exported model's")


def _digest(version: "ModelVersion") -> str:
    return str(version.tags.get(_DIGEST, ""))
