"""`millrace promote`: hear a challenger, judge it, and say so on `decisions`. Serving it is deploy's."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bundle import Manifest, Trust, load_bundle, read_manifest
from definitions.layout import Layout
from millrace.decisions.v1 import decisions_pb2 as pb
from stores.offline import Lake
from threadpoolctl import threadpool_limits

from pipelines import decisions
from pipelines.deploy import pin_of
from pipelines.errors import DeployError, RegistryError
from pipelines.gate.hearing import Hearing, Stored, prepare
from pipelines.gate.judge import Evidence, Reason, Verdict, judge, rank
from pipelines.gate.opening import open_bundle
from pipelines.progress import SILENT, Progress
from pipelines.registry import champion_version, check_registered, crown, mirror
from pipelines.training.examples import Log
from pipelines.training.ranker import ranker, train_data

SIMPLER = ("lr", "lightgbm")  # fitted here, on the same rows: nobody's word is taken for them
THREADS = 1


@dataclass(frozen=True)
class Promotion:
    """What was decided. `champion`: version of what is champion now; None if there is none."""

    usecase: str
    version: int
    champion: int | None
    verdict: Verdict
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "usecase": self.usecase,
            "version": self.version,
            "promoted": self.verdict.promoted,
            "champion": self.champion,
            "reasons": [asdict(reason) for reason in self.verdict.reasons],
            "said": str(self.verdict),
            "comparisons": [
                {"against": each.against, "metric": each.metric, "cohort": each.cohort, **each.better.as_dict()}
                for each in self.verdict.comparisons
            ],
            "seconds": round(self.seconds, 2),
        }


def promote(
    folder: Path,
    layout: Layout,
    log: Log,
    *,
    trust: Trust,
    stored: Stored,
    mlflow: Path,
    kafka: str,
    lake: Lake | None = None,
    found: tuple[Reason, ...] = (),
    actor: str = "millrace promote",
    progress: Progress = SILENT,
) -> Promotion:
    """Decide about the bundle in `folder`, and announce what was decided.

    Args:
        folder: `<bundles>/<name>/<version>`.
        layout: of the use case as it is now.
        log: all events, users and items.
        trust: whose signatures count; an unsigned bundle is refused.
        stored: gives the rows that a bundle was trained on.
        mlflow: folder of MLflow's database and artifacts.
        kafka: bootstrap servers.
        lake: where impressions are, for use cases whose rows are shown items.
        found: reasons from outside, such as a consistency report.
        actor: for the audit.
        progress: is told each step.

    Raises:
        RegistryError: the registry does not know the bundle, or the champion's bundle cannot be opened.
        UnavailableError: Kafka does not answer.
        DeployError: the decision could not be published, or another version became champion meanwhile.
    """
    began = time.monotonic()
    usecase = layout.usecase.name
    progress.stage("read serving state")
    state = decisions.serving_state(kafka, usecase)
    mirror(mlflow, folder.parent.parent, state, progress)
    version = int(folder.name)
    served = state.champion.version if state.HasField("champion") else champion_version(mlflow, usecase)
    champion = None if served is None or served == version else folder.parent / str(served)
    verdict = hear(folder, champion, layout, log, trust=trust, stored=stored, lake=lake, found=found, progress=progress)
    reason = f"version {version}: {verdict}"
    if not verdict.promoted:
        progress.stage("announce")
        decisions.change(kafka, usecase, pb.DECISION_KIND_REFUSAL, lambda now: now, reason=reason, actor=actor)
        return Promotion(usecase, version, served, verdict, time.monotonic() - began)
    bundle = load_bundle(folder, trust=trust)
    check_registered(mlflow, bundle)

    def edit(now: pb.ServingState) -> pb.ServingState:
        if now.champion != state.champion:
            raise DeployError(
                f"{usecase}: while version {version} was judged, version {now.champion.version} became champion, which "
                "it was not compared with; ask the gate again"
            )
        now.champion.CopyFrom(pin_of(bundle))
        return now

    progress.stage("announce")
    decisions.change(kafka, usecase, pb.DECISION_KIND_PROMOTION, edit, reason=reason, actor=actor)
    crown(mlflow, bundle)
    return Promotion(usecase, version, version, verdict, time.monotonic() - began)


def hear(
    folder: Path,
    champion: Path | None,
    layout: Layout,
    log: Log,
    *,
    trust: Trust,
    stored: Stored,
    lake: Lake | None = None,
    found: tuple[Reason, ...] = (),
    progress: Progress = SILENT,
) -> Verdict:
    """The verdict on the bundle in `folder`, against the bundle `champion` and models that are fitted here.

    Raises:
        RegistryError: the champion's bundle cannot be opened.
    """
    progress.stage("open the bundle")
    opened = open_bundle(folder, trust)
    if opened.bundle is None or opened.bundle.manifest.split is None:
        return Verdict((*opened.faults, *found))
    manifest, split = opened.bundle.manifest, opened.bundle.manifest.split
    seen_to_us = max(split.test_from_us, _seen_to(champion))
    heard = prepare(
        layout,
        log,
        valid_from_us=split.valid_from_us,
        test_from_us=seen_to_us,
        stored=stored,
        lake=lake,
        progress=progress,
    )
    with threadpool_limits(THREADS):
        simpler = fitted(heard, manifest, progress=progress)
        progress.stage("judge")
        against = None if champion is None else champion_evidence(heard, champion)
        challenger = heard.evidence(folder, trust, who=f"version {folder.name}")
        verdict = judge(heard.rows, challenger, against, simpler, heard.bars)
    return Verdict((*verdict.reasons, *found), verdict.comparisons, verdict.for_it)


def fitted(heard: Hearing, manifest: Manifest, *, seed: int = 0, progress: Progress = SILENT) -> list[Evidence]:
    """The simpler models of this split: the item mean, and those of SIMPLER that are simpler than the challenger."""
    models = [heard.simple_floor]
    wanted = [name for name in SIMPLER if rank(name) < rank(manifest.model or "")]
    if wanted:
        data, test = train_data(heard.layout, heard.examples, heard.split, log=heard.log, progress=progress)
        for name in wanted:
            progress.stage(f"train {name} to compare with")
            model = ranker(name)(data, seed=seed, threads=THREADS, progress=progress)
            models.append(Evidence(name, name, model.score(test.features, test.ints)))
    return models


def champion_evidence(heard: Hearing, folder: Path) -> Evidence:
    """Of the champion; its signature was checked when it was promoted.

    Raises:
        RegistryError: its files are gone or changed.
    """
    found = heard.evidence(folder, Trust((), required=False), who=f"champion {folder.name}", serves=True)
    if found.scores is None:
        raise RegistryError(
            f"the champion cannot be opened ({'; '.join(map(str, found.faults))}); restore {folder}, or roll back first"
        )
    return found


def _seen_to(champion: Path | None) -> int:
    return 0 if champion is None else read_manifest(champion)[0].window.to_us
