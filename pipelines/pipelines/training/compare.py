"""`millrace train --all`: every model on one data set, three seeds, intervals by user, each leak check before.

Models of the ladder learn on the columns of group `base`; `best` is, of those with a graph that is cheap to serve, the
one that validation prefers on all columns. Retrieval models are measured by their own protocol
(`pipelines.retrieval.ladder`). A run that was cut off goes on: what is done lies in a folder, under a key of rows, code
and seed.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from definitions.usecase import UseCase
from scipy import sparse
from threadpoolctl import threadpool_limits

from pipelines.datasets.dataset import Dataset
from pipelines.evaluation.intervals import Bootstrap
from pipelines.evaluation.metrics import log_loss
from pipelines.evaluation.ranking import list_metrics
from pipelines.evaluation.study import Scores, Study, Trial, code_digest
from pipelines.progress import SILENT, Progress
from pipelines.retrieval.ladder import evaluate_retrieval
from pipelines.training import leaks
from pipelines.training.examples import Log
from pipelines.training.inputs import BASE, HISTORY
from pipelines.training.ranker import RANKERS, RowsRanker, lacking

SEEDS: Final = (0, 1, 2)
RETRIEVED: Final = ("popularity", "itemknn", "ease", "ials", "two_tower")
LADDER: Final = (
    "constant", "item_mean", "lr_one_hot", "lr_hashed", "lr", "lightgbm", "xgboost", "lambdarank", "fm", "dcn_v2",
    "dlrm", "sequence",
)  # fmt: skip
SERVABLE: Final = ("lr", "lightgbm", "xgboost")
METRICS: Final = ("auc", "gauc", "logloss", "ndcg_at_10")
FIGURES: Final = (*METRICS, "recall_at_10")
BASE_CEILING: Final = {"ml-100k": 0.77}  # AUC above which base columns must hold the future: honest ones reach .763
K: Final = 10

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """`models`: name -> figures with `_lo`, `_hi`; None where the metric is not the model's. `absent`: name -> why it
    could not be trained. `best`: the model that `best` is. `trained_cpu_s`: of all
    tasks, also of earlier runs, in CPU time.
    """

    models: Mapping[str, Figures]
    absent: Mapping[str, str]
    best: str
    findings: tuple[leaks.Finding, ...]
    rows: Mapping[str, int]
    dataset: str
    seeds: tuple[int, ...]
    seconds: float
    trained_cpu_s: float


@dataclass(frozen=True)
class _Task:
    """A trial, or the retrieval models `retrieved`."""

    trial: Trial | None = None
    retrieved: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def compare_all(
    usecase: UseCase,
    dataset: Dataset,
    *,
    kept: Path,
    seeds: Sequence[int] = SEEDS,
    ladder: Sequence[str] = LADDER,
    retrieved: Sequence[str] = RETRIEVED,
    workers: int = 2,
    progress: Progress = SILENT,
) -> Comparison:
    """Check the rows for leaks, train everything that is not there yet, and measure it on the test rows.

    Args:
        usecase: features and label.
        dataset: its interactions.
        kept: folder of what is done.
        seeds: each model is trained with each.
        ladder, retrieved: models that rank candidates by their columns, and that retrieve from the catalogue.
        workers: processes; each trains with one thread.
        progress: is told checks, tasks, and what is missing.

    Raises:
        LeakError: a check is red; nothing is trained.
    """
    began = time.monotonic()
    progress.stage("build examples")
    study = Study(usecase, Log.of_dataset(dataset), kept)
    study.prepare()
    book = _Book(kept, study, dataset)
    findings = tuple(_checked(study, book, progress))
    leaks.refuse(findings)
    absent = dict(_unavailable((*ladder, *retrieved)))
    tasks = _tasks(study, [name for name in (*retrieved, *ladder) if name not in absent], seeds)
    trained_cpu_s = _run(book, tasks, usecase, dataset, workers, progress)
    for name, why in absent.items():
        progress.note(f"{name}: {why}")
    progress.stage("measure", len(ladder) + 1)
    models = _retrieval_figures(book, tasks)
    for name in ladder:
        if name not in absent:
            models[name] = _figures(study, [Trial(name, columns(name), seed=seed) for seed in seeds])
        progress.advance(1)
    best = min(SERVABLE, key=lambda name: _valid_loss(book, name, study.groups, seeds))
    models["best"] = _figures(study, [Trial(best, study.groups, seed=seed) for seed in seeds])
    progress.advance(1)
    ceiling = _ceiling(models, dataset.source, ladder)
    leaks.refuse([ceiling])
    split = study.split
    return Comparison(
        models=models,
        absent=absent,
        best=best,
        findings=(*findings, ceiling),
        rows={part: int(getattr(split, part).sum()) for part in ("fit", "valid", "test")},
        dataset=dataset.source,
        seeds=tuple(seeds),
        seconds=time.monotonic() - began,
        trained_cpu_s=trained_cpu_s,
    )


class _Book:
    """Results of tasks as JSON files, under a key of what made them."""

    def __init__(self, folder: Path, study: Study, dataset: Dataset) -> None:
        self.folder, self.study_key = folder, study.key
        self._key = f"{study.key} {code_digest(('retrieval',))} {dataset.source}"

    def read(self, what: object) -> dict[str, Any] | None:
        """What was written about `what`; None if it is not done."""
        path = self._path(what)
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return found

    def write(self, what: object, result: Mapping[str, Any]) -> None:
        """All or nothing."""
        path = self._path(what)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(result))
        aside.replace(path)

    def _path(self, what: object) -> Path:
        return self.folder / f"{hashlib.sha256(f'{self._key} {what}'.encode()).hexdigest()[:32]}.json"


def _checked(study: Study, book: _Book, progress: Progress) -> Iterator[leaks.Finding]:
    """The structural checks, done once for the same rows and code."""
    layout, log, rows, split = study.layout, study.log, study.examples, study.split

    def fitted(dealt: Any) -> npt.NDArray[np.float64]:
        other = Study(study.usecase, log, revision=study.revision)
        other.examples, other.split = dealt, split
        scores = np.zeros(len(dealt))
        scores[split.test] = other.scores(Trial("lightgbm", (BASE,)))
        return scores

    checks: dict[str, Callable[[], leaks.Finding]] = {
        "future": lambda: leaks.changed_by_the_future(layout, log),
        "history": lambda: leaks.history_of_the_future(layout, log, rows, split),
        "telling": lambda: leaks.telling_columns(layout.feature_names, rows.features[split.fit], rows.label[split.fit]),
        "shuffled": lambda: leaks.shuffled_labels(rows, split.test, fitted),
        "replay": lambda: leaks.replayed(layout, log, rows),
    }
    progress.stage("leak checks", len(checks))
    for name, check in checks.items():
        done = book.read(("check", name))
        if done is None:
            with threadpool_limits(1):
                found = check()
            done = {"check": found.check, "holds": found.holds, "columns": found.columns, "detail": found.detail}
            if found.holds:
                book.write(("check", name), done)
        progress.advance(1)
        yield leaks.Finding(done["check"], done["holds"], tuple(done["columns"]), done["detail"])


def _unavailable(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Models whose library is not installed, and what to do about it."""
    for name in names:
        if name in RANKERS and (why := lacking(name)):
            yield name, why


