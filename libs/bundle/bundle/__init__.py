"""The model bundle: manifest, hashes, ONNX admission, golden rows, and a scorer for its graphs."""

from bundle.errors import (
    AdmissionError,
    BundleError,
    GoldenError,
    IntegrityError,
    ManifestError,
    ScoringError,
)
from bundle.folder import Bundle, Golden, check_golden, load_bundle, write_bundle
from bundle.inputs import IntInputs
from bundle.manifest import Manifest, TensorSpec, TrainingWindow, read_manifest
from bundle.scorer import OnnxScorer

__all__ = [
    "AdmissionError",
    "Bundle",
    "BundleError",
    "Golden",
    "GoldenError",
    "IntInputs",
    "IntegrityError",
    "Manifest",
    "ManifestError",
    "OnnxScorer",
    "ScoringError",
    "TensorSpec",
    "TrainingWindow",
    "check_golden",
    "load_bundle",
    "read_manifest",
    "write_bundle",
]
