"""From a pin to a model that can serve: signature and files verified, its columns checked against our layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bundle import Bundle, BundleError, IntInputs, Trust, load_bundle
from definitions.layout import Layout
from millrace.decisions.v1 import decisions_pb2 as pb

from gateway.errors import BundleRefused
from gateway.local_model import LocalModel, Worker
from gateway.model import ActiveModel, Scorer
from gateway.triton import TritonClient, TritonModel


class MakeScorer(Protocol):
    """How rung MODEL runs a bundle's `model.onnx`."""

    def __call__(self, bundle: Bundle) -> Scorer:
        """A scorer for this version."""
        ...


class BundleLoader:
    """Loads the pins of one use case from `<folder>/<name>/<version>/`."""

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        make_scorer: MakeScorer,
        worker: Worker,
        trust: Callable[[], Trust | None] = lambda: None,
    ) -> None:
        """`trust` is asked at each pin, so that a key is replaced without a restart; None looks at no signature."""
        self._folder = folder
        self._trust = trust
        self._layout = layout
        self._make_scorer = make_scorer
        self._worker = worker

    def __call__(self, pin: pb.ModelPin) -> ActiveModel:
        """The pinned model.

        Raises:
            BundleRefused: the files do not verify, or are not for this use case and layout; the message says which.
        """
        try:
            folder = self._folder / pin.name / str(pin.version)
            bundle = load_bundle(folder, digest=pin.digest or None, trust=self._trust())
            self._check(pin, bundle)
            manifest = bundle.manifest
            return ActiveModel(
                name=manifest.name,
                version=manifest.version,
                digest=bundle.digest,
                model=self._make_scorer(bundle),
                local=LocalModel(bundle.fallback(), self._worker),
                ints=IntInputs.of(bundle, self._layout),
            )
        except BundleError as exc:
            raise BundleRefused(str(exc)) from exc

    def _check(self, pin: pb.ModelPin, bundle: Bundle) -> None:
        manifest, layout = bundle.manifest, self._layout
        wrong = [
            f"{field}: the bundle says {found!r}, expected {expected!r}"
            for field, found, expected in (
                ("name", manifest.name, pin.name),
                ("version", manifest.version, pin.version),
                ("usecase", manifest.usecase, layout.usecase.name),
                ("revision", manifest.revision, layout.revision),
                ("layout_hash", manifest.layout_hash, layout.layout_hash),
                ("feature_names", manifest.feature_names, layout.feature_names),
            )
            if found != expected
        ]
        if wrong:
            raise BundleRefused(f"{bundle.folder}: {'; '.join(wrong)}; train and deploy again with this use case")


class InTriton:
    """Rung MODEL by Triton."""

    def __init__(self, client: TritonClient) -> None:
        self._client = client

    def __call__(self, bundle: Bundle) -> Scorer:
        """The version as Triton serves it."""
        manifest = bundle.manifest
        return TritonModel(
            self._client,
            manifest.name,
            manifest.version,
            columns=len(manifest.feature_names),
            int_columns=len(manifest.int_names),
        )


class InProcess:
    """Rung MODEL where there is no Triton: the same graph by ONNX Runtime here."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __call__(self, bundle: Bundle) -> Scorer:
        """The version's `model.onnx`, loaded."""
        return LocalModel(bundle.model(), self._worker)
