"""`make gate-proof`: plants eight bad models, a better one and a lot of noise before the gate, and counts what passes.

Everything is real but the world, which is the synthetic data set: training, ONNX graphs, signatures, bundles on disk,
the gate's own rebuild of all rows. The last line is one JSON object; exit 1 if anything is not as promised.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from bundle import Trust
from definitions.layout import layout_of
from definitions.usecase import find_usecase
from servicekit.settings import checkout_root
from stores.offline import Lake
from threadpoolctl import threadpool_limits

from pipelines.datasets import build_dataset
from pipelines.datasets.split import split_times
from pipelines.datasets.synthetic import synthetic_world
from pipelines.gate import planted
from pipelines.gate.hearing import Hearing, kept_in, prepare
from pipelines.gate.judge import Evidence, Verdict, judge
from pipelines.gate.promotion import champion_evidence, hear
from pipelines.progress import SILENT
from pipelines.signing import development_key, signer
from pipelines.training.examples import Log, build_examples, examples_table
from pipelines.training.inputs import BASE
from pipelines.training.ranker import ranker, train_data

USECASE: Final = "movies"
SEEDS: Final = 20
FEW: Final = 0.05  # of the fit rows: what the first champion was trained on, so that a better model is possible
SHAKE: Final = 0.5  # of a logit, evenly: the twin is as good, or a little worse
CHAMPION, BETTER = 1, 2

EXPECTED: Final = {
    "random": "baseline",
    "leaky": "leak",
    "constant": "baseline",
    "miscalibrated": "calibration",
    "worse on cold users": "cohort",
    "slow": "latency",
    "unsigned": "signature",
    "tampered": "signature",
}
"""Planted model -> the rule that must be among the reasons for its refusal."""


@dataclass(frozen=True, eq=False)
class World:
    """One synthetic world with an honest champion in it, and all that is needed to plant others."""

    log: Log
    forge: planted.Forge
    lake: Lake
    trust: Trust
    champion: Path
    better: Path
    graphs: Path

    @property
    def columns(self) -> int:
        """Float columns of the layout."""
        return len(self.forge.layout.feature_names)

    def hear(self, folder: Path) -> Verdict:
        """The whole gate, from the log on."""
        return hear(folder, self.champion, self.forge.layout, self.log, trust=self.trust, stored=kept_in(self.lake))

    def prepared(self) -> Hearing:
        """What is the same for all that are planted: the gate's own rows, checked for future."""
        split = self.forge.split
        return prepare(
            self.forge.layout, self.log, valid_from_us=split.valid_from_us, test_from_us=split.test_from_us,
            stored=kept_in(self.lake),
        )  # fmt: skip


def build(home: Path) -> World:
    """Train a champion on few rows and a better model on all of them, and write both as signed bundles."""
    layout = layout_of(find_usecase(USECASE, checkout_root() / "usecases"))
    log = Log.of_dataset(build_dataset(layout.usecase, synthetic_world()))
    examples = build_examples(layout, log)
    split = split_times(examples.time_us, gap_us=layout.usecase.attribution_us)
    data, _ = train_data(layout, examples, split, groups=(BASE,))
    few = np.random.default_rng(0).random(len(examples)) < FEW
    poor, _ = train_data(layout, examples, split.fitted_on(few), groups=(BASE,))
    graphs, trusted = home / "graphs", home / "trusted"
    graphs.mkdir(parents=True)
    honest = planted.exported(ranker("lr")(data, seed=0, threads=1, progress=SILENT), graphs / "honest.onnx")
    first = planted.exported(ranker("lightgbm")(poor, seed=0, threads=1, progress=SILENT), graphs / "first.onnx")
    sign = signer(development_key(home / "signing.pem", trusted))
    forge = planted.Forge(layout, examples, split, data.inputs, honest, home / "bundles", sign)
    return World(
        log=log,
        forge=forge,
        lake=Lake(home / "lake", USECASE),
        trust=Trust.read(trusted, required=True),
        champion=planted.Forge(layout, examples, split, poor.inputs, first, home / "bundles", sign).bundle(
            CHAMPION, first, "lightgbm"
        ),
        better=forge.bundle(BETTER, honest, "lr"),
        graphs=graphs,
    )


