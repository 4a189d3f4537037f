"""MLflow: one run a training, one registered version a bundle, alias `champion` on what was trained last and checked.

Serving never reads it; it reads bundles.
"""

import logging
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bundle import Bundle, BundleError, load_bundle

from pipelines.errors import RegistryError
from pipelines.settings import quiet_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
_ARTIFACT = "bundle"


@dataclass(frozen=True)
class Registered:
    """Where MLflow keeps it."""

    run_id: str
    name: str
    version: int
    alias: str


def register(folder: Path, bundle: Bundle, parameters: Mapping[str, object]) -> Registered:
    """Log a run with the bundle's metrics, register the bundle as a model version, point the alias at it.

    Ends with a download of what the alias names: the bundle is verified and its golden rows scored again.

    Args:
        folder: of MLflow's database and artifacts.
        bundle: verified.
        parameters: of the training, for the run's page.

    Raises:
        RegistryError: MLflow failed, or gave back something else.
    """
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
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            registered = _register(client, folder, bundle, parameters)
            _check(client, registered, bundle, folder / "check")
        except MlflowException as exc:
            raise RegistryError(f"MLflow in {folder}: {exc.message}; move the folder aside and train again") from exc
    return registered


def _register(client: "MlflowClient", folder: Path, bundle: Bundle, parameters: Mapping[str, object]) -> Registered:
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
    source = f"{run.info.artifact_uri}/{_ARTIFACT}"
    version = client.create_model_version(
        manifest.name,
        source,
        run_id=run_id,
        tags={
            "bundle_version": str(manifest.version),
            "digest": bundle.digest,
            "layout_hash": f"{manifest.layout_hash:08x}",
        },
    )
    client.set_registered_model_alias(manifest.name, CHAMPION, version.version)
    return Registered(run_id, manifest.name, int(version.version), CHAMPION)


def _check(client: "MlflowClient", registered: Registered, bundle: Bundle, target: Path) -> None:
    """What the alias names is, byte for byte and score for score, what was exported."""
    import mlflow.artifacts

    version = client.get_model_version_by_alias(registered.name, registered.alias)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as aside:
        where = mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=aside)
        try:
            again = load_bundle(Path(where), digest=bundle.digest)
        except BundleError as exc:
            raise RegistryError(f"{registered.name} version {registered.version}: {exc}") from exc
        scores = again.model().score(again.golden.features, again.golden.ints)
        if not np.array_equal(scores, bundle.model().score(bundle.golden.features, bundle.golden.ints)):
            raise RegistryError(
                f"{registered.name} version {registered.version}: scores differ from the exported model's"
            )
