"""Bundles by the digest that a decision names, each opened once."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from bundle import Bundle, BundleError, IntInputs, OnnxScorer, TowerRetrieval, bundle_layout, load_bundle
from bundle.manifest import MANIFEST
from definitions.layout import Layout
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb

from pipelines.errors import BadInputError
from pipelines.redo.logged import Decision, Floats


class Unredoable(BadInputError):
    """A decision that cannot be made again; the message says what is missing."""


@dataclass(frozen=True)
class Opened:
    """A verified bundle with what serving makes of it."""

    bundle: Bundle
    layout: Layout

    @cached_property
    def ints(self) -> IntInputs:
        """The graph's integer columns out of the layout's."""
        return IntInputs.of(self.bundle, self.layout)

    @cached_property
    def model(self) -> OnnxScorer:
        """Rung MODEL."""
        return self.bundle.model()

    @cached_property
    def fallback(self) -> OnnxScorer:
        """Rung LOCAL_MODEL."""
        return self.bundle.fallback()

    @cached_property
    def towers(self) -> TowerRetrieval | None:
        """Whose item vectors tell which items are alike."""
        return self.bundle.retrieval().towers

    def scores(self, decision: Decision) -> Floats:
        """Scores float32 (n,) of the logged inputs by the rung's graph.

        Raises:
            Unredoable: the logged inputs are not of this bundle's layout.
        """
        inputs = decision.inputs(self.layout) if decision.layout_hash == self.layout.layout_hash else None
        if inputs is None:
            raise Unredoable("its features are not those of the bundle's layout")
        features, user_ints, item_ints = inputs
        graph = self.model if decision.rung == pb.RUNG_MODEL else self.fallback
        predictions = graph.predictions(np.ascontiguousarray(features), self.ints(user_ints, item_ints))
        return self.bundle.weighed(predictions, decision.heads)


class Bundles:
    """The bundles below `<folder>/<name>/<version>/`."""

    def __init__(self, folder: Path, usecase: UseCase) -> None:
        self._folder = folder
        self._usecase = usecase
        self._opened: dict[str, Opened | str] = {}

    def of(self, decision: Decision) -> Opened:
        """The very bundle, whatever it is called now; by name and version where impressions did not log digests yet.

        Raises:
            Unredoable: the decision names none, or it is not in the folder, or was changed since.
        """
        own = self._folder / decision.model_name / str(decision.model_version)
        key = decision.digest or str(own)
        if key not in self._opened:
            self._opened[key] = self._open(own, decision.digest)
        found = self._opened[key]
        if isinstance(found, str):
            raise Unredoable(found)
        return found

    def _open(self, own: Path, digest: str) -> Opened | str:
        others = (path.parent for path in sorted(self._folder.glob(f"*/*/{MANIFEST}"))) if digest else ()
        for folder in (own, *others):
            if (found := _digest(folder)) is not None and digest in (found, ""):
                try:
                    bundle = load_bundle(folder, digest=digest or None)
                    return Opened(bundle, bundle_layout(bundle, self._usecase))
                except BundleError as exc:
                    return str(exc)
        what = f"with digest {digest[:12]}" if digest else f"{own.parent.name} version {own.name}"
        return f"no bundle {what} is in {self._folder}; copy it back"


def _digest(folder: Path) -> str | None:
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None
