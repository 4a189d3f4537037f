"""The only module here that reads, or sets, the environment."""

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field
from servicekit.settings import PREFIX, Derived, Endpoint, Folder, FolderOrUri, ProcessSettings, in_checkout, under_home

TritonProfile = Literal["python", "onnxruntime_cpu", "onnxruntime_gpu", "onnxruntime_tensorrt"]
"""`python`: native Triton, whose wheel has no ONNX backend. The others: NVIDIA's image."""


# `bundle.Device`, spelled out: importing ONNX Runtime and numba would cost every command more than a second.
ScoringDevice = Literal["cpu", "cuda", "tensorrt"]


class Settings(ProcessSettings):
    """What batch work (training, deploy, precompute) reads from its environment; the command adds to it."""

    lake: FolderOrUri = Field(default_factory=under_home("lake"), description="Folder or URI of the offline tables.")
    models: Folder = Field(default_factory=under_home("models"), description="Triton's model repository.")
    bundles: Folder = Field(default_factory=under_home("bundles"), description="Folder of the model bundles.")
    signing_key: Folder = Field(
        default_factory=under_home("keys/signing.pem"),
        description="Private key (P-256, PEM) that training signs bundles with; made where it is absent, except in "
        "production.",
    )
    trusted_keys: Folder = Field(
        default_factory=under_home("keys/trusted"),
        description="Folder of the public keys (`*.pem`) that bundles may be signed by; production refuses all others.",
    )
    mlflow: Folder = Field(
        default_factory=under_home("mlflow"), description="Folder of MLflow's database and artifacts."
    )
    datasets: Folder = Field(
        default_factory=under_home("dist/datasets"), description="Folder where downloaded data sets are kept."
    )
    triton: Endpoint | None = Field(
        default=None, description="host:port (gRPC) of a Triton that somebody else runs; unset = our own."
    )
    triton_profile: TritonProfile = Field(
        default="python",
        description="Backend that deploy configures: `python` for the native Triton, `onnxruntime_cpu`, "
        "`onnxruntime_gpu` or `onnxruntime_tensorrt` for NVIDIA's image.",
    )
    scoring_device: ScoringDevice = Field(
        default="cpu",
        description="Where batch work (precompute) scores: `cpu`, or `cuda` or `tensorrt` with onnxruntime-gpu "
        "(`make gpu`).",
    )
    triton_templates: Folder = Field(
        default_factory=in_checkout("infra/triton"),
        description="Folder of Triton's configuration template and wrapper.",
    )
    feast_registry: str = Field(
        default_factory=Derived(
            "SQLite in MILLRACE_HOME/feast/registry.db", lambda read: f"sqlite:///{read['home']}/feast/registry.db"
        ),
        description="SQLAlchemy's URL of Feast's registry, which `millrace feast apply` writes.",
    )


def quiet_mlflow(folder: Path) -> None:
    """Before MLflow is imported: no telemetry, no network, no advice on the terminal, its database in `folder`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"


FEAST_QUIET: Final = {
    "FEAST_USAGE": "False",  # old releases sent statistics: off, should they return
    "FEAST_OPENLINEAGE_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def feast_environ() -> dict[str, str]:
    """The environment for a process with Feast: nothing is reported to anybody."""
    return {**os.environ, **FEAST_QUIET}


def bare_environ() -> dict[str, str]:
    """The environment without our settings, for a process that is given its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
