"""`make leak-proof`: plants future into training rows in four ways and shows that each is found, named and refused.

Rows are those of the synthetic world, computed by the code that training and serving use. The last line is one JSON
object; exit 1 if a leak passes, or if an honest row is blamed.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from definitions.layout import Layout, layout_of
from definitions.usecase import find_usecase
from servicekit.settings import checkout_root
from threadpoolctl import threadpool_limits

from pipelines.datasets import build_dataset
from pipelines.datasets.split import Split, split_times
from pipelines.datasets.synthetic import synthetic_world
from pipelines.errors import LeakError
from pipelines.evaluation.metrics import auc
from pipelines.gate import planted
from pipelines.gate.hearing import differing
from pipelines.progress import SILENT
from pipelines.training import leaks
from pipelines.training.examples import Examples, Log, build_examples
from pipelines.training.inputs import BASE
from pipelines.training.ranker import Ranker, ranker, train_data

USECASE: Final = "movies"
WORLD: Final = {"users": 400, "items": 700, "events": 40_000}
COUNTED: Final = "i_rated_all"  # planted: the item's events at or before the row's own time
TOLD: Final = "i_year"  # planted: the row's own action, read back
MEANS: Final = "i_liked_all"  # planted: the item's mean label of all time
SAID: Final = 5  # columns of one leak that the last line names


@dataclass(frozen=True)
class Red:
    """What came of one planted leak: the columns that were blamed, the error that ended the build, or ''."""

    columns: tuple[str, ...]
    error: str


def counting_now(layout: Layout, log: Log) -> Examples:
    """Events at or before t are counted, where before t is right."""
    at = _at(layout, COUNTED)
    return _with(layout, log, COUNTED, lambda rows: planted.peeking(layout, log, rows).features[:, at])


def own_action(layout: Layout, log: Log) -> Examples:
    """A column is the label, under a name that says something else."""
    return _with(layout, log, TOLD, lambda rows: (1950.0 + 50.0 * rows.label).astype(np.float32))


def own_event(layout: Layout, log: Log) -> Examples:
    """Every aggregate has the row's own event in it."""
    return planted.peeking(layout, log, build_examples(layout, log))


def whole_means(layout: Layout, log: Log) -> Examples:
    """An item's mean label over all time, in every row of it."""

    def means(rows: Examples) -> npt.NDArray[np.float32]:
        _, place = np.unique(rows.item_id, return_inverse=True)
        return (np.bincount(place, rows.label) / np.bincount(place))[place].astype(np.float32)

    return _with(layout, log, MEANS, means)


PLANTED: Final[dict[str, tuple[leaks.Build, str]]] = {
    "events at or before t": (counting_now, COUNTED),
    "label's own action": (own_action, TOLD),
    "event in own aggregate": (own_event, MEANS),
    "whole-data means": (whole_means, MEANS),
}
"""Leak -> how rows with it are built, and a column that must be named."""


def red(layout: Layout, log: Log, build: leaks.Build) -> Red:
    """Run the structural checks on rows of `build`, as training does before it fits anything."""
    rows = build(layout, log)
    found = leaks.structural(layout, log, rows, build=build)
    columns = tuple(dict.fromkeys(name for each in found for name in each.columns))
    try:
        leaks.refuse(found)
    except LeakError as exc:
        return Red(columns, str(exc))
    return Red(columns, "")


def run() -> dict[str, object]:
    """The proof: what is printed."""
    began = time.monotonic()
    layout = layout_of(find_usecase(USECASE, checkout_root() / "usecases"))
    log = Log.of_dataset(build_dataset(layout.usecase, synthetic_world(**WORLD)))
    honest = build_examples(layout, log)
    split = split_times(honest.time_us, gap_us=layout.usecase.attribution_us)
    named, caught = {}, 0
    for name, (build, column) in PLANTED.items():
        found = red(layout, log, build)
        named[name] = [*found.columns[:SAID], *([f"{len(found.columns) - SAID} more"] if found.columns[SAID:] else [])]
        caught += column in found.columns and column in found.error
        _say(f"{name}: {found.error or 'NOT FOUND'}")
    clean = red(layout, log, build_examples)
    with threadpool_limits(1):
        shuffled = leaks.shuffled_labels(honest, split.test, lambda rows: _scores(layout, rows, split, rows))
        offline, served, without = _worth(layout, log, honest, split)
    replayed = leaks.replayed(layout, log, honest)
    _say(f"honest rows: {clean.error or 'nothing found'}; {shuffled.detail}; {replayed.detail}")
    return {
        "caught": caught,
        "planted": len(PLANTED),
        "named": named,
        "honest_blamed": list(clean.columns),
        "shuffled_holds": shuffled.holds,
        "replay_equal": replayed.holds,
        "leaky_auc_offline": round(offline, 4),
        "leaky_auc_served": round(served, 4),
        "excluded_auc": round(without, 4),
        "rows": len(honest),
        "seconds": round(time.monotonic() - began, 1),
    }


def _worth(layout: Layout, log: Log, honest: Examples, split: Split) -> tuple[float, float, float]:
    """AUC of a model with the label's own action: as its leaky test rows say, as honest rows say, and without it."""
    leaky = own_action(layout, log)
    model = _fit(layout, leaky, split)
    apart = differing(layout.feature_names, leaky, honest.keys, honest.features)
    blamed = [name for name, share in apart.items() if share]
    places = [_at(layout, name) for name in blamed]
    emptied = leaky.features.copy()
    emptied[:, places] = 0  # excluded: a constant tells nothing
    without = replace(leaky, features=emptied)
    found = (
        (leaky, model(leaky)), (leaky, model(honest)), (without, _scores(layout, without, split, without)),
    )  # fmt: skip
    return _auc(found[0], split), _auc(found[1], split), _auc(found[2], split)


def _auc(judged: tuple[Examples, npt.NDArray[np.floating]], split: Split) -> float:
    rows, scores = judged
    return auc(rows.label[split.test], scores[split.test]) or 0.0


def _fit(layout: Layout, rows: Examples, split: Split) -> Callable[[Examples], npt.NDArray[np.float64]]:
    data, _ = train_data(layout, rows, split, groups=(BASE,))
    model: Ranker = ranker("lr")(data, seed=0, threads=1, progress=SILENT)

    def scores(of: Examples) -> npt.NDArray[np.float64]:
        return model.score(of.features, data.inputs.ints_of(layout, of.user_ints, of.item_ints))

    return scores


def _scores(layout: Layout, rows: Examples, split: Split, of: Examples) -> npt.NDArray[np.float64]:
    return _fit(layout, rows, split)(of)


def _with(layout: Layout, log: Log, column: str, values: Callable[[Examples], npt.NDArray[np.float32]]) -> Examples:
    rows = build_examples(layout, log)
    features = rows.features.copy()
    features[:, _at(layout, column)] = values(rows)
    return replace(rows, features=features)


def _at(layout: Layout, column: str) -> int:
    return layout.feature_names.index(column)


def main() -> int:
    """0: every leak was found and named, and no honest column was; 1: not."""
    found = run()
    sys.stdout.write(json.dumps(found) + "\n")
    held = found["caught"] == found["planted"] and not found["honest_blamed"]
    return 0 if held and found["shuffled_holds"] and found["replay_equal"] else 1


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
