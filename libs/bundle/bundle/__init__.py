"""The model bundle: manifest, hashes, signature, ONNX admission, golden rows, and a scorer for its graphs."""

from bundle.devices import ROW_BUCKETS, Device, bucket_of
from bundle.errors import (
    AdmissionError,
    BundleError,
    DeviceError,
    GoldenError,
    IntegrityError,
    ManifestError,
    ScoringError,
    SignatureError,
)
from bundle.folder import Bundle, Golden, check_golden, load_bundle, write_bundle
from bundle.inputs import VOCABULARIES, IntInputs
from bundle.layouts import bundle_layout
from bundle.manifest import Manifest, SplitTimes, TensorSpec, TrainingWindow, read_manifest
from bundle.retrieval import Found, NeighbourRetrieval, PopularRetrieval, Retrieval, TowerRetrieval, load_retrieval
from bundle.scorer import OnnxScorer
from bundle.signature import SIGNATURE, Trust

__all__ = [
    "ROW_BUCKETS",
    "SIGNATURE",
    "VOCABULARIES",
    "AdmissionError",
    "Bundle",
    "BundleError",
    "Device",
    "DeviceError",
    "Found",
    "Golden",
    "GoldenError",
    "IntInputs",
    "IntegrityError",
    "Manifest",
    "ManifestError",
    "NeighbourRetrieval",
    "OnnxScorer",
    "PopularRetrieval",
    "Retrieval",
    "ScoringError",
    "SignatureError",
    "SplitTimes",
    "TensorSpec",
    "TowerRetrieval",
    "TrainingWindow",
    "Trust",
    "bucket_of",
    "bundle_layout",
    "check_golden",
    "load_bundle",
    "load_retrieval",
    "read_manifest",
    "write_bundle",
]
