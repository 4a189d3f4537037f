"""A bundle as a folder: written once, by rename; read back only if every byte is what was written."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from definitions.heads import combined, head_weights

from bundle.admission import check_graph
from bundle.devices import Device
from bundle.errors import AdmissionError, GoldenError, IntegrityError
from bundle.manifest import MANIFEST, Manifest, read_manifest, to_json
from bundle.retrieval import Retrieval, load_retrieval
from bundle.scorer import OnnxScorer
from bundle.signature import SIGNATURE, Trust

MODEL = "model.onnx"
FALLBACK = "fallback.onnx"
GOLDEN = "golden.npz"
REQUIRED = (MODEL, FALLBACK, GOLDEN)
# Scores of one graph on another build of ONNX Runtime or another CPU; the bar of docs/adr/0010-one-onnx-graph.md.
GOLDEN_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Golden:
    """Rows whose scores were recorded at export.

    features float32 (n, F); ints int64 (n, K), K may be 0; scores and fallback_scores float32 (n,).
    """

    features: npt.NDArray[np.float32]
    ints: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    fallback_scores: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write `golden.npz`."""
        np.savez_compressed(
            path, features=self.features, ints=self.ints, scores=self.scores, fallback_scores=self.fallback_scores
        )


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `digest` is the sha256 of `manifest.json` in hex, the one that a decision pins."""

    manifest: Manifest
    folder: Path
    digest: str
    golden: Golden

    @property
    def model_path(self) -> Path:
        """The graph that Triton serves (rung MODEL)."""
        return self.folder / MODEL

    @property
    def fallback_path(self) -> Path:
        """The small graph that the gateway runs itself (rung LOCAL_MODEL)."""
        return self.folder / FALLBACK

    def model(self, threads: int = 1, device: Device = "cpu") -> OnnxScorer:
        """`model.onnx` in this process. DeviceError where the device is not there."""
        return OnnxScorer(self.model_path, threads, device)

    def fallback(self, threads: int = 1) -> OnnxScorer:
        """`fallback.onnx` in this process."""
        return OnnxScorer(self.fallback_path, threads)

    def weighed(
        self, predictions: npt.NDArray[np.float32], said: Mapping[str, float] | None = None
    ) -> npt.NDArray[np.float32]:
        """Scores float32 (n,) as they are served, of `OnnxScorer.predictions`: heads by the weights that rules `said`,
        else by those that they were trained with.
        """
        return combined(predictions, head_weights(self.manifest.heads, said or {}))

    def retrieval(self) -> Retrieval:
        """What it finds candidates with; index and tower of one version, or it would not have loaded."""
        return load_retrieval(self.folder)


def write_bundle(
    folder: Path, manifest: Manifest, files: Mapping[str, Path], *, sign: Callable[[Path], None] | None = None
) -> str:
    """Copy `files` (name in the bundle -> source) and the manifest to `folder`, all or nothing.

    A reader sees no folder or the whole one: it is filled aside, signed, synced and renamed. Returns the digest.

    Args:
        folder: to be.
        manifest: `files` of it are filled in here.
        files: what the bundle holds beside the manifest.
        sign: puts the file `signature` into the folder that it is given; None leaves the bundle unsigned.

    Raises:
        IntegrityError: the folder exists, or a required file is not given.
        AdmissionError, GoldenError: a graph that `load_bundle` would refuse.
    """
    if folder.exists():
        raise IntegrityError(f"{folder}: exists; bundles are never rewritten, take the next version")
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise IntegrityError(f"{folder}: no file given for {', '.join(missing)}")
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    hashes: dict[str, str] = {}
    for name, source in sorted(files.items()):
        target = aside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        _sync(target)
        hashes[name] = _sha256(target)
    raw = to_json(manifest.model_copy(update={"files": hashes}))
    (aside / MANIFEST).write_bytes(raw)
    _sync(aside / MANIFEST)
    if sign is not None:
        sign(aside)
        _sync(aside / SIGNATURE)
    load_bundle(aside)
    aside.rename(folder)
    _sync(folder.parent)
    return hashlib.sha256(raw).hexdigest()


def load_bundle(folder: Path, *, digest: str | None = None, trust: Trust | None = None) -> Bundle:
    """Read a bundle and refuse it unless everything about it holds.

    Checks, in this order: manifest; its digest, where the caller knows it (a decision's pin); the signature, by what
    `trust` says (None does not look at it); every file's sha256 and no file too many; admission of both graphs; golden
    rows of both; the files of retrieval, where there are any.

    Raises:
        ManifestError, SignatureError, IntegrityError, AdmissionError, GoldenError: all `BundleError`s.
    """
    manifest, raw = read_manifest(folder)
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and found != digest:
        raise IntegrityError(
            f"{folder / MANIFEST}: sha256 {found} is not the pinned {digest}; deploy the version again"
        )
    if trust is not None:
        trust.check(folder, {**manifest.files, MANIFEST: found})
    _check_files(folder, manifest)
    golden = _read_golden(folder / GOLDEN)
    for name, expected in ((MODEL, golden.scores), (FALLBACK, golden.fallback_scores)):
        check_graph(folder / name)
        scorer = OnnxScorer(folder / name)
        if (scorer.columns, scorer.int_columns) not in _widths(manifest, name):
            raise AdmissionError(
                f"{name}: takes {scorer.columns} float and {scorer.int_columns} int columns, the manifest names "
                f"{len(manifest.feature_names)} and {len(manifest.int_names)}"
            )
        if scorer.heads not in ({len(manifest.heads)} if name == MODEL else {len(manifest.heads), 0}):
            raise AdmissionError(f"{name}: has {scorer.heads} heads, the manifest names {len(manifest.heads)}")
        check_golden(name, expected, scorer.score(golden.features, golden.ints))
    load_retrieval(folder)
    return Bundle(manifest, folder, found, golden)


def check_golden(name: str, expected: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """The largest difference between recorded and present scores, float32 (n,) each.

    Raises:
        GoldenError: a score is not finite, or more than GOLDEN_TOLERANCE off.
    """
    if not np.isfinite(scores).all():
        raise GoldenError(f"{name}: {int((~np.isfinite(scores)).sum())} golden rows score NaN or infinity")
    worst = float(np.abs(expected.astype(np.float64) - scores).max(initial=0.0))
    if worst > GOLDEN_TOLERANCE:
        raise GoldenError(f"{name}: golden rows score {worst:.3g} off, at most {GOLDEN_TOLERANCE:g} is served")
    return worst


def _widths(manifest: Manifest, name: str) -> set[tuple[int, int]]:
    floats, ints = len(manifest.feature_names), len(manifest.int_names)
    # The fallback may do without the integer columns.
    return {(floats, ints)} if name == MODEL else {(floats, ints), (floats, 0)}


def _check_files(folder: Path, manifest: Manifest) -> None:
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    present -= {MANIFEST, SIGNATURE}  # the digest and the keys speak for these
    listed = set(manifest.files)
    if missing := sorted((listed | set(REQUIRED)) - present):
        raise IntegrityError(f"{folder}: {', '.join(missing)} missing; copy the whole bundle")
    if extra := sorted(present - listed):
        raise IntegrityError(f"{folder}: {', '.join(extra)} not in the manifest; remove it or train again")
    for name, expected in manifest.files.items():
        if _sha256(folder / name) != expected:
            raise IntegrityError(f"{folder / name}: changed since it was written; copy the bundle again")


def _read_golden(path: Path) -> Golden:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            golden = Golden(**{name: arrays[name] for name in ("features", "ints", "scores", "fallback_scores")})
    except (OSError, ValueError, KeyError) as exc:
        raise GoldenError(f"{path}: cannot be read ({exc}); train again") from exc
    n = len(golden.features)
    if n == 0 or any(len(a) != n for a in (golden.ints, golden.scores, golden.fallback_scores)):
        raise GoldenError(f"{path}: no rows, or arrays of unequal length; train again")
    return golden


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
