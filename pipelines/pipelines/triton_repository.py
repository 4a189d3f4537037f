"""Triton's model repository on disk: versions appear and vanish by rename, the configuration is replaced by rename."""

import itertools
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from bundle import ROW_BUCKETS, Bundle, Manifest, TensorSpec
from bundle.devices import GPU_MEMORY

from pipelines.errors import DeployError
from pipelines.settings import TritonProfile

_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
_CONFIG = "config.pbtxt"
_MAX_ROWS = 8192  # of one execution, as the template says


@dataclass(frozen=True)
class Repository:
    """The repository at `root`, and where template and wrapper come from (`infra/triton`)."""

    root: Path
    templates: Path
    profile: TritonProfile = "python"

    def name_of(self, manifest: Manifest, keep: Collection[int] = ()) -> str:
        """Triton's name for this version: under which it lies, else the first under which none of `keep` does.

        Triton 2.51 loads all of a name anew when a version is added to it, for seconds on few cores. So versions that
        serve are never under the name that is loaded: `<name>`, `<name>.2`, `<name>.3` take turns.
        """
        name, version = manifest.name, manifest.version
        home = next((each for each in [name, *self._others(name)] if version in self.versions(each)), None)
        turns = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
        return home or next(each for each in turns if not set(keep) & set(self.versions(each)))

    def idle(self, name: str, versions: Collection[int]) -> list[str]:
        """The model's further names under which none of `versions` lies. Its own name is never idle.

        A replica's readiness is asked of that one.
        """
        return [other for other in self._others(name) if not set(versions) & set(self.versions(other))]

    def _others(self, name: str) -> list[str]:
        return sorted(each.name for each in self.root.glob(f"{name}.*") if each.is_dir())

    def drop(self, name: str) -> None:
        """Take a name with all its versions away; renamed first, so that no half of it is ever seen."""
        aside = self.root / f".{name}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        (self.root / name).rename(aside)
        shutil.rmtree(aside)

    def versions(self, name: str) -> list[int]:
        """Versions on disk, ascending."""
        return sorted(int(each.name) for each in (self.root / name).glob("*") if each.name.isdecimal())

    def add(self, bundle: Bundle, name: str | None = None) -> bool:
        """Put the bundle's version under `name`, by default its own; False if it was there already, byte for byte.

        Raises:
            DeployError: that version is there with another model, or the template is missing.
        """
        folder = self.root / (name or bundle.manifest.name) / str(bundle.manifest.version)
        graph = bundle.model_path.read_bytes()
        if folder.exists():
            if (folder / "model.onnx").is_file() and (folder / "model.onnx").read_bytes() == graph:
                return False
            raise DeployError(f"{folder}: holds another model of the same version; train a new version, or remove it")
        aside = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _write(aside / "model.onnx", graph)
        if self.profile == "python":
            _write(aside / "model.py", self._template("model.py").encode())
        aside.rename(folder)
        _sync(folder.parent)
        return True

    def remove(self, name: str, version: int) -> None:
        """Take a version away; renamed first, so that no half of it is ever seen."""
        folder = self.root / name / str(version)
        aside = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            folder.rename(aside)
            shutil.rmtree(aside)

    def configure(self, manifest: Manifest, live: Sequence[int], name: str | None = None) -> None:
        """Replace `config.pbtxt` of `name`, by default the model's own: exactly the versions `live` are loaded."""
        folder = self.root / (name or manifest.name)
        aside = folder / (_CONFIG + ".tmp")
        _write(aside, self.render(manifest, live, name).encode())
        aside.replace(folder / _CONFIG)
        _sync(folder)

    def read_config(self, name: str) -> bytes | None:
        """The present configuration, to be put back by `restore_config`."""
        path = self.root / name / _CONFIG
        return path.read_bytes() if path.is_file() else None

    def restore_config(self, name: str, config: bytes | None) -> None:
        """Undo `configure`; None removes the configuration."""
        path = self.root / name / _CONFIG
        if config is None:
            path.unlink(missing_ok=True)
            return
        aside = path.with_name(_CONFIG + ".tmp")
        _write(aside, config)
        aside.replace(path)

    def render(self, manifest: Manifest, live: Sequence[int], name: str | None = None) -> str:
        """Text of `config.pbtxt` for the versions `live`."""
        gpu = self.profile in ("onnxruntime_gpu", "onnxruntime_tensorrt")
        extra = _gpu(manifest) if gpu else ""
        if self.profile == "onnxruntime_tensorrt":
            extra += "\n" + _tensorrt(manifest)
        return Template(self._template("config.pbtxt.template")).substitute(
            name=name or manifest.name,
            backend="python" if self.profile == "python" else "onnxruntime",
            file="model.py" if self.profile == "python" else "model.onnx",
            preferred=f"preferred_batch_size: [ {', '.join(map(str, ROW_BUCKETS))} ]" if gpu else "",
            kind="KIND_GPU" if gpu else "KIND_CPU",
            count=2,
            live=", ".join(str(version) for version in sorted(set(live))),
            tensors="\n".join(_tensors(manifest)),
            extra=extra or _cpu(self.profile),
        )

    def _template(self, name: str) -> str:
        try:
            return (self.templates / name).read_text()
        except OSError as exc:
            raise DeployError(
                f"{self.templates / name}: cannot be read ({exc.strerror}); it is part of infra/triton"
            ) from exc


