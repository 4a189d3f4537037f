"""A bundle's graphs explained in this process, whoever scores with them: opened when first asked for."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from bundle import Bundle, OnnxScorer
from bundle.shapley import PERMUTATIONS, SAMPLED, BlackBox

from gateway.model import Contributions
from gateway.query import Floats, Ints

ROWS: Final = 256  # scored at once: the interpreter is free again after a millisecond or two


class BundleExplainer:
    """`ActiveModel.explain` of a verified bundle. Used by one thread."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def __call__(
        self, features: Floats, ints: Ints | None, budget_s: float, local: bool
    ) -> tuple[Floats, Contributions]:
        """Scores float32 (n,), and what each feature adds, of as many permutations as `budget_s` has time for.

        `local`: of the fallback.
        """
        began = time.perf_counter()
        box = self._fallback if local else self._model
        codes = np.empty((len(features), 0), np.int64) if ints is None else ints
        scores = box.graph.score(features, codes)
        left_s = budget_s - (time.perf_counter() - began)  # the first time opened the graph
        pairs = max(1, min(PERMUTATIONS, int(left_s / max(box.row_s * box.box.rows_scored(len(features), 1), 1e-9))))
        found = box.box.contributions(features, codes, permutations=pairs, rows=ROWS).by_feature()
        method = f"{SAMPLED}, {pairs} pairs of permutations"
        return scores, Contributions(found.names, found.values, found.contributions, found.base, found.raw, method)

    @cached_property
    def _model(self) -> "_Opened":
        return _Opened.of(self._bundle, self._bundle.model())

    @cached_property
    def _fallback(self) -> "_Opened":
        return _Opened.of(self._bundle, self._bundle.fallback())


@dataclass(frozen=True)
class _Opened:
    graph: OnnxScorer
    box: BlackBox
    row_s: float  # seconds a row, in batches of ROWS

    @classmethod
    def of(cls, bundle: Bundle, graph: OnnxScorer) -> "_Opened":
        box = BlackBox(bundle, graph.score)
        golden = bundle.golden
        places = np.arange(ROWS) % len(golden.features)
        began = time.perf_counter()
        graph.score(golden.features[places], golden.ints[places])
        return cls(graph, box, (time.perf_counter() - began) / ROWS)
