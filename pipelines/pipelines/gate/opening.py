"""Whether a bundle may be looked at at all, what its manifest says about its making, and how long its graph takes."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from bundle import (
    AdmissionError,
    Bundle,
    BundleError,
    GoldenError,
    IntegrityError,
    Manifest,
    ManifestError,
    OnnxScorer,
    SignatureError,
    Trust,
    load_bundle,
)

from pipelines.consistency import Report
from pipelines.export.parity import Parity
from pipelines.gate.judge import Reason

_RULES: tuple[tuple[type[BundleError], str], ...] = (
    (SignatureError, "signature"),
    (IntegrityError, "tampered"),
    (AdmissionError, "admission"),
    (GoldenError, "golden"),
    (ManifestError, "manifest"),
)
CALLS, ROUNDS, WARM = 100, 3, 5
_ROUND_S = 3.0  # a graph that is slow anyway is not asked a hundred times


@dataclass(frozen=True)
class Opened:
    """A bundle that everything holds of, or None and the one fault that stopped it."""

    bundle: Bundle | None
    faults: tuple[Reason, ...] = ()


def open_bundle(folder: Path, trust: Trust) -> Opened:
    """Signature, hashes, admission and golden rows, in this order; the first that fails ends it."""
    try:
        bundle = load_bundle(folder, trust=trust)
    except BundleError as exc:
        rule = next((rule for kind, rule in _RULES if isinstance(exc, kind)), "bundle")
        return Opened(None, (Reason(rule, str(exc)),))
    return Opened(bundle, incomplete(bundle.manifest))


def incomplete(manifest: Manifest) -> tuple[Reason, ...]:
    """What a manifest must say and does not: without it nobody could make the model again."""
    missing = [
        name
        for name, given in (
            ("commit", manifest.commit not in ("", "unknown")),
            ("data_hash", bool(manifest.data_hash)),
            ("split", manifest.split is not None),
            ("seeds", bool(manifest.seeds)),
            ("trials", manifest.trials is not None),
            ("model", manifest.model is not None),
            ("leaks", bool(manifest.leaks)),
        )
        if not given
    ]
    faults = [Reason("manifest", f"says nothing of {', '.join(missing)}")] if missing else []
    failed = [name for name, held in (manifest.leaks or {}).items() if not held]
    if failed:
        faults.append(Reason("leak", f"its training says that {', '.join(failed)} did not hold"))
    return tuple(faults)


def inconsistent(report: Report | None) -> tuple[Reason, ...]:
    """Of the last `millrace consistency`: served features that neither offsets nor ties explain block every model."""
    logic = report.logic if report else 0
    said = f"{logic} served values are explained by neither offsets nor ties; see millrace consistency"
    return (Reason("consistency", said),) if logic else ()


def parity_of(manifest: Manifest) -> Parity | None:
    """What training measured of the exported graphs; None where it did not."""
    found = manifest.parity
    if not {"onnx.max_abs", "onnx.flips", "rows"} <= set(found):
        return None
    return Parity(found["onnx.max_abs"], int(found["onnx.flips"]), int(found["rows"]))


def latency_ms(model: OnnxScorer, features: npt.NDArray[np.float32], ints: npt.NDArray[np.int64]) -> float:
    """p99 of scoring these rows as one request, by one thread, in milliseconds.

    The best of ROUNDS: other work on the machine makes a round slower, never faster.
    """
    for _ in range(WARM):
        model.score(features, ints)
    best = np.inf
    for _ in range(ROUNDS):
        took: list[float] = []
        ends = time.perf_counter() + _ROUND_S
        while len(took) < CALLS and (not took or time.perf_counter() < ends):
            began = time.perf_counter()
            model.score(features, ints)
            took.append(time.perf_counter() - began)
        best = min(best, float(np.percentile(took, 99)))
    return best * 1e3