def _tensors(manifest: Manifest) -> list[str]:
    inputs = [_tensor("input", spec) for spec in manifest.inputs]
    return inputs + [_tensor("output", spec) for spec in manifest.outputs]


def _tensor(kind: str, spec: TensorSpec) -> str:
    # Triton adds the rows itself.
    return f'{kind} [ {{ name: "{spec.name}" data_type: {_TYPES[spec.dtype]} dims: [ {spec.shape[1]} ] }} ]'


def _cpu(profile: TritonProfile) -> str:
    """Instances are the parallelism, as in the wrapper."""
    if profile == "python":
        return ""
    threads = ("intra_op_thread_count", "inter_op_thread_count")
    return "\n".join(f'parameters {{ key: "{name}" value: {{ string_value: "1" }} }}' for name in threads)


def _gpu(manifest: Manifest) -> str:
    """Memory that grows by need, and a warm-up for each padded size (onnxruntime_backend's README)."""
    inputs = " ".join(
        f'inputs {{ key: "{spec.name}" value: {{ data_type: {_TYPES[spec.dtype]} dims: [ {spec.shape[1]} ] '
        "zero_data: true } }"
        for spec in manifest.inputs
    )
    warm = [f'model_warmup [ {{ name: "rows {rows}" batch_size: {rows} {inputs} }} ]' for rows in ROW_BUCKETS]
    parameters = [
        'parameters { key: "arena_extend_strategy" value: { string_value: "1" } }',
        f'parameters {{ key: "gpu_mem_limit" value: {{ string_value: "{GPU_MEMORY}" }} }}',
    ]
    return "\n".join([*parameters, *warm])


def _tensorrt(manifest: Manifest) -> str:
    """One engine for all sizes: without a profile for every input each new size builds another, for seconds.

    FP32, for scores are held to parity with the CPU's. Engines are kept in the container's own scratch space: they
    are of one GPU and one TensorRT.
    """

    def shapes(rows: int) -> str:
        return ",".join(f"{spec.name}:{rows}x{spec.shape[1]}" for spec in manifest.inputs)

    parameters = {
        "precision_mode": "FP32",
        "max_workspace_size_bytes": str(2**30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/tmp/trt",  # noqa: S108 - of the container
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(ROW_BUCKETS[0]),
        "trt_profile_max_shapes": shapes(_MAX_ROWS),
    }
    lines = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
    return (
        f'optimization {{ execution_accelerators {{ gpu_execution_accelerator: [ {{ name: "tensorrt" {lines} }} ] }} }}'
    )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
