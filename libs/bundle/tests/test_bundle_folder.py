"""A bundle is read back only if everything is what was written."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle import (
    AdmissionError,
    Bundle,
    BundleError,
    GoldenError,
    IntegrityError,
    Manifest,
    ManifestError,
    OnnxScorer,
    ScoringError,
    load_bundle,
    write_bundle,
)

Files = dict[str, Path]


@pytest.fixture
def written(tmp_path: Path, manifest: Manifest, files: Files) -> Bundle:
    digest = write_bundle(tmp_path / "movies" / "1", manifest, files)
    return load_bundle(tmp_path / "movies" / "1", digest=digest)


def test_what_was_written_is_read_back(written: Bundle, manifest: Manifest) -> None:
    """Manifest, digest, both graphs and golden rows survive the way to disk."""
    assert manifest.feature_names == written.manifest.feature_names
    assert hashlib.sha256((written.folder / "manifest.json").read_bytes()).hexdigest() == written.digest
    np.testing.assert_array_equal(written.golden.scores, written.model().score(written.golden.features))
    np.testing.assert_array_equal(written.golden.fallback_scores, written.fallback().score(written.golden.features))


def test_a_bundle_is_never_rewritten(written: Bundle, manifest: Manifest, files: Files) -> None:
    """A version means one set of bytes for ever."""
    with pytest.raises(IntegrityError, match="next version"):
        write_bundle(written.folder, manifest, files)


@pytest.mark.parametrize("name", ["model.onnx", "fallback.onnx", "golden.npz"])
def test_a_changed_byte_is_refused(written: Bundle, name: str) -> None:
    """Each file's hash is checked, and the message names the file."""
    raw = bytearray((written.folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (written.folder / name).write_bytes(raw)

    with pytest.raises(IntegrityError, match=name):
        load_bundle(written.folder)


def test_an_extra_and_a_missing_file_are_refused(written: Bundle) -> None:
    """A folder holds what the manifest lists, nothing else."""
    extra = written.folder / "run_me.py"
    extra.write_text("")
    with pytest.raises(IntegrityError, match=r"run_me\.py not in the manifest"):
        load_bundle(written.folder)
    extra.unlink()
    (written.folder / "fallback.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"fallback\.onnx missing"):
        load_bundle(written.folder)


def test_a_consistent_bundle_that_is_not_the_pinned_one_is_refused(written: Bundle) -> None:
    """A decision pins a digest; another honest bundle under the same path does not pass."""
    with pytest.raises(IntegrityError, match="pinned"):
        load_bundle(written.folder, digest="0" * 64)


def test_a_broken_manifest_names_its_field(written: Bundle) -> None:
    """The message says which field, so that a reader need not guess."""
    path = written.folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(ManifestError, match="version"):
        load_bundle(written.folder)


def test_golden_rows_that_disagree_stop_the_writing(
    tmp_path: Path, manifest: Manifest, files: Files, linear: Callable[..., Path]
) -> None:
    """A graph that is not the one that was recorded never becomes a bundle."""
    files["model.onnx"] = linear(tmp_path / "other.onnx", [1.0, -1.0, 0.6])
    with pytest.raises(GoldenError, match=r"model\.onnx"):
        write_bundle(tmp_path / "b", manifest, files)
    assert not (tmp_path / "b").exists()


def test_a_graph_of_another_width_is_refused(
    tmp_path: Path, manifest: Manifest, files: Files, linear: Callable[..., Path]
) -> None:
    """The manifest's columns are the graph's."""
    files["model.onnx"] = linear(tmp_path / "narrow.onnx", [1.0, -1.0])
    with pytest.raises(AdmissionError, match="2 float"):
        write_bundle(tmp_path / "b", manifest, files)


def test_the_scorer_refuses_wrong_shapes_and_takes_no_rows(written: Bundle) -> None:
    """Shape and type errors name what was expected; no candidates give no scores."""
    scorer: OnnxScorer = written.model()
    with pytest.raises(ScoringError, match=r"float32 \(n, 3\)"):
        scorer.score(np.zeros((2, 4), np.float32))
    assert scorer.score(np.zeros((0, 3), np.float32)).shape == (0,)


def test_every_error_has_the_same_root() -> None:
    """Callers catch `BundleError` and mean all of it."""
    for error in (ManifestError, IntegrityError, AdmissionError, GoldenError, ScoringError):
        assert issubclass(error, BundleError)
