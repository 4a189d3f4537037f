"""One decision made again, and what is not the same."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from bundle import BundleError
from definitions.errors import DefinitionsError
from definitions.layout import Layout, layout_of
from definitions.rerank import Reranker
from definitions.rules import Rules
from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb

from pipelines.redo.bundles import Bundles, Opened, Unredoable
from pipelines.redo.logged import BY_MODEL, Decision, Floats

PARITY = 1e-5  # scores of another machine or a GPU: docs/adr/0010-one-onnx-graph.md


@dataclass(frozen=True)
class Redone:
    """A decision made again.

    `scores`, `order`: True = the same bits, False = not, None = not made again, for the reason in `untold`. `worst`:
    largest difference of a score. `differs`: what is not the same, in words. `scored`: how many scores were compared.
    """

    decision: Decision
    scores: bool | None
    order: bool | None
    worst: float
    scored: int
    differs: tuple[str, ...]
    untold: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Every bit that the record has and could be made again is the same, and nothing was left out."""
        return not self.differs and not self.untold

    @property
    def within_parity(self) -> bool:
        """Scores differ by what another machine may make of them, and the order follows from the logged ones."""
        return self.scores is False and self.worst <= PARITY and self.order is not False

    def as_dict(self) -> dict[str, Any]:
        """For people and for `--json`."""
        decision = self.decision
        return {
            "request_id": decision.request_id,
            "user_id": decision.user_id,
            "time_us": decision.time_us,
            "arm": decision.arm,
            "rung": rung_name(decision.rung),
            "model": f"{decision.model_name}/{decision.model_version}" if decision.model_name else "",
            "digest": decision.digest,
            "candidates": len(decision.item_ids),
            "shown": decision.shown,
            "same": self.same,
            "scores_equal": self.scores,
            "order_equal": self.order,
            "scores_compared": self.scored,
            "worst": self.worst,
            "differs": list(self.differs),
            "untold": list(self.untold),
        }


def again(decision: Decision, bundles: Bundles, usecase: UseCase) -> Redone:
    """Score and re-rank it as the gateway did.

    Scores are those of the rung's graph; the rungs without a model took theirs from a store or a counter, which the
    record holds but does not explain: of them the order is made again. The order is made of the logged scores, so
    that a fault in one is not reported as two.
    """
    differs: list[str] = []
    untold: list[str] = []
    opened: Opened | None = None
    scores: bool | None = None
    worst = 0.0
    scored = 0
    try:
        if decision.digest or decision.rung in BY_MODEL:
            opened = bundles.of(decision)  # on other rungs for its item vectors
        if decision.rung in BY_MODEL and opened is not None:
            made = opened.scores(decision)
            scores, worst, scored = _compare(decision, made, differs)
    except (Unredoable, BundleError, DefinitionsError) as exc:
        untold.append(f"scores: {exc}")
    order = None
    try:
        order = _order(decision, opened, usecase, differs)
    except (Unredoable, DefinitionsError) as exc:
        untold.append(f"order: {exc}")
    return Redone(decision, scores, order, worst, scored, tuple(differs), tuple(untold))


def rung_name(rung: int) -> str:
    """As metrics and answers say it."""
    return pb.Rung.Name(rung).removeprefix("RUNG_")


def _compare(decision: Decision, made: Floats, differs: list[str]) -> tuple[bool, float, int]:
    apart = np.flatnonzero(made.view(np.uint32) != decision.scores.view(np.uint32))
    if len(apart) == 0:
        return True, 0.0, len(made)
    worst = float(np.abs(made.astype(np.float64) - decision.scores).max())
    first = int(apart[0])
    differs.append(
        f"{len(apart)} of {len(made)} scores: item {decision.item_ids[first]} has {decision.scores[first]!r} in the "
        f"record, {made[first]!r} made again; {worst:.3g} at most"
    )
    return False, worst, len(made)


def _order(decision: Decision, opened: Opened | None, usecase: UseCase, differs: list[str]) -> bool | None:
    """Whether order and propensities are the same; None for what was never shown."""
    if decision.shown == 0:
        return None
    if not decision.rules:
        raise Unredoable("its rules were not logged: it is older than that")
    if not decision.has_all:
        raise Unredoable("only the shown items were logged (impressions.full_features)")
    if decision.drafted:
        raise Unredoable("two rankings drafted its list (interleaving), and the other one's scores are not logged")
    ids, propensities = reranked(decision, Rules.parse(decision.rules), opened, usecase)
    same = True
    places = np.flatnonzero(ids != decision.item_ids)
    if len(places):
        place, same = int(places[0]), False
        item = int(ids[place])
        differs.append(f"order: place {place + 1} has item {decision.item_ids[place]} in the record, {item} made again")
    drawn = np.flatnonzero(propensities.view(np.uint32) != decision.propensities.view(np.uint32))
    if len(drawn):
        place, same = int(drawn[0]), False
        differs.append(
            f"propensity: place {place + 1} has {decision.propensities[place]!r} in the record, "
            f"{propensities[place]!r} made again"
        )
    return same


def reranked(
    decision: Decision, rules: Rules, opened: Opened | None, usecase: UseCase
) -> tuple[npt.NDArray[np.uint64], Floats]:
    """Item ids uint64 (n,) and propensities float32 (n,) as `rules` order the logged scores.

    `rules`: the decision's own, or what is left of them when some are taken away.

    Raises:
        Unredoable: not all of what they read was logged.
    """
    layout = _layout(decision, opened, usecase)
    logged = Reranker.of(Rules.parse(decision.rules), layout.item).columns
    reranker = Reranker.of(rules, layout.item)
    n, width = len(decision.item_ids), len(logged)
    if len(decision.rule_codes) != 4 * n * width:
        raise Unredoable(f"it has {len(decision.rule_codes)} bytes of codes, its rules read {4 * n * width}")
    by_id = np.argsort(decision.item_ids)  # the record's own order must not help
    vectors = None
    if reranker.wants_vectors and opened is not None and opened.towers is not None:
        vectors = opened.towers.directions(decision.item_ids[by_id])
    codes = np.frombuffer(decision.rule_codes, "<u4").reshape(n, width)
    made = reranker.order(
        decision.item_ids[by_id],
        decision.scores[by_id],
        decision.shown,
        request_id=decision.request_id,
        codes=codes[by_id][:, [logged.index(column) for column in reranker.columns]],
        last=None if decision.unknown is None else decision.unknown[by_id],
        vectors=vectors,
        explore=decision.rung in BY_MODEL and not decision.interleaved,
    )
    return decision.item_ids[by_id][made.order], made.propensities


def _layout(decision: Decision, opened: Opened | None, usecase: UseCase) -> Layout:
    """Of the codes that the rules read."""
    own = opened.layout if opened is not None else layout_of(usecase)
    if own.layout_hash != decision.layout_hash:
        raise Unredoable(f"its layout {decision.layout_hash:08x} is neither the bundle's nor the use case's")
    return own
