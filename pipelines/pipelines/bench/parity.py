"""One model, three runtimes: the framework's scores against ONNX Runtime's and a real Triton's, row by row.

Rows are those of training with cells knocked out, where they may be absent: numbers that the use case says how to fill
are NaN (each policy in turn), and codes are 0, which is what an id becomes that no vocabulary knows.
"""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bundle import Bundle, Golden, Manifest, OnnxScorer, TrainingWindow, load_bundle, write_bundle
from definitions.features import Attribute, Feature
from definitions.layout import Layout, layout_of
from definitions.usecase import UseCase
from threadpoolctl import threadpool_limits

from pipelines.bench import at_least, at_most
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.split import split_times
from pipelines.errors import UnavailableError
from pipelines.export.parity import MAX_DIFFERENCE, Parity, measure
from pipelines.gate.judge import PARITY_ROWS
from pipelines.progress import SILENT, Progress
from pipelines.training.examples import Log, build_examples
from pipelines.training.ranker import TrainData, ranker, train_data
from pipelines.triton_client import Triton
from pipelines.triton_repository import Repository

MODELS: Final = ("lr", "lightgbm", "xgboost", "lambdarank", "dcn_v2", "dlrm", "two_tower", "sequence")
FIT_ROWS: Final = 15_000  # weights of any quality show whether runtimes agree
ABSENT: Final = 0.02  # of the cells
POLICIES: Final = ("indicator", "native_nan", "train_median", "own_code")
THREADS: Final = 1
ROWS: Final = 60_000
REQUEST: Final = 2_000  # rows; the most that `Rank` takes
ATTEMPTS: Final = 4


@dataclass(frozen=True)
class Rows:
    """n rows as graphs take them, and whose they are: float32 (n, F), int64 (n, K), uint64 (n,)."""

    features: npt.NDArray[np.float32]
    ints: npt.NDArray[np.int64]
    user_id: npt.NDArray[np.uint64]


