"""A bundle's graphs explained in this process, whoever scores with them: opened when first asked for."""

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Final

import numpy as np
from bundle import Bundle, OnnxScorer
from bundle.shapley import PERMUTATIONS, SAMPLED, BlackBox, Score

from gateway.model import Contributions
from gateway.query import Floats, Ints

MOST_WEIGHTS: Final = 8  # of heads, kept at a time: those of arms
ROWS: Final = 256  # scored at once: the interpreter is free again after a millisecond or two


class BundleExplainer:
    """`ActiveModel.explain` of a verified bundle. Used by one thread."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def __call__(
        self, features: Floats, ints: Ints | None, heads: Mapping[str, float], budget_s: float, local: bool
    ) -> tuple[Floats, Contributions]:
        """Scores float32 (n,), and what each feature adds, of as many permutations as `budget_s` has time for.

        `heads`: weights of a model's heads as the rules say them. `local`: of the fallback.
        """
        began = time.perf_counter()
        opened = self._fallback if local else self._model
        score, box = opened.box(heads)
        codes = np.empty((len(features), 0), np.int64) if ints is None else ints
        scores = score(features, codes).astype(np.float32, copy=False)
        left_s = budget_s - (time.perf_counter() - began)  # the first time opened the graph
        pairs = max(1, min(PERMUTATIONS, int(left_s / max(opened.row_s * box.rows_scored(len(features), 1), 1e-9))))
        found = box.contributions(features, codes, permutations=pairs, rows=ROWS).by_feature()
        method = f"{SAMPLED}, {pairs} pairs of permutations"
        return scores, Contributions(found.names, found.values, found.contributions, found.base, found.raw, method)

    @cached_property
    def _model(self) -> "_Opened":
        return _Opened(self._bundle, self._bundle.model())

    @cached_property
    def _fallback(self) -> "_Opened":
        return _Opened(self._bundle, self._bundle.fallback())


class _Opened:
    """A graph, and what it takes to score a row in batches of ROWS."""

    def __init__(self, bundle: Bundle, graph: OnnxScorer) -> None:
        self._bundle, self._graph = bundle, graph
        self._boxes: dict[tuple[tuple[str, float], ...], tuple[Score, BlackBox]] = {}
        golden = bundle.golden
        places = np.arange(ROWS) % len(golden.features)
        features, ints = golden.features[places], golden.ints[places]
        began = time.perf_counter()
        graph.predictions(features, ints)
        self.row_s = (time.perf_counter() - began) / ROWS

    def box(self, heads: Mapping[str, float]) -> tuple[Score, BlackBox]:
        """How rows are scored with these weights, and what explains that."""
        key = tuple(sorted(heads.items()))
        if key not in self._boxes:

            def score(features: Floats, ints: Ints) -> Floats:
                return self._bundle.weighed(self._graph.predictions(features, ints), heads)

            if len(self._boxes) >= MOST_WEIGHTS:
                self._boxes.clear()
            self._boxes[key] = score, BlackBox(self._bundle, score)
        return self._boxes[key]
