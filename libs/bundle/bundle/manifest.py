"""What a bundle says about itself: `manifest.json`, read and written by one frozen model."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bundle.errors import ManifestError

MANIFEST = "manifest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """One input or output of the graph. The first dimension is the number of candidate rows, written -1."""

    name: str
    dtype: str = Field(description="numpy's name: float32 or int64")
    shape: tuple[int, ...]


class TrainingWindow(_Frozen):
    """Event times, microseconds since the epoch UTC: examples in [from_us, to_us) were fitted or validated on."""

    from_us: int
    to_us: int


class SplitTimes(_Frozen):
    """The time split: fit rows lie before `valid_from_us`, test rows at or after `test_from_us`."""

    valid_from_us: int
    test_from_us: int


class Manifest(_Frozen):
    """One model version: what it reads, what it was made of, how good it was, and the hash of every file."""

    format: int = Field(default=1, description="version of this file's format")
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="the model's name, also Triton's")
    version: int = Field(ge=1)
    usecase: str
    revision: int = Field(ge=1, description="revision of the online rows that the model reads")
    layout_hash: int = Field(ge=0, lt=2**32)
    feature_names: tuple[str, ...] = Field(min_length=1, description="columns of input `features`, in order")
    int_names: tuple[str, ...] = Field(
        default=(), description="columns of input `int_features`, in order; may be empty"
    )
    heads: dict[str, float] = Field(
        default_factory=dict, description="columns of output `heads`, in order -> weight in the served score"
    )
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    window: TrainingWindow
    commit: str = Field(description="commit of the code that trained it; `unknown` outside a checkout")
    seeds: tuple[int, ...]
    dataset: str
    data_hash: str = Field(description="sha256 of the training rows, in hex")
    model: str | None = Field(default=None, description="what `model.onnx` is, by its name on the ladder")
    fallback: str | None = Field(default=None, description="the same of `fallback.onnx`")
    split: SplitTimes | None = Field(default=None, description="which rows the metrics are of")
    trials: int | None = Field(default=None, ge=1, description="settings that were tried before these were kept")
    leaks: dict[str, bool] | None = Field(default=None, description="structural leak check -> held, at training")
    metrics: dict[str, dict[str, float | None]] = Field(description="model -> metric -> value on the test rows")
    rungs: dict[str, float | None] | None = Field(
        default=None, description="rung of the gateway's ladder -> NDCG@10 of the test rows in its order"
    )
    parity: dict[str, float] = Field(description="e.g. onnx.max_abs, onnx.flips, rows")
    created_us: int
    files: dict[str, str] = Field(default_factory=dict, description="file name -> sha256 in hex, filled on writing")

    @model_validator(mode="after")
    def _tensors(self) -> "Manifest":
        if not self.inputs and not self.outputs:
            inputs = [TensorSpec(name="features", dtype="float32", shape=(-1, len(self.feature_names)))]
            if self.int_names:
                inputs.append(TensorSpec(name="int_features", dtype="int64", shape=(-1, len(self.int_names))))
            object.__setattr__(self, "inputs", tuple(inputs))
            outputs = [TensorSpec(name="score", dtype="float32", shape=(-1, 1))]
            if self.heads:
                outputs.append(TensorSpec(name="heads", dtype="float32", shape=(-1, len(self.heads))))
            object.__setattr__(self, "outputs", tuple(outputs))
        return self


def to_json(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`; the bundle's digest is their sha256."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest of `folder` and its very bytes.

    Raises:
        ManifestError: no such file, or a field is wrong; the message names it.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise ManifestError(f"{path}: cannot be read ({exc.strerror}); train again or copy the whole bundle") from exc
    try:
        return Manifest.model_validate_json(raw), raw
    except ValidationError as exc:
        problems = "; ".join(_problem(error) for error in exc.errors())
        raise ManifestError(f"{path}: {problems}; train again with this version of the code") from exc


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "manifest"
    return f"{where}: {error['msg']}"