def columns(name: str) -> tuple[str, ...]:
    """Groups of columns that a model of the ladder is compared on: what is a sequence needs the user's history."""
    return (BASE, HISTORY) if name == "sequence" else (BASE,)


def _tasks(study: Study, names: Sequence[str], seeds: Sequence[int]) -> list[_Task]:
    """The long ones first, so that no process ends with one alone."""
    tasks = [_Task(retrieved=("popularity", "two_tower"), seeds=tuple(seeds))] if "two_tower" in names else []
    others = tuple(name for name in names if name in RETRIEVED and name != "two_tower")
    tasks += [_Task(retrieved=others, seeds=tuple(seeds))] if others else []
    learnt = [name for name in reversed(names) if name not in (*RETRIEVED, "constant", "item_mean")]
    tasks += [_Task(Trial(name, columns(name), seed=seed)) for name in learnt for seed in seeds]
    return tasks + [_Task(Trial(name, study.groups, seed=seed)) for name in SERVABLE for seed in seeds]


def _run(
    book: _Book, tasks: Sequence[_Task], usecase: UseCase, dataset: Dataset, workers: int, progress: Progress
) -> float:
    """Do what is not done, in processes; the CPU seconds that all tasks took, now or earlier."""
    waiting = [task for task in tasks if book.read(task) is None]
    progress.stage("train all models", len(tasks))
    progress.advance(len(tasks) - len(waiting))
    if waiting:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of BLAS and polars in any state
        with ProcessPoolExecutor(min(workers, len(waiting)), context, _begin, (usecase, dataset, book)) as pool:
            running: list[Future[None]] = [pool.submit(_do, task) for task in waiting]
            try:
                for done in as_completed(running):
                    done.result()
                    progress.advance(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return sum(float((book.read(task) or {})["seconds"]) for task in tasks)


_here: dict[str, Any] = {}  # of a worker process


def _begin(usecase: UseCase, dataset: Dataset, book: _Book) -> None:
    study = Study(usecase, Log.of_dataset(dataset), book.folder)
    study.key = book.study_key  # what the first process made of rows and code, should the code be edited meanwhile
    _here.update(study=study, dataset=dataset, book=book)


def _do(task: _Task) -> None:
    """In a worker: train, and write what came of it."""
    study, book, began = _here["study"], _here["book"], time.process_time()
    result: dict[str, Any] = {}
    with threadpool_limits(1):
        if task.trial is None:
            events = _here["dataset"].interactions
            result["figures"] = evaluate_retrieval(
                events.user_id, events.item_id, models=task.retrieved, seeds=task.seeds
            )
        else:
            study.scores(task.trial)
            if task.trial.model in SERVABLE and task.trial.groups == study.groups:
                found = study.fitted(task.trial)
                rows = found.data.valid
                model = cast(RowsRanker, found.ranker)
                result["valid_loss"] = log_loss(rows.label, model.score_rows(rows))
    book.write(task, {**result, "seconds": time.process_time() - began})


def _valid_loss(book: _Book, name: str, groups: tuple[str, ...], seeds: Sequence[int]) -> float:
    found = [book.read(_Task(Trial(name, groups, seed=seed))) or {} for seed in seeds]
    return float(np.mean([each["valid_loss"] for each in found]))


def _retrieval_figures(book: _Book, tasks: Sequence[_Task]) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for task in tasks:
        for name, figures in (book.read(task) or {}).get("figures", {}).items():
            kept = {key: value for key, value in figures.items() if key.startswith(("ndcg_at_10", "recall_at_10"))}
            found[name] = _blank() | kept
    return {name: found[name] for name in RETRIEVED if name in found}


def _blank() -> Figures:
    return {f"{metric}{end}": None for metric in FIGURES for end in ("", "_lo", "_hi")}


def _figures(study: Study, trials: Sequence[Trial]) -> Figures:
    """Mean over seeds, and the 95 % bootstrap interval over users of that mean."""
    labels, users = study.labels, study.users
    by_seed: list[Scores] = [study.scores(trial) for trial in trials]
    bootstrap = Bootstrap(users)
    found: Figures = _blank()
    for metric in METRICS:
        values = [bootstrap.interval(metric, labels, scores).value for scores in by_seed]
        drawn = np.mean([bootstrap.replicates(metric, labels, scores) for scores in by_seed], axis=0)
        _put(found, metric, bootstrap.of(drawn, float(np.mean(values))))
    recalls = [recall_by_user(labels, scores, users, seed=seed) for seed, scores in enumerate(by_seed)]
    of_users = np.mean(recalls, axis=0)
    by_user = Bootstrap(np.unique(users))
    _put(found, "recall_at_10", by_user.of(by_user.mean(of_users), float(np.nanmean(of_users))))
    return found


def _put(found: Figures, metric: str, interval: Any) -> None:
    told = interval.as_dict()
    found |= {metric: told["value"], f"{metric}_lo": told["low"], f"{metric}_hi": told["high"]}


def recall_by_user(
    labels: npt.NDArray[np.integer], scores: Scores, users: npt.NDArray[np.uint64], *, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Share of each user's positive rows among its K best, float64 (users,) by ascending id; NaN without a positive.

    Args:
        labels, scores, users: (n,) each.
        seed: of the order of equal scores.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.lexsort((-scores[shuffled], users[shuffled]))]
    _, user, counts = np.unique(users[order], return_inverse=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    positive = labels[order] > 0
    relevant = sparse.csr_matrix(
        (np.ones(int(positive.sum())), (user[positive], place[positive])), shape=(len(counts), int(counts.max()))
    )
    ranked = np.where(np.arange(K) < counts[:, None], np.arange(K), -1)
    return list_metrics(ranked, relevant)["recall"]


def _ceiling(models: Mapping[str, Figures], source: str, ladder: Sequence[str]) -> leaks.Finding:
    """On a data set whose ceiling is known, no model of the base columns may be above it."""
    limit = BASE_CEILING.get(source)
    if limit is None:
        return leaks.Finding("ceiling", holds=True, columns=(), detail=f"none is known for {source}")
    found = {name: models[name]["auc"] or 0.0 for name in ladder if name in models and columns(name) == (BASE,)}
    above = tuple(name for name, value in found.items() if value > limit)
    said = f"AUC on base columns is at most {max(found.values()):.4f}, a leak begins at {limit}"
    return leaks.Finding("ceiling", not above, above, said)
