"""How a user's values are read from a packed row, as arrays that a compiled kernel walks."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from definitions.layout import Layout
from definitions.plan import BLOCK
from definitions.program import Plan, plan_of
from definitions.reads import Floats, Ints, columns_of, or_none, rows_of, scales_of


class UserReads(NamedTuple):
    """Rows of numbers, one for each thing that is read; what each holds stands beside it.

    Of `decayed` and `windows`, `scales` are (scale, prior mean, prior weight). `past_at` int64 (histories + 1,): where
    each history begins among all of them. `room`: categories of one table, those of the block included.
    """

    plan: Plan
    actions: int
    sums: Ints  # measure, window_us, tile column, hop_us
    windows: Ints  # position, numerator's sum, denominator's, ttl_us
    window_scales: Floats
    decayed: Ints  # position, numerator's decay, denominator's, ttl_us
    decayed_scales: Floats
    recencies: Ints  # position, recency, cap_us, ttl_us
    numbers: Ints  # position, number
    defaults: Floats
    history_ints: Ints  # history, first place among the user ints, k
    code_ints: Ints  # first place among the user ints, first code, codes
    past_at: Ints
    room: int


@lru_cache(maxsize=64)
def user_reads(layout: Layout) -> UserReads:
    """The arrays of a layout."""
    side = layout.user
    return UserReads(
        plan=plan_of(layout, side),
        actions=len(layout.usecase.actions),
        sums=rows_of(4, ((s.measure, or_none(s.window_us), s.tile_column, s.hop_us) for s in side.sums)),
        windows=columns_of(side.window_columns),
        window_scales=scales_of(side.window_columns),
        decayed=columns_of(side.decayed_columns),
        decayed_scales=scales_of(side.decayed_columns),
        recencies=rows_of(4, ((r.position, r.recency, r.cap_us, or_none(r.ttl_us)) for r in side.recency_columns)),
        numbers=rows_of(2, ((n.position, n.number) for n in side.number_columns)),
        defaults=np.array([number.default for number in side.number_columns], np.float64),
        history_ints=rows_of(3, ((h.history, h.start, h.k) for h in layout.history_ints)),
        code_ints=rows_of(3, ((c.start, c.codes.start, c.codes.width) for c in layout.user_code_ints)),
        past_at=np.cumsum([0, *(history.k for history in side.histories)], dtype=np.int64),
        room=max((table.k for table in side.tables), default=0) + BLOCK,
    )