def run(
    usecase: UseCase,
    dataset: Dataset,
    triton: str,
    repository: Repository,
    *,
    models: Sequence[str] = MODELS,
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Fit each model, export it, deploy it, and score the same rows three times.

    Args:
        usecase: of the columns; its number attributes are read as ones that may be missing.
        dataset: where rows come from.
        triton: host:port of a Triton's gRPC.
        repository: what that Triton serves from.
        models: names of `pipelines.training.ranker.RANKERS`.
        rows: how many, of those that the data set gives.
        seed: of trainers and of what is knocked out.
        progress: is told each model.

    Raises:
        TrainingError: a model cannot be trained here; deep ones need PyTorch.
        DeployError, UnavailableError: Triton refused, or does not answer.
    """
    layout, data, knocked, late = prepared(usecase, dataset, rows=rows, seed=seed, progress=progress)
    table = []
    with tempfile.TemporaryDirectory(prefix="millrace-parity-") as folder, threadpool_limits(THREADS):
        for name in models:
            progress.stage(name)
            table.append({"model": name, **_one(name, layout, data, knocked, triton, repository, Path(folder), seed)})
    result = {
        "what": f"{len(table)} models, each fitted on {late:,} rows of {dataset.source}, scored on "
        f"{len(knocked.user_id):,} rows with {ABSENT:.0%} of codes and number attributes absent, by framework, ONNX "
        "Runtime and Triton",
        "models": [row["model"] for row in table],
        "rows": len(knocked.user_id),
        "max_abs": max(max(row["onnx_max_abs"], row["triton_max_abs"]) for row in table),
        "rank_flips": sum(row["onnx_flips"] + row["triton_flips"] for row in table),
        "table": table,
    }
    bars = [at_most(result, "max_abs", MAX_DIFFERENCE), at_most(result, "rank_flips", 0)]
    return {**result, "bars": [*bars, at_least(result, "rows", PARITY_ROWS)]}


def prepared(
    usecase: UseCase, dataset: Dataset, *, rows: int, seed: int, progress: Progress
) -> tuple[Layout, TrainData, Rows, int]:
    """The layout, what models are fitted on, `rows` rows to score with cells knocked out, and how many were fitted."""
    progress.stage("build rows")
    layout = layout_of(may_be_missing(usecase))
    log = Log.of_dataset(dataset)
    examples = build_examples(layout, log)
    examples = replace(examples, features=without_some(examples.features, layout, seed))
    split = split_times(examples.time_us, gap_us=usecase.attribution_us)
    late = np.flatnonzero(split.fit)[-FIT_ROWS:]
    split = split.fitted_on(np.isin(np.arange(len(examples)), late))
    data, _ = train_data(layout, examples, split, log=log, progress=progress)
    ints = unknown_some(data.inputs.ints_of(layout, examples.user_ints, examples.item_ints), seed)
    asked = slice(0, rows)
    return layout, data, Rows(examples.features[asked], ints[asked], examples.user_id[asked]), len(late)


def may_be_missing(usecase: UseCase) -> UseCase:
    """The same, its number attributes filled by one policy each."""
    policies = itertools.cycle(POLICIES)
    return usecase.model_copy(
        update={
            "features": tuple(
                each.model_copy(update={"missing": next(policies)}) if _is_number(usecase, each) else each
                for each in usecase.features
            )
        }
    )


def without_some(features: npt.NDArray[np.float32], layout: Layout, seed: int) -> npt.NDArray[np.float32]:
    """ABSENT of the cells of columns that may be missing become NaN."""
    declared = [name for name, said in layout.usecase.encodings.items() if said.kind == "number" and said.missing]
    places = [layout.feature_names.index(name) for name in declared]
    out = features.copy()
    out[:, places] = np.where(
        np.random.default_rng(seed).random((len(out), len(places))) < ABSENT, np.nan, out[:, places]
    )
    return out


def unknown_some(ints: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """ABSENT of the codes become 0."""
    return np.where(np.random.default_rng(seed).random(ints.shape) < ABSENT, 0, ints)


def _is_number(usecase: UseCase, feature: Feature) -> bool:
    if not isinstance(feature, Attribute):
        return False
    specs = usecase.attributes.user if feature.of == "user" else usecase.attributes.item
    return specs[feature.source].kind == "number"


def _one(
    name: str,
    layout: Layout,
    data: TrainData,
    rows: Rows,
    target: str,
    repository: Repository,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    model = ranker(name)(data, seed=seed, threads=THREADS, progress=SILENT)
    reference = model.score(rows.features, rows.ints)
    graph = folder / f"{name}.onnx"
    model.export(graph)
    onnx = measure(reference, OnnxScorer(graph).score(rows.features, rows.ints), rows.user_id)
    bundle = _bundle(name, layout, data, graph, rows, folder)
    with Triton(target) as triton:
        repository.add(bundle)
        repository.configure(bundle.manifest, [1])
        triton.load(bundle.manifest.name)
        triton.wait_ready(bundle.manifest.name, [1])
        answered = _answers(triton, bundle.manifest, rows)
        triton.unload(bundle.manifest.name)
    return {**_named("onnx", onnx), **_named("triton", measure(reference, answered, rows.user_id))}


def _answers(triton: Triton, manifest: Manifest, rows: Rows) -> npt.NDArray[np.float32]:
    """Scores float32 (n,), request by request; one that a busy machine did not answer in time is asked again."""
    parts = []
    for start in range(0, len(rows.user_id), REQUEST):
        some = slice(start, start + REQUEST)
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                parts.append(triton.score(manifest, 1, rows.features[some], rows.ints[some]))
                break
            except UnavailableError:
                if left == 0:
                    raise
    return np.concatenate(parts)


def _named(runtime: str, found: Parity) -> dict[str, Any]:
    figures = asdict(found)
    return {f"{runtime}_max_abs": figures["max_abs"], f"{runtime}_flips": figures["flips"]}


def _bundle(name: str, layout: Layout, data: TrainData, graph: Path, rows: Rows, folder: Path) -> Bundle:
    """What Triton serves has to be admitted like anything else that is served."""
    some = slice(0, 64)
    scores = OnnxScorer(graph).score(rows.features[some], rows.ints[some])
    golden = folder / f"{name}.npz"
    Golden(rows.features[some], rows.ints[some], scores, scores).save(golden)
    manifest = Manifest(
        name=f"parity_{name}", version=1, usecase=layout.usecase.name, revision=layout.revision,
        layout_hash=layout.layout_hash, feature_names=layout.feature_names, int_names=data.inputs.int_names,
        window=TrainingWindow(from_us=0, to_us=1), commit="bench", seeds=(0,), dataset="bench", data_hash="",
        metrics={}, parity={}, created_us=0,
    )  # fmt: skip
    target = folder / "bundles" / name
    write_bundle(target, manifest, {"model.onnx": graph, "fallback.onnx": graph, "golden.npz": golden})
    return load_bundle(target)