def plant(world: World) -> dict[str, Path]:
    """Name of EXPECTED -> the folder of that bundle; each is the better model with one thing wrong."""
    forge, honest, columns = world.forge, world.forge.fallback, world.columns
    rate = float(forge.examples.label[forge.split.fit].mean())
    seen = forge.layout.feature_names.index("u_rated_all")
    leaky = planted.peeking(forge.layout, world.log, forge.examples)
    data, _ = train_data(forge.layout, leaky, forge.split, groups=(BASE,))
    taught = planted.exported(ranker("lr")(data, seed=0, threads=1, progress=SILENT), world.graphs / "leaky.onnx")
    graphs: dict[str, Callable[[Path], Path]] = {
        "random": lambda path: planted.random(honest, path, columns, rate, seed=0),
        "constant": lambda path: planted.constant(honest, path, rate),
        "miscalibrated": lambda path: planted.miscalibrated(honest, path, 0.4),
        "worse on cold users": lambda path: planted.worse_on_cold(honest, path, columns, seen, 40.0, 3.0),
        "slow": lambda path: planted.slow(honest, path, columns),
    }
    folders = {}
    for version, name in enumerate(EXPECTED, BETTER + 1):
        if name in graphs:
            folders[name] = forge.bundle(version, graphs[name](world.graphs / f"{version}.onnx"), "lr")
        elif name == "leaky":
            folders[name] = forge.bundle(version, taught, "lr", examples=leaky)
            table = examples_table(leaky, forge.split, f"{USECASE}-{version}")
            world.lake.overwrite("examples", table, predicate=f"training_set = '{USECASE}-{version}'")
        else:
            folders[name] = forge.bundle(version, honest, "lr", signed=name != "unsigned")
    planted.tamper(folders["tampered"], taught)
    return folders


def noise(world: World, heard: Hearing, seeds: int) -> tuple[int, int]:
    """(promoted, heard): a random model and a shaken twin of the champion for each seed, once the better one reigns."""
    forge, honest = world.forge, world.forge.fallback
    champion, simpler = champion_evidence(heard, world.better), [heard.simple_floor]
    rate = float(forge.examples.label[forge.split.fit].mean())
    promoted = version = 0
    for seed in range(seeds):
        for name in ("random", "shaken"):
            version += 1
            path = world.graphs / f"{name}-{seed}.onnx"
            if name == "random":
                planted.random(honest, path, world.columns, rate, seed)
            else:
                planted.shaken(honest, path, world.columns, SHAKE, seed)
            folder = forge.bundle(100 + version, path, "lr")
            promoted += _judged(heard, folder, world.trust, champion, simpler, seed).promoted
    return promoted, version


def _judged(
    heard: Hearing, folder: Path, trust: Trust, champion: Evidence, simpler: list[Evidence], seed: int
) -> Verdict:
    challenger = heard.evidence(folder, trust, who=f"version {folder.name}")
    return judge(heard.rows, challenger, champion, simpler, heard.bars, seed=seed)


def run(home: Path, *, seeds: int = SEEDS) -> dict[str, object]:
    """The proof in `home`, an empty folder: what is printed."""
    began = time.monotonic()
    with threadpool_limits(1):
        world = build(home)
        folders = plant(world)
        heard = world.prepared()
        champion, simpler = champion_evidence(heard, world.champion), [heard.simple_floor]
        reasons, refused = {}, 0
        for name, folder in folders.items():
            verdict = _judged(heard, folder, world.trust, champion, simpler, 0)
            told = [reason for reason in verdict.reasons if reason.rule == EXPECTED[name]]
            reasons[name] = str(told[0]) if told else f"promoted, or refused for something else: {verdict}"
            refused += bool(told)
            _say(f"{name}: {'promoted' if verdict.promoted else 'refused'}: {verdict}")
        better = world.hear(world.better)
        _say(f"better: {'promoted' if better.promoted else 'refused'}: {better}")
        promoted, noisy = noise(world, heard, seeds)
    return {
        "refused": refused,
        "planted": len(EXPECTED),
        "noise_promoted": promoted,
        "noise_heard": noisy,
        "seeds": seeds,
        "better_promoted": better.promoted,
        "reasons": {**reasons, "better": str(better)},
        "rows": int(world.forge.split.test.sum()),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    """0: as promised; 1: not."""
    with tempfile.TemporaryDirectory(prefix="millrace-gate-") as folder:
        found = run(Path(folder))
    sys.stdout.write(json.dumps(found) + "\n")
    held = found["refused"] == found["planted"] and found["noise_promoted"] == 0 and found["better_promoted"]
    return 0 if held else 1


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
