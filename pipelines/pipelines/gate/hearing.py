"""What a model is judged by: rows that it has not seen, simpler models of the same split, and its own claims."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from bundle import Bundle, IntInputs, Trust, bundle_layout
from definitions.layout import Layout
from definitions.usecase import UseCase
from stores.offline import Lake

from pipelines.datasets.split import Split
from pipelines.evaluation.cohorts import cohort_masks
from pipelines.evaluation.metrics import auc
from pipelines.gate.judge import PARITY_ROWS, Bars, Evidence, Reason, Rows
from pipelines.gate.opening import latency_ms, open_bundle, parity_of
from pipelines.progress import SILENT, Progress
from pipelines.training import leaks
from pipelines.training.baselines import streaming_item_mean
from pipelines.training.examples import Examples, Log, build_examples
from pipelines.training.negatives import mixed

RESERVE_MS = 12.0  # of a request's deadline: lower rungs, re-rank and answer
DEADLINE_MS = 50.0  # where the use case names none
MOVED = 0.001  # share of rows in which a column may differ: attributes are read as they are now
CLAIM = 1e-3  # how far a metric may lie from the manifest's on the same rows: ONNX Runtime against the framework

Stored = Callable[[Bundle], tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]] | None]
"""`Examples.keys` (n,) and backfilled features (n, F) that a bundle was trained on; None where nobody kept them."""


@dataclass(frozen=True, eq=False)
class Hearing:
    """One use case's events, read once. `examples` and `split` are of `layout`; `rows` are the test rows.

    `faults`: what is wrong with the rows themselves, and so with everything that was trained on their like.
    """

    usecase: UseCase
    layout: Layout
    log: Log
    examples: Examples
    split: Split
    rows: Rows
    bars: Bars
    stored: Stored
    build: leaks.Build
    faults: tuple[Reason, ...] = ()

    @property
    def simple_floor(self) -> Evidence:
        """The item's mean label so far: what popularity says, and what every ranker must beat."""
        examples = self.examples
        base_rate = float(examples.label[self.split.fit].mean())
        scores = streaming_item_mean(examples.item_id, examples.time_us, examples.label, base_rate)
        return Evidence("item mean", "item_mean", scores[self.split.test])

    def evidence(self, folder: Path, trust: Trust, *, who: str, serves: bool = False) -> Evidence:
        """Everything that is known of the bundle in `folder`.

        Args:
            folder: of the bundle.
            trust: whose signatures count.
            who: its name for people.
            serves: it is the champion: its latency and its making are no longer asked for.
        """
        opened = open_bundle(folder, trust)
        bundle = opened.bundle
        if bundle is None:
            return Evidence(who, "", None, opened.faults)
        layout = bundle_layout(bundle, self.usecase)
        examples = self.examples if layout.layout_hash == self.layout.layout_hash else self.build(layout, self.log)
        ints = IntInputs.of(bundle, layout)(examples.user_ints, examples.item_ints)
        codes = np.empty((len(examples), 0), np.int64) if ints is None else ints
        test, model = self.split.test, bundle.model()
        scores = model.score(examples.features[test], codes[test]).astype(np.float64)
        named = bundle.manifest.model or ""
        if serves:
            return Evidence(who, named, scores)
        made = (*self._trained_on(bundle, layout, examples), *self._claims(bundle, examples, scores))
        faults = (*opened.faults, *self.faults, *made)
        request = np.flatnonzero(test)[: self.usecase.candidates.limit]
        return Evidence(
            who, named, scores, faults, parity_of(bundle.manifest),
            latency_ms(model, examples.features[request], codes[request]),
        )  # fmt: skip

    def _trained_on(self, bundle: Bundle, layout: Layout, examples: Examples) -> list[Reason]:
        """Its training rows are what the log says was known before each of them."""
        if bundle.manifest.data_hash == examples.digest():
            return []
        kept = self.stored(bundle)
        if kept is None:
            return [Reason("leak", "nobody kept the rows that it was trained on, and the log gives others")]
        if len(kept[0]) == 0:
            return []  # all were logged at serving: `millrace consistency` compares those
        shares = differing(layout.feature_names, examples, *kept)
        if not shares:
            return [Reason("leak", "none of the rows that it was trained on is one of the log's")]
        if wrong := {name: share for name, share in shares.items() if share > MOVED}:
            worst = sorted(wrong, key=lambda name: -wrong[name])
            named = ", ".join(f"{name} ({wrong[name]:.1%} of rows)" for name in worst[:5])
            more = f" and {len(worst) - 5} columns more" if len(worst) > 5 else ""
            return [Reason("leak", f"trained on {named}{more} that nobody knew before the event")]
        return []

    def _claims(self, bundle: Bundle, examples: Examples, scores: npt.NDArray[np.float64]) -> list[Reason]:
        """Its own figures are found again, where its test rows are these."""
        manifest, split = bundle.manifest, bundle.manifest.split
        claimed = manifest.metrics.get(manifest.model or "", {}).get("auc")
        if claimed is None or split is None or split.test_from_us != self.split.test_from_us:
            return []
        found = auc(self.rows.label, scores)
        same = manifest.data_hash == examples.digest()
        if found is None or (abs(found - claimed) <= CLAIM if same else claimed - found <= 10 * CLAIM):
            return []
        return [Reason("claims", f"its manifest says AUC {claimed:.4f}, these rows say {found:.4f}")]


