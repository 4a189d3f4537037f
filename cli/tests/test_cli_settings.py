"""What the command reads reaches what it calls."""

import os
from pathlib import Path

import pytest
from millrace_cli import environment
from millrace_cli.settings import Settings
from servicekit.settings import checkout_root


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
        monkeypatch.delenv(name)


def test_deploy_writes_for_the_triton_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """NVIDIA's image runs no Python backend of ours, so the profile has to arrive."""
    monkeypatch.setenv("MILLRACE_TRITON_PROFILE", "onnxruntime_gpu")
    monkeypatch.setenv("MILLRACE_TRITON_TEMPLATES", str(tmp_path / "templates"))
    monkeypatch.setenv("MILLRACE_MODELS", str(tmp_path / "models"))

    repository = environment.repository(Settings())

    assert "onnxruntime_gpu" == repository.profile
    assert (tmp_path / "models", tmp_path / "templates") == (repository.root, repository.templates)


def test_deploy_writes_for_the_native_triton_by_default() -> None:
    """Whose wheel has no ONNX backend."""
    repository = environment.repository(Settings())

    assert ("python", checkout_root() / "infra" / "triton") == (repository.profile, repository.templates)
