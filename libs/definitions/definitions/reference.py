"""The page about a use case's features, written from its file: `python -m definitions.reference <usecases> <pages>`.

`make reference` runs it; a test holds the pages to the files.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from definitions import features as kinds
from definitions.layout import Layout, layout_of
from definitions.plan import Side
from definitions.usecase import load_usecase

_SCORES = {
    "residual_knn": "value above the mean that was given to items like the candidate among `{}`",
    "ridge": "value above the mean that a ridge regression predicts from `{}`",
    "ease": "how often the candidate goes together with the items of `{}`",
    "ease_residual": "how often the candidate goes together with the items of `{}`, each by its value above the mean",
    "support": "how many items like the candidate are among `{}`, and how like it they are",
}
_UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000))


def page(layout: Layout) -> str:
    """Markdown: float columns in the model's order, int64 inputs, what the graph adds, what is stored."""
    usecase = layout.usecase
    lines = [
        f"# Features of `{usecase.name}`",
        "",
        f"Written by `make reference` from [`usecases/{usecase.name}.yaml`](../../usecases/{usecase.name}.yaml); edit "
        "that file, not this one.",
        f"Layout hash `{layout.layout_hash:08x}`: where it changes, rows are rebuilt under the next revision. How each",
        "kind is computed, and kept equal online and offline: [definitions](../../libs/definitions).",
        "",
        "## Float columns",
        "",
        "In the order of the model's input `features`.",
        "",
        "| # | column | group | of | value at t | no event |",
        "|---|---|---|---|---|---|",
    ]
    number = 0
    for feature in usecase.features:
        for column, value, empty in _float_columns(feature, layout):
            lines.append(f"| {number} | `{column}` | {feature.group} | {feature.of} | {value} | {empty} |")
            number += 1
    for title, owner in (("a request", ("user", "request")), ("a candidate", ("item", "cross"))):
        rows = [row for feature in usecase.features if feature.of in owner for row in _int_columns(feature, layout)]
        if rows:
            lines += ["", f"## int64 inputs of {title}", "", "| columns | group | what |", "|---|---|---|", *rows]
    if layout.graph_scores:
        lines += ["", "## Scores that the graph computes", "", "| score | from |", "|---|---|"]
        by_index = [feature.name for feature in usecase.features if isinstance(feature, kinds.LastK)]
        lines += [
            f"| `{scores.name}_{score}` | `{by_index[scores.history]}` and `{kinds.ITEM_ID}` |"
            for scores in layout.graph_scores
            for score in scores.scores
        ]
    lines += ["", "## What is stored", "", "| of | what | how many |", "|---|---|---|"]
    lines += [f"| {name} | {what} | {n} |" for name in ("user", "item") for what, n in _stored(getattr(layout, name))]
    return "\n".join(lines) + "\n"


def meanings(layout: Layout) -> dict[str, str]:
    """What each column that a model reads is, in words, by the column's name; codes of one attribute by its name."""
    found = dict[str, str]()
    for feature in layout.usecase.features:
        found |= {column: value for column, value, _ in _float_columns(feature, layout)}
        match feature:
            case kinds.Attribute() if feature.source in getattr(layout, feature.of).codes:
                found[feature.name] = f"attribute `{feature.source}` of the {feature.of}"
            case kinds.ContextCode():
                found[feature.name] = f"the request's `{feature.source}`"
    histories = [feature.name for feature in layout.usecase.features if isinstance(feature, kinds.LastK)]
    for scores in layout.graph_scores:
        past = histories[scores.history]
        columns = (*scores.scores, *(["support"] if "residual_knn" in scores.scores else []))
        found |= {f"{scores.name}_{column}": _SCORES[column].format(past) for column in columns}
    return found


def _float_columns(feature: kinds.Feature, layout: Layout) -> Iterator[tuple[str, str, str]]:
    """(column, value, value where nothing happened)."""
    name = feature.name
    match feature:
        case kinds.Count() | kinds.Sum() | kinds.Mean() | kinds.Rate():
            for window in feature.windows:
                within = f"{'ever' if window == 'all' else f'in {window}'}{_prior(feature)}{_ttl(feature)}"
                yield f"{name}_{window}", f"{_amount(feature)} {within}", _empty(feature)
        case kinds.DecayedCount() | kinds.DecayedMean() | kinds.DecayedRate():
            fading = f"half-life {_span(feature.half_life_us)}{_prior(feature)}{_ttl(feature)}"
            yield name, f"{_amount(feature)}, {fading}", _empty(feature)
        case kinds.Recency():
            cap = f"{feature.cap_us / 1e6:.10g}"
            yield name, f"seconds since the newest of {_events(feature.action)}, at most {cap}{_ttl(feature)}", cap
        case kinds.AffinityShare():
            yield name, f"share of the candidate's category in `{feature.table}`", "0"
        case kinds.AffinityRate():
            rate = f"positive share of the candidate's category in `{feature.table}`{_prior(feature)}"
            yield name, rate, _empty(feature)
        case kinds.CandidateSeen():
            yield name, f"1 if the candidate is in `{feature.history}`", "0"
        case kinds.RecentResidual():
            mean = f"mean of value - the item's `{feature.item_mean}` at t, over"
            for n in feature.last:
                yield f"{name}_{n}", f"{mean} the newest {n} of `{feature.history}`", "0"
            if layout.usecase.category is not None:
                yield f"{name}_category", f"{mean} all of `{feature.history}` of the candidate's category", "0"
                yield f"{name}_category_n", "how many those are", "0"
        case kinds.Attribute() if feature.source in getattr(layout, feature.of).numbers:
            yield name, f"attribute `{feature.source}`", f"{feature.default:g}"


