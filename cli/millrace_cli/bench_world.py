"""What a gateway of one command serves: data in a Kafka and a Valkey of its own, a model in a Triton of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundle import Bundle
from definitions.layout import Layout, layout_of
from definitions.usecase import load_usecase
from pipelines.bench import gateway as bench
from pipelines.bench.planted import planted_templates
from pipelines.datasets import Dataset, load_dataset
from pipelines.deploy import deploy
from pipelines.training.run import train
from pipelines.triton_repository import Repository

from millrace_cli import spare

if TYPE_CHECKING:
    from pipelines.progress import Progress

    from millrace_cli.settings import Settings


@dataclass(frozen=True)
class World:
    """Synthetic ratings as the features service would leave them, and `bundle`, trained on them and deployed.

    `home`: an empty folder; `settings`: a gateway's, beside its ports; `kafka`, `triton`: host:port.
    """

    home: Path
    layout: Layout
    data: Dataset
    bundle: Bundle
    kafka: str
    triton: str
    repository: Repository
    settings: dict[str, str]


@contextmanager
def world(
    settings: Settings, progress: Progress, *, model: str, usecase: Path = bench.USECASE, planted: bool = False
) -> Iterator[World]:
    """Takes half a minute.

    Args:
        settings: the command's.
        progress: is told the stages.
        model: what scores: lr, or lightgbm.
        usecase: a file; with MovieLens' columns.
        planted: the wrapper in Triton obeys `pipelines.bench.planted.spoil`.

    Raises:
        EnvironmentAtFault: a server cannot run here.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        home, spec = Path(folder), load_usecase(usecase)
        layout, templates = layout_of(spec), settings.triton_templates
        data = load_dataset("synthetic", spec, cache=settings.datasets, progress=progress)
        trained = train(spec, data, bundles=home / "trained", progress=progress)
        bundle = bench.served(trained.bundle, model, home / "bundles")
        progress.stage("start Kafka, Valkey and Triton")
        with spare.kafka(spec.name) as (kafka, _), spare.valkey() as valkey, spare.triton() as (triton, models):
            bench.put_world(layout, data, kafka, valkey)
            repository = Repository(models, planted_templates(templates, home / "templates") if planted else templates)
            deploy(bundle.folder, kafka=kafka, triton=triton, repository=repository, progress=progress)
            own = {
                "MILLRACE_HOME": str(home), "MILLRACE_USECASES": str(usecase), "MILLRACE_KAFKA": kafka,
                "MILLRACE_VALKEY": valkey, "MILLRACE_TRITON": triton, "MILLRACE_LOG_LEVEL": "WARNING",
            }  # fmt: skip
            yield World(home, layout, data, bundle, kafka, triton, repository, own)
