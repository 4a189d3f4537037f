"""One training from data to a verified bundle."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bundle import (
    VOCABULARIES,
    Bundle,
    Golden,
    Manifest,
    OnnxScorer,
    SplitTimes,
    TrainingWindow,
    load_bundle,
    write_bundle,
)
from bundle.folder import FALLBACK, MODEL
from bundle.retrieval import load_retrieval
from definitions import kept_usecase
from definitions.candidates import BundleSources
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase
from stores.offline import Lake
from threadpoolctl import threadpool_limits

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.split import Split, split_times
from pipelines.evaluation.metrics import Metrics
from pipelines.explain import contributions
from pipelines.explain.rankers import reference_row
from pipelines.export import card, parity
from pipelines.export.heads import add_heads
from pipelines.progress import SILENT, Progress
from pipelines.registry import Registered, register
from pipelines.retrieval.sources import export_sources
from pipelines.training.examples import Examples, Log, Mode, build_examples, examples_table
from pipelines.training.ladder import Ladder, fit_ladder
from pipelines.training.leaks import refuse, structural
from pipelines.training.negatives import thin_negatives
from pipelines.training.ranker import Ranker
from pipelines.training.recomputed import mismatch_of_logged
from pipelines.training.rungs import rung_quality
from pipelines.training.trees import TreeRanker

GOLDEN_ROWS = 256
EXPLAINED_ROWS = 500  # for the model card
# Beside other work on 2 cores, LightGBM's second thread spins: 40 s of CPU for what one thread does in 2 (measured,
# 100,000 rows). More pays from millions of rows on.
THREADS = 1


@dataclass(frozen=True)
class TrainResult:
    """A finished training. `metrics`: floors and the ladder's models on the test rows; `parity`: worst graph.
    `test_from_us`: the test rows are the examples from this event time on. `sources`: of candidates, in the bundle.
    """

    bundle: Bundle
    metrics: dict[str, Metrics]
    parity: parity.Parity
    registered: Registered | None
    rows: dict[str, int]
    test_from_us: int
    sources: tuple[str, ...]
    dataset: str
    logged: int
    mismatch: dict[str, Any] | None
    seconds: float

    @property
    def version(self) -> int:
        """Of the new bundle."""
        return self.bundle.manifest.version


def train(
    usecase: UseCase,
    source: Dataset | Lake,
    *,
    bundles: Path,
    lake: Lake | None = None,
    mlflow: Path | None = None,
    holdout: Dataset | None = None,
    licence: str = "",
    examples_from: Mode = "backfill",
    reports: Path | None = None,
    revision: int = 1,
    sign: Callable[[Path], None] | None = None,
    seed: int = 0,
    threads: int = THREADS,
    progress: Progress = SILENT,
) -> TrainResult:
    """Build examples, fit the ladder, export, check parity, write the bundle, register it.

    Args:
        usecase: features, label and name of the model.
        source: a data set, or the lake that the archiver writes.
        bundles: folder of all bundles; the new one is `<bundles>/<name>/<next version>`.
        lake: where the table `examples` is written; None writes none.
        mlflow: folder of MLflow's database and artifacts; None registers nothing.
        holdout: later events that are not in `source` yet (replay's): they count as the end of the time line, so the
            test rows may be events that the running stack has never seen.
        licence: of the lake's events, for the model card; a data set says its own.
        examples_from: `logged` features, `backfill`, or `auto`: logged where there are any; a data set has none.
        reports: where the comparison of logged rows with a backfill is published; None publishes none.
        revision: of the online rows that the model will read.
        sign: puts the signature into the bundle (`pipelines.signing.signer`); None leaves it unsigned.
        seed, threads: of the trainers.
        progress: is told each stage, licences and findings.

    Raises:
        TrainingError: too little data.
        LeakError: a column knows its row's future; the message names it.
        ParityError: the exported graphs score otherwise than the models.
        RegistryError: MLflow failed.
    """
    began = time.monotonic()
    layout = layout_of(usecase, revision)
    progress.stage("build examples")
    log = Log.of_dataset(source) if isinstance(source, Dataset) else Log.of_lake(source, usecase.dedupe_offsets)
    log = log if holdout is None else log.plus(holdout)
    stack = source if isinstance(source, Lake) else None
    examples = build_examples(layout, log, mode=examples_from, lake=stack, seed=seed)
    mismatch = None
    if stack is not None and examples.logged.any():
        mismatch = mismatch_of_logged(layout, stack, reports, seed=seed, progress=progress)
    progress.stage("look for future in the rows")
    findings = structural(layout, log, examples, build=partial(build_examples, lake=stack, seed=seed))
    refuse(findings)
    split = split_times(examples.time_us, gap_us=usecase.attribution_us)
    split = thin_negatives(split, examples.keys, examples.label, usecase.negatives.keep, seed=seed)
    with threadpool_limits(threads):
        ladder = fit_ladder(layout, examples, split, log=log, seed=seed, threads=threads, progress=progress)
    known = holdout or (source if isinstance(source, Dataset) else None)
    progress.stage("export and compare")
    name, version = usecase.name, _next_version(bundles / usecase.name)
    with tempfile.TemporaryDirectory(prefix="millrace-train-") as aside:
        exported = _export(ladder, examples, split, Path(aside))
        with threadpool_limits(threads):
            sources = export_sources(usecase, log, split.test_from_us, Path(aside), seed=seed, progress=progress)
        manifest = _manifest(usecase, layout, ladder, examples, split, log, exported.worst, name, version, seed)
        leaks = {found.check: found.holds for found in findings}
        retrieval = load_retrieval(Path(aside))
        candidates = BundleSources(retrieval.towers, retrieval.neighbours, retrieval.popular)
        rungs = _rungs(layout, log, ladder, examples, split, candidates, seed)
        manifest = manifest.model_copy(update={"leaks": leaks, "rungs": rungs})
        rows = {part: int(getattr(split, part).sum()) for part in ("fit", "valid", "test")}
        licence = known.licence if known else licence
        quality = _quality(ladder, examples, split)
        card.write_card(manifest, licence, rows, _shares(ladder), Path(aside) / "model_card.md", quality)
        (Path(aside) / kept_usecase.FILE).write_bytes(kept_usecase.to_json(usecase))
        vocabularies = Path(aside) / VOCABULARIES
        vocabularies.mkdir()
        for column, values in ladder.inputs.vocabularies.items():
            np.save(vocabularies / f"{column}.npy", values)
        files = {str(path.relative_to(aside)): path for path in Path(aside).rglob("*") if path.is_file()}
        digest = write_bundle(bundles / name / str(version), manifest, files, sign=sign)
    bundle = load_bundle(bundles / name / str(version), digest=digest)
    if lake is not None:
        progress.stage("write examples")
        training_set = f"{name}-{version}"
        table = examples_table(examples, split, training_set)
        lake.overwrite("examples", table, predicate=f"training_set = '{training_set}'")
    registered = None
    if mlflow is not None:
        progress.stage("register")
        registered = register(mlflow, bundle, {"seed": seed, **_parameters(ladder)})
    return TrainResult(
        bundle=bundle,
        metrics=ladder.metrics,
        parity=exported.worst,
        registered=registered,
        rows=rows,
        test_from_us=split.test_from_us,
        sources=sources,
        dataset=log.source,
        logged=int(examples.logged.sum()),
        mismatch=mismatch,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Exported:
    worst: parity.Parity


def _export(ladder: Ladder, examples: Examples, split: Split, folder: Path) -> _Exported:
    """Graphs, golden rows and drift baseline in `folder`; both graphs compared with their models on all rows."""
    found = []
    recorded: list[npt.NDArray[np.float32]] = []
    places = np.linspace(0, len(examples) - 1, min(GOLDEN_ROWS, len(examples))).astype(np.int64)
    for rung, (path, model) in enumerate(((folder / FALLBACK, ladder.fallback), (folder / MODEL, ladder.model))):
        model.export(path)
        heads = {name: both[rung] for name, both in ladder.heads.items()}
        if heads:
            _export_heads(path, heads)
        scorer = OnnxScorer(path)
        predictions = scorer.predictions(examples.features, ladder.ints)
        for column, (name, head) in enumerate(heads.items()):
            own = head.score(examples.features, ladder.ints)
            what = f"head {name} of {model.name} in ONNX Runtime"
            found.append(parity.compare(what, own, predictions[:, column], examples.user_id))
        scores = scorer.score(examples.features, ladder.ints)
        reference = model.score(examples.features, ladder.ints)
        found.append(parity.compare(f"{model.name} in ONNX Runtime", reference, scores, examples.user_id))
        recorded.append(scores[places])
    fallback, served = recorded
    Golden(examples.features[places], ladder.ints[places], served, fallback).save(folder / "golden.npz")
    card.write_reference(examples.features[split.fit], ladder.inputs.feature_names, folder / "reference.parquet")
    worst = parity.Parity(max(p.max_abs for p in found), sum(p.flips for p in found), found[0].rows)
    return _Exported(worst)


def _export_heads(graph: Path, heads: Mapping[str, Ranker]) -> None:
    with tempfile.TemporaryDirectory(prefix="millrace-heads-") as aside:
        parts = [Path(aside) / f"{number}.onnx" for number in range(len(heads))]
        for path, head in zip(parts, heads.values(), strict=True):
            head.export(path)
        add_heads(graph, parts)


def _manifest(
    usecase: UseCase,
    layout: Layout,
    ladder: Ladder,
    examples: Examples,
    split: Split,
    log: Log,
    worst: parity.Parity,
    name: str,
    version: int,
    seed: int,
) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        usecase=usecase.name,
        revision=layout.revision,
        layout_hash=layout.layout_hash,
        feature_names=layout.feature_names,
        int_names=ladder.inputs.int_names,
        window=TrainingWindow(from_us=int(examples.time_us.min()), to_us=split.test_from_us),
        commit=_commit(),
        seeds=(seed,),
        dataset=log.source,
        data_hash=examples.digest(),
        model=ladder.model.name,
        fallback=ladder.fallback.name,
        heads={head: usecase.heads[head].weight for head in ladder.heads},
        split=SplitTimes(valid_from_us=split.valid_from_us, test_from_us=split.test_from_us),
        trials=1,
        metrics={model: metrics.as_dict() for model, metrics in ladder.metrics.items()},
        parity={"onnx.max_abs": worst.max_abs, "onnx.flips": worst.flips, "rows": worst.rows},
        created_us=time.time_ns() // 1000,
    )


def _rungs(
    layout: Layout,
    log: Log,
    ladder: Ladder,
    examples: Examples,
    split: Split,
    sources: BundleSources,
    seed: int,
) -> Mapping[str, float | None]:
    """What the gateway's rungs are worth on the test rows."""
    features, ints = examples.features[split.test], ladder.ints[split.test]
    return rung_quality(
        layout, log, examples, split,
        model=ladder.model.score(features, ints),
        fallback=ladder.fallback.score(features, ints),
        score=lambda rows, user, item: ladder.model.score(rows, ladder.inputs.ints_of(layout, user, item)),
        sources=sources,
        seed=seed,
    )  # fmt: skip


def _quality(ladder: Ladder, examples: Examples, split: Split) -> card.Quality:
    """Of the served model on the test rows."""
    past, test = split.fit | split.valid, split.test
    scores = ladder.model.score(examples.features[test], ladder.ints[test])
    known = (examples.user_id[past], examples.item_id[past])
    return card.quality_of(examples.label[test], scores, examples.user_id[test], examples.item_id[test], known)


def _parameters(ladder: Ladder) -> dict[str, Any]:
    """What MLflow's page of the run says of the models."""
    found: dict[str, Any] = {"model": ladder.model.name, "fallback": ladder.fallback.name}
    if isinstance(ladder.model, TreeRanker):
        found |= {**ladder.model.model.booster.params, "trees": ladder.model.model.trees}
    return found


def _shares(ladder: Ladder, top: int = 10) -> list[tuple[str, float]]:
    """The columns that move the served model's raw score most, and their shares of all that moves it."""
    test, fit = ladder.test, ladder.data.fit
    places = np.linspace(0, len(test) - 1, min(EXPLAINED_ROWS, len(test))).astype(np.int64)
    found = contributions(
        ladder.model, test.features[places], test.ints[places],
        inputs=ladder.inputs, reference=reference_row(fit.features, fit.ints),
    )  # fmt: skip
    sizes = found.by_feature().importance()
    total = sum(size for _, size in sizes) or 1.0
    return [(name, size / total) for name, size in sizes[:top]]


def _next_version(folder: Path) -> int:
    return 1 + max((int(each.name) for each in folder.glob("*") if each.name.isdecimal()), default=0)


def _commit() -> str:
    """Commit of the checkout that this code runs from, marked if files were changed; `unknown` in an image."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