def prepare(
    layout: Layout,
    log: Log,
    *,
    valid_from_us: int,
    test_from_us: int,
    stored: Stored,
    lake: Lake | None = None,
    progress: Progress = SILENT,
) -> Hearing:
    """Rows of the log, checked for future, with the test rows from `test_from_us` on.

    Args:
        layout: of the rows; its use case says what is asked for.
        log: all events, users and items.
        valid_from_us: rows before it are for fitting.
        test_from_us: no model that is heard may have seen an event from then on.
        stored: gives the rows that a bundle was trained on.
        lake: where impressions are, for use cases whose rows are shown items.
        progress: is told each step.
    """
    usecase, build = layout.usecase, partial(build_examples, lake=lake)
    progress.stage("rebuild the rows")
    examples = build(layout, log)
    gap_us, times = usecase.attribution_us, examples.time_us
    split = Split(
        fit=times < valid_from_us - gap_us,
        valid=(times >= valid_from_us) & (times < test_from_us - gap_us),
        test=times >= test_from_us,
        valid_from_us=valid_from_us,
        test_from_us=test_from_us,
    )
    progress.stage("look for future in them")
    found = leaks.structural(layout, log, examples, build=build)
    test, past = split.test, ~split.test
    cohorts = cohort_masks(
        examples.user_id[past], examples.item_id[past], examples.user_id[test], examples.item_id[test]
    )
    bars = Bars(
        primary=usecase.task.primary,
        guards=usecase.task.guards,
        latency_ms=usecase.slo.get("rank_p99_ms", DEADLINE_MS) - RESERVE_MS,
        parity_rows=min(PARITY_ROWS, len(examples)),
    )
    rows = Rows(examples.label[test], examples.user_id[test], cohorts)
    faults = tuple(Reason("leak", each.detail) for each in found if not each.holds)
    return Hearing(usecase, layout, log, examples, split, rows, bars, stored, build, faults)


def differing(
    names: tuple[str, ...],
    examples: Examples,
    keys: npt.NDArray[np.uint64],
    features: npt.NDArray[np.float32],
) -> dict[str, float]:
    """Column -> share of the rows that both have, by `Examples.keys`, where values differ; {} if they share none."""
    _, ours, theirs = np.intersect1d(examples.keys, keys, return_indices=True)
    if len(ours) == 0:
        return {}
    apart = examples.features[ours] != features[theirs]
    return dict(zip(names, apart.mean(axis=0).tolist(), strict=True))


def kept_in(lake: Lake) -> Stored:
    """The rows that training wrote to the table `examples`; logged ones are compared by `millrace consistency`."""

    def stored(bundle: Bundle) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]] | None:
        training_set = f"{bundle.manifest.name}-{bundle.manifest.version}"
        found = (
            lake.scan("examples")
            .filter(pl.col("training_set") == training_set)
            .select("user_id", "item_id", "request_id", "time_us", "features", "source")
            .collect()
        )
        if found.height == 0:
            return None
        found = found.filter(pl.col("source") == "backfill")
        if found.height == 0:
            return np.empty(0, np.uint64), np.empty((0, 0), np.float32)
        ids = (found[name].to_numpy() for name in ("user_id", "item_id", "request_id"))
        times = np.ascontiguousarray(found["time_us"].to_numpy()).view(np.uint64)
        return mixed(*ids, times), np.array(found["features"].to_list(), np.float32)

    return stored
