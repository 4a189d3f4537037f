"""What serves one use case at the moment: one frozen object, swapped as one reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from definitions.candidates import NO_SOURCES, BundleSources
from definitions.layout import Layout
from definitions.serving_rules import ServingRules

from gateway.health import Health
from gateway.query import Floats, Ints


class Scorer(Protocol):
    """One model version behind one way of running it."""

    async def score(self, features: Floats, ints: Ints | None, budget_s: float) -> Floats:
        """Scores float32 (n,), or predictions (n, H) of heads, all finite, of features float32 (n, F) and ints (n, K).

        Waits at most `budget_s`.

        Raises:
            Unavailable: with the reason.
        """
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Contributions:
    """What each of F features adds to the raw scores of n rows: raw = base + all of a row's contributions.

    `values` float32 (n, F), NaN for what is no single number; `contributions` float64 (n, F); `base`, `raw` float64
    (n,). `method`: how they were found.
    """

    names: tuple[str, ...]
    values: Floats
    contributions: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    raw: npt.NDArray[np.float64]
    method: str


class Explain(Protocol):
    """Explains one model version in this process. May take all of the budget: not for the event loop."""

    def __call__(
        self, features: Floats, ints: Ints | None, heads: Mapping[str, float], budget_s: float, local: bool, /
    ) -> tuple[Floats, Contributions]:
        """Scores float32 (n,) and contributions of rows as `Scorer.score` takes them, its heads weighed as rules say
        (`heads`); `local`: of the fallback.
        """
        ...


class IntColumns(Protocol):
    """What `bundle.IntInputs` is: the integer columns that a graph takes, as the dense codes it was trained on."""

    def __call__(self, user_ints: Ints, item_ints: Ints, /) -> Ints | None:
        """int64 (n, K) of user columns int64 (U,) and item columns int64 (n, I); None for a graph without any."""
        ...


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The pinned model: rung MODEL by `model`, rung LOCAL_MODEL by `local`. Requests keep the one they began with.

    `layout`: what its rows and inputs are made by. `health`: how it did lately, on whatever rung and for whomever.
    `sources`: what the bundle finds candidates with. `rungs`: rung -> NDCG@10 that the bundle says of its answers.
    `golden`: rows that came with the bundle, features float32 (k, F) and ints int64 (k, K) as the graph takes them.
    `explain`: says what each feature adds, not for the event loop. `heads`: name -> weight that it was trained with, in
    the order of their predictions; empty for a model with one score.
    """

    name: str
    version: int
    digest: str
    model: Scorer
    local: Scorer | None
    ints: IntColumns
    layout: Layout
    health: Health = field(default_factory=Health)
    sources: BundleSources = NO_SOURCES
    rungs: Mapping[str, float | None] = field(default_factory=dict)
    golden: tuple[Floats, Ints | None] | None = None
    explain: Explain | None = None
    heads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """By what one request is answered; it keeps this to its end.

    `model`: None before the first deploy. `arm`: empty outside of any; `canary`, and `<experiment>=<arm>` of each
    experiment that the user is in, joined by commas.
    """

    model: ActiveModel | None
    rules: ServingRules
    arm: str = ""
    partner: "Partner | None" = None


@dataclass(frozen=True, slots=True)
class Partner:
    """The ranking that drafts a list together with the choice's own. `names`: of the own arm, and of this one."""

    names: tuple[str, str]
    model: ActiveModel | None
    rules: ServingRules


def finite(scores: npt.NDArray[np.float32]) -> bool:
    """Whether no score is NaN or infinite."""
    return bool(np.count_nonzero(np.isfinite(scores)) == scores.size)  # `all` takes twice as long
