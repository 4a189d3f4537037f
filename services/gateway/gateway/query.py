"""The plain types of a request and its answer. No library but numpy.

What each request makes is a named tuple: a frozen dataclass takes three times as long to make.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from definitions.assembly import RequestContext
from definitions.candidates import NOTHING
from definitions.serving_rules import ServingRules

from gateway.errors import InvalidRequest

if TYPE_CHECKING:  # which has these types itself
    from gateway.model import ActiveModel

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_ITEMS: Final = 2_000  # ids in one request, candidates in one ranking
DEFAULT_LIMIT: Final = 10  # of Recommend


class Rung(Enum):
    """What produced an answer, best first. The value is the word in metrics and the CLI."""

    MODEL = "MODEL"
    LOCAL_MODEL = "LOCAL_MODEL"
    PRECOMPUTED = "PRECOMPUTED"
    POPULAR = "POPULAR"


class Priority(IntEnum):
    """Who is shed first: the numbers of `millrace.ranking.v1.Priority`, unspecified = INTERACTIVE."""

    INTERACTIVE = 1
    PREFETCH = 2
    BATCH = 3


class Query(NamedTuple):
    """One request. `item_ids` uint64 (n,) are the caller's to order; None asks us to find candidates."""

    user_id: int
    item_ids: Ids | None
    limit: int
    context: RequestContext
    exclude_ids: Ids = NOTHING
    session_id: int = 0
    time_us: int | None = None
    min_interactions_offset: int = 0
    priority: Priority = Priority.INTERACTIVE


class RowVersion(NamedTuple):
    """Which user row was read: its writer's epoch and 1 + the newest folded record of each topic."""

    epoch: int
    interactions_offset: int
    users_offset: int


class Stage(NamedTuple):
    """How long one step of a request took."""

    name: str
    micros: int


class Ranking(NamedTuple):
    """An answer. `item_ids` uint64 (k,), `scores` float32 (k,), `reasons` k words, best first."""

    request_id: int
    item_ids: Ids
    scores: Floats
    reasons: tuple[str, ...]
    rung: Rung
    model_name: str
    model_version: int
    arm: str
    feature_age_us: int
    row: RowVersion | None
    stages: tuple[Stage, ...]
    reason: str


class Shown(NamedTuple):
    """What an impression records: the answer and exactly what was known when it was made.

    `item_ids` uint64 (n,), `scores` and `propensities` float32 (n,), 0 where not shown, and `reasons` run over
    the n candidates, the shown first, in shown order. `features` float32 (n, F), `item_ints` int64 (n, I) and
    `rule_codes` uint32 (n, codes that `rules` read) are still in the order they were made in: candidate k has row
    `order[k]`. `user_ints` int64 (U,). `model`: whose graphs scored on the rungs with a model, and whose item
    vectors told what is alike; None before the first deploy. `unknown` bool (n,), candidates that the rung knew nothing
    of; None: it knew of all.
    """

    ranking: Ranking
    query: Query
    time_us: int
    deadline_ms: int
    item_ids: Ids
    scores: Floats
    reasons: tuple[str, ...]
    order: npt.NDArray[np.intp]
    propensities: Floats
    rule_codes: npt.NDArray[np.uint32]
    rules: ServingRules
    model: "ActiveModel | None"
    unknown: npt.NDArray[np.bool_] | None
    features: Floats
    user_ints: Ints
    item_ints: Ints
    item_markers: Mapping[int, int]
    layout_hash: int

    @property
    def size(self) -> int:
        """Bytes that this record keeps alive, roughly."""
        return int(self.features.nbytes + self.item_ints.nbytes + self.user_ints.nbytes + 64 * len(self.item_ids) + 512)


def validate(query: Query, *, allow_time: bool) -> None:
    """Refuse what cannot be answered.

    Raises:
        InvalidRequest: the message names the field and what would be right.
    """
    if query.item_ids is not None:
        _check_ids("item_ids", query.item_ids)
        if len(query.item_ids) == 0:
            raise InvalidRequest("item_ids: empty; name at least one item, or call Recommend")
    _check_ids("exclude_ids", query.exclude_ids)
    if query.item_ids is None and query.limit > MAX_ITEMS:
        raise InvalidRequest(f"limit: {query.limit}; at most {MAX_ITEMS}")
    if query.time_us is not None:
        if not allow_time:
            raise InvalidRequest(
                "context.time_us: a caller may not choose the time here; leave it out, "
                "or set MILLRACE_ALLOW_REQUEST_TIME (replay, tests, backtests)"
            )
        if not 0 < query.time_us < 2**62:
            raise InvalidRequest(f"context.time_us: {query.time_us}; microseconds since the epoch, more than 0")


def _check_ids(name: str, ids: Ids) -> None:
    if len(ids) > MAX_ITEMS:
        raise InvalidRequest(f"{name}: {len(ids)} ids; at most {MAX_ITEMS}")
    if np.count_nonzero(ids) < len(ids):
        index = int(np.flatnonzero(ids == 0)[0])
        raise InvalidRequest(f"{name}[{index}]: 0 means absent; send the item's id (millrace.ids.stable_id for text)")
