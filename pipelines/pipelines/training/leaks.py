"""Does a training set contain its own future? Four structural checks; training refuses what fails them.

(a) `changed_by_the_future`: labels corrupted and events doubled from t on change no cell of a row at or before t.
(b) `telling_columns`: a column that knows the label by itself is excluded, and named.
(c) `shuffled_labels`: with labels dealt at random a model ranks no better than chance.
(d) `replayed`: rows computed by the streaming kernel, event after event, equal the backfilled ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from definitions.assembly import Assembled, RequestContext, assemble, past_items
from definitions.events import EventColumns
from definitions.item_snapshot import ItemSnapshot
from definitions.item_table import ItemTable
from definitions.layout import Layout
from definitions.packed import unpack_user_row
from definitions.user_state import UserTable
from definitions.user_values import UserAt

from pipelines.datasets.split import Split
from pipelines.errors import LeakError
from pipelines.evaluation.metrics import auc
from pipelines.training.examples import Examples, Log, build_examples
from pipelines.training.history import interactions, past_scores
from pipelines.training.inputs import fit_inputs

Build = Callable[[Layout, Log], Examples]
Fitted = Callable[[Examples], npt.NDArray[np.floating]]

CUTS = (0.3, 0.6, 0.9)  # of the examples' times; a row lies at each cut itself
TELLING_AUC = 0.9  # one column alone; the best honest one on ML-100K reaches .71
CHANCE = 4.0  # standard errors that AUC may lie off .5
REPLAYED_ROWS = 300
_TWIN = np.uint64(1) << np.uint64(63)  # makes the id of an event's twin
DECAYED_RTOL = 1.3e-7  # decayed values are equal to 1e-9 before they are rounded to float32


@dataclass(frozen=True)
class Finding:
    """Of one check: whether it holds, the columns to blame, and a sentence that says what was seen."""

    check: str
    holds: bool
    columns: tuple[str, ...]
    detail: str


def refuse(findings: Sequence[Finding]) -> None:
    """Raises LeakError, naming check and columns, unless all hold."""
    failed = [found for found in findings if not found.holds]
    if failed:
        raise LeakError("; ".join(f"{found.check}: {found.detail}" for found in failed))


def structural(layout: Layout, log: Log, examples: Examples, *, build: Build = build_examples) -> tuple[Finding, ...]:
    """The two that need no model and no stream, seconds on 100,000 rows: every training and every promotion runs them.

    Args:
        layout, log: what `build` is given.
        examples: rows that it gave, or logged ones.
        build: makes examples of a log.
    """
    return (
        changed_by_the_future(layout, log, build=build),
        telling_columns(layout.feature_names, examples.features, examples.label),
    )


def changed_by_the_future(
    layout: Layout, log: Log, *, build: Build = build_examples, cuts: Sequence[float] = CUTS
) -> Finding:
    """Corrupt every label from t on, double its event, and rebuild: cells of rows at or before t must stay as they are.

    Args:
        layout, log: what `build` is given.
        build: makes examples of a log; its rows have the layout's columns.
        cuts: quantiles of the examples' times, each a t.
    """
    before = build(layout, log)
    blamed: set[str] = set()
    cells = 0
    for cut in cuts:
        t = int(np.quantile(before.time_us, cut, method="lower"))
        after = build(layout, replace(log, events=corrupted(log.events, t)))
        found, compared = _changed(layout, before, after, t)
        blamed |= found
        cells += compared
    names = tuple(name for name in (*layout.feature_names, *_int_names(layout)) if name in blamed)
    said = f"events corrupted from t on change {', '.join(names)} of rows at or before t; read events < t only"
    return Finding("future", not names, names, said if names else f"0 of {cells:,} cells changed")


def corrupted(events: EventColumns, from_us: int) -> EventColumns:
    """The same events; from `from_us` on their values are mirrored, their actions dealt anew among them, and each
    stands there a second time under another id: what only counts events would not see a changed value.
    """
    later = events.event_time_us >= from_us
    ends = (events.value.min(initial=0.0), events.value.max(initial=0.0))
    action = events.action.copy()
    action[later] = np.random.default_rng(0).permutation(action[later])
    mirrored = np.float32(ends[0] + ends[1]) - events.value
    changed = replace(events, value=np.where(later, mirrored, events.value).astype(np.float32), action=action)
    again = changed.take(later)
    return EventColumns.concat([changed, replace(again, event_id=again.event_id ^ _TWIN)])


def _int_names(layout: Layout) -> tuple[str, ...]:
    return (*layout.user_int_names, *layout.item_int_names)


def _changed(layout: Layout, before: Examples, after: Examples, t: int) -> tuple[set[str], int]:
    """Names of columns with a changed cell in rows at or before t, and how many cells were compared."""
    mine, theirs = (np.flatnonzero(rows.time_us <= t) for rows in (before, after))
    _, first, second = np.intersect1d(
        before.event_id[mine], after.event_id[theirs], assume_unique=True, return_indices=True
    )
    first, second = mine[first], theirs[second]
    moved = np.concatenate(
        [
            (getattr(before, part)[first] != getattr(after, part)[second]).any(axis=0)
            for part in ("features", "user_ints", "item_ints")
        ]
    )
    names = (*layout.feature_names, *_int_names(layout))
    return {name for name, is_moved in zip(names, moved, strict=True) if is_moved}, len(first) * len(names)


def history_of_the_future(
    layout: Layout, log: Log, examples: Examples, split: Split, *, cut: float = CUTS[1]
) -> Finding:
    """The same for item-item scores: matrices of a row's past cannot know what came at or after it.

    Args:
        layout, log: what the examples were made of.
        examples, split: the rows; those before the test rows are compared.
        cut: quantile of their times, the t from which events are corrupted.
    """
    inputs = fit_inputs(layout, examples.user_ints[split.fit], examples.item_ints[split.fit])
    if inputs.history is None:
        return Finding("history", holds=True, columns=(), detail="no history_score, nothing to check")
    ints = inputs.ints_of(layout, examples.user_ints, examples.item_ints)
    t = int(np.quantile(examples.time_us[examples.time_us < split.test_from_us], cut, method="lower"))
    scores = []
    for known in (log, replace(log, events=corrupted(log.events, t))):
        events = interactions(layout, inputs, known)
        scores.append(past_scores(inputs, events, ints, examples.time_us, t + 1)[1])
    before = examples.time_us <= t
    moved = (scores[0][before] != scores[1][before]).any(axis=0)
    names = tuple(f"score {place}" for place in np.flatnonzero(moved).tolist())
    said = f"events corrupted from t on change {', '.join(names)} of rows at or before t"
    return Finding("history", not names, names, said if names else f"0 of {scores[0][before].size:,} cells changed")


def telling_columns(
    names: Sequence[str],
    features: npt.NDArray[np.float32],
    label: npt.NDArray[np.integer],
    *,
    limit: float = TELLING_AUC,
) -> Finding:
    """Columns of float32 (n, F) which alone tell the labels (n,): AUC, either way, of `limit` or more.

    They are named, to be excluded; `holds` says that there are none.
    """
    found = []
    for place, name in enumerate(names):
        value = auc(label, features[:, place])
        if value is not None and max(value, 1 - value) >= limit:
            found.append((name, max(value, 1 - value)))
    said = ", ".join(f"{name} (AUC {value:.3f})" for name, value in found)
    columns = tuple(name for name, _ in found)
    return Finding("telling", not found, columns, f"excluded: {said}" if found else f"none of {len(names)} columns")


def shuffled_labels(examples: Examples, test: npt.NDArray[np.bool_], fitted: Fitted, *, seed: int = 0) -> Finding:
    """Deal the labels at random and train: scores of the test rows must rank them no better than chance.

    Args:
        examples: all rows.
        test: mask of the rows that are scored.
        fitted: trains on the rest and gives the test rows' scores.
        seed: of the dealing.
    """
    dealt = replace(examples, label=np.random.default_rng(seed).permutation(examples.label))
    value = auc(dealt.label[test], fitted(dealt)[test])
    n_pos = int(dealt.label[test].sum())
    n_neg = int(test.sum()) - n_pos
    error = float(np.sqrt((n_pos + n_neg + 1) / (12 * max(n_pos * n_neg, 1))))  # Mann-Whitney's null
    holds = value is not None and abs(value - 0.5) <= CHANCE * error
    seen = "of one kind" if value is None else f"AUC {value:.4f}, .5 within {CHANCE * error:.4f} expected"
    return Finding("shuffled", holds, (), f"labels dealt at random: {seen}")


def replayed(layout: Layout, log: Log, examples: Examples, *, rows: int = REPLAYED_ROWS) -> Finding:
    """Feed the streaming kernel event after event in time order and compare the newest `rows` rows, cell by cell."""
    chosen = np.flatnonzero(examples.time_us >= examples.time_us[max(len(examples) - rows, 0)])
    stream = _Stream(layout, log)
    events = log.events.take(np.argsort(log.events.event_time_us, kind="stable"))
    context = _contexts(log.events, examples.event_id[chosen])
    done = 0
    blamed: set[str] = set()
    for row, request in zip(chosen.tolist(), context, strict=True):
        time_us = int(examples.time_us[row])
        end = int(np.searchsorted(events.event_time_us, time_us))  # strictly before
        stream.fold(events.take(np.arange(done, end)))
        done = end
        found = stream.assemble(int(examples.user_id[row]), int(examples.item_id[row]), time_us, request)
        blamed |= _differing(layout, examples, row, found)
    names = tuple(name for name in (*layout.feature_names, *_int_names(layout)) if name in blamed)
    said = f"replay differs from backfill in {', '.join(names)}" if names else f"{len(chosen)} rows replayed, all equal"
    return Finding("replay", not names, names, said)


def _contexts(events: EventColumns, event_id: npt.NDArray[np.uint64]) -> list[RequestContext]:
    order = np.argsort(events.event_id, kind="stable")
    at = order[np.searchsorted(events.event_id[order], event_id)]
    codes = zip(events.device[at].tolist(), events.surface[at].tolist(), events.country[at].tolist(), strict=True)
    return [RequestContext(*each) for each in codes]


class _Stream:
    """The state of `features` and the gateway's snapshot, in this process."""

    def __init__(self, layout: Layout, log: Log) -> None:
        self._layout = layout
        self._users, self._items = UserTable(layout), ItemTable(layout)
        self._users.fold_users(list(log.users.values()), range(len(log.users)))
        self._snapshot = ItemSnapshot(layout)
        for item in log.items.values():
            self._snapshot.put_item(item)

    def fold(self, events: EventColumns) -> None:
        """Take the next events."""
        if len(events) == 0:
            return
        self._users.fold(events)
        self._items.fold(events)
        for item in self._items.take_dirty():
            self._snapshot.apply(0, item, self._items.partial(item))
        self._snapshot.mark(0, 0)

    def assemble(self, user_id: int, item: int, time_us: int, context: RequestContext) -> Assembled:
        """What the gateway would give the model."""
        user = UserAt(self._layout, unpack_user_row(self._layout, self._users.row(user_id, 1)), time_us)
        view = self._snapshot.view(np.array([item], np.uint64), time_us, past_items(user))
        return assemble(user, view, context)


def _differing(layout: Layout, examples: Examples, row: int, found: Assembled) -> set[str]:
    sides = (layout.user, layout.item)
    decayed = {column.position for side in sides for column in side.decayed_columns}
    decayed |= {column.position for column in layout.table_columns}
    tolerance = np.array([DECAYED_RTOL if place in decayed else 0 for place in range(len(layout.feature_names))])
    wanted = examples.features[row]
    off = np.abs(found.features[0] - wanted) > tolerance * np.abs(wanted)
    names = {layout.feature_names[place] for place in np.flatnonzero(off).tolist()}
    ints = np.r_[examples.user_ints[row], examples.item_ints[row]] != np.r_[found.user_ints, found.item_ints[0]]
    return names | {_int_names(layout)[place] for place in np.flatnonzero(ints).tolist()}