def _int_columns(feature: kinds.Feature, layout: Layout) -> Iterator[str]:
    name = feature.name
    match feature:
        case kinds.LastK():
            events = f"newest {feature.k} {_events(feature.action)}"
            yield f"| `{name}_ids_0` … `{feature.k - 1}` | {feature.group} | {events}: item ids, newest first |"
            yield f"| `{name}_values_0` … `{feature.k - 1}` | {feature.group} | their values in millionths |"
        case kinds.Attribute() if feature.source in getattr(layout, feature.of).codes:
            width = getattr(layout, feature.of).codes[feature.source].width
            columns = f"`{name}`" if width == 1 else f"`{name}_0` … `{width - 1}`"
            yield f"| {columns} | {feature.group} | codes of attribute `{feature.source}`, 0 = none |"
        case kinds.ContextCode():
            yield f"| `{name}` | {feature.group} | the request's `{feature.source}` |"
        case kinds.HistoryScore() if feature.name == layout.graph_scores[0].name:
            yield f"| `{kinds.ITEM_ID}` | {feature.group} | the candidate's id |"


def _amount(feature: kinds.Feature) -> str:
    match feature:
        case kinds.Count() | kinds.DecayedCount():
            return f"count of {_events(feature.action)}"
        case kinds.Sum():
            return f"sum of values of {_events(feature.action)}"
        case kinds.Mean() | kinds.DecayedMean():
            return f"mean value of {_events(feature.action)}"
        case kinds.Rate() | kinds.DecayedRate():
            return f"{_events(feature.num)} per {_events(feature.den)}"
    raise TypeError(feature.kind)


def _empty(feature: kinds.Feature) -> str:
    prior = getattr(feature, "prior", kinds.Prior())
    return f"{prior.mean if prior.weight else 0:g}"


def _events(actions: Mapping[str, kinds.Condition]) -> str:
    named = [
        name if condition.if_value_at_least is None else f"{name} ≥ {condition.if_value_at_least:g}"
        for name, condition in actions.items()
    ]
    return ", ".join(named) or "all events"


def _prior(feature: kinds.Feature) -> str:
    prior = getattr(feature, "prior", kinds.Prior())
    return f" (drawn to {prior.mean:g} as by {prior.weight:g} events)" if prior.weight else ""


def _ttl(feature: kinds.Feature) -> str:
    ttl_us = getattr(feature, "ttl_us", None)
    return "" if ttl_us is None else f"; as of no event once the newest is {_span(ttl_us)} old"


def _span(time_us: int) -> str:
    """The largest unit that gives a whole number."""
    return next((f"{time_us // unit}{name}" for name, unit in _UNITS if time_us % unit == 0), f"{time_us}us")


def _stored(side: Side) -> Iterator[tuple[str, str]]:
    if side.measures:
        yield "totals, int64", str(len(side.measures))
    for tiles in side.classes:
        kept = f"{len(tiles.measures)}, kept for {_span(tiles.keep_us)}"
        yield f"columns of tiles of {_span(tiles.hop_us)}, int64", kept
    for what, n in (("decayed sums", len(side.decays)), ("newest times", len(side.recencies))):
        if n:
            yield what, str(n)
    for history in side.histories:
        yield "history", f"newest {history.k}"
    for table in side.tables:
        yield "affinity table", f"strongest {table.k}"
    for what, n in (("numbers", len(side.numbers)), ("category codes", side.code_width)):
        if n:
            yield what, str(n)


def main() -> None:
    """Write the page of each use case in a folder into another."""
    usecases, pages = Path(sys.argv[1]), Path(sys.argv[2])
    pages.mkdir(exist_ok=True)
    for path in sorted(usecases.glob("*.yaml")):
        (pages / f"{path.stem}.md").write_text(page(layout_of(load_usecase(path))), encoding="utf-8")


if __name__ == "__main__":
    main()
