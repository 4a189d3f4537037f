"""From a pin to a model that can serve: signature and files verified, and the layout found that it was trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bundle import Bundle, BundleError, IntInputs, Trust, bundle_layout, load_bundle
from definitions.usecase import UseCase
from millrace.decisions.v1 import decisions_pb2 as pb

from gateway.bundle_explainer import BundleExplainer
from gateway.bundle_sources import sources_of
from gateway.errors import BundleRefused, ImpressionTooLarge
from gateway.impressions import check_largest
from gateway.local_model import LocalModel, Worker
from gateway.model import ActiveModel, Scorer
from gateway.triton import TritonClient, TritonModel


class MakeScorer(Protocol):
    """How rung MODEL runs a bundle's `model.onnx`."""

    def __call__(self, bundle: Bundle, pin: pb.ModelPin) -> Scorer:
        """A scorer for this version."""
        ...


class BundleLoader:
    """Loads the pins of one use case from `<folder>/<name>/<version>/`."""

    def __init__(
        self,
        folder: Path,
        usecase: UseCase,
        make_scorer: MakeScorer,
        worker: Worker,
        trust: Callable[[], Trust | None] = lambda: None,
    ) -> None:
        """`trust` is asked at each pin, so that a key is replaced without a restart; None looks at no signature."""
        self._folder = folder
        self._trust = trust
        self._usecase = usecase
        self._make_scorer = make_scorer
        self._worker = worker

    def __call__(self, pin: pb.ModelPin) -> ActiveModel:
        """The pinned model.

        Raises:
            BundleRefused: the files do not verify, are another use case's, or of a layout that nobody knows, or that
                Kafka would not take an impression of; the message says which.
        """
        try:
            folder = self._folder / pin.name / str(pin.version)
            bundle = load_bundle(folder, digest=pin.digest or None, trust=self._trust())
            manifest = bundle.manifest
            if (manifest.name, manifest.version) != (pin.name, pin.version):
                raise BundleRefused(
                    f"{folder}: the bundle says {manifest.name!r} version {manifest.version}, expected {pin.name!r} "
                    f"version {pin.version}; deploy it again"
                )
            layout = bundle_layout(bundle, self._usecase)
            check_largest(layout)
            return ActiveModel(
                name=manifest.name,
                version=manifest.version,
                digest=bundle.digest,
                model=self._make_scorer(bundle, pin),
                local=LocalModel(bundle.fallback(), self._worker),
                ints=IntInputs.of(bundle, layout),
                layout=layout,
                sources=sources_of(bundle.retrieval()),
                heads=manifest.heads,
                rungs=manifest.rungs or {},
                explain=BundleExplainer(bundle),
                golden=(bundle.golden.features, bundle.golden.ints if manifest.int_names else None),
            )
        except (BundleError, ImpressionTooLarge) as exc:
            raise BundleRefused(str(exc)) from exc


class InTriton:
    """Rung MODEL by Triton; `pad_rows` for one on a GPU."""

    def __init__(self, client: TritonClient, *, pad_rows: bool = False) -> None:
        self._client = client
        self._pad_rows = pad_rows

    def __call__(self, bundle: Bundle, pin: pb.ModelPin) -> Scorer:
        """The version as Triton serves it."""
        manifest = bundle.manifest
        return TritonModel(
            self._client,
            pin.triton_name or manifest.name,
            manifest.version,
            columns=len(manifest.feature_names),
            int_columns=len(manifest.int_names),
            heads=len(manifest.heads),
            pad_rows=self._pad_rows,
        )


class InProcess:
    """Rung MODEL where there is no Triton: the same graph by ONNX Runtime here."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __call__(self, bundle: Bundle, pin: pb.ModelPin) -> Scorer:  # noqa: ARG002  the folder says all
        """The version's `model.onnx`, loaded."""
        return LocalModel(bundle.model(), self._worker)
