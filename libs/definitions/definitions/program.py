"""A side's plan as one array, which compiled kernels walk: what each action changes, and where it is kept.

An array of arrays would be passed on by its hundred parts. The constants below are places in it: of a number, or of the
place where a list begins. A list by action has actions + 1 places of its rows, then the rows; a condition without a
bound has the least int64 as its bound.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.layout import Layout
from definitions.memory import LINE, VECTOR
from definitions.plan import BLOCK, Selector, Side

Plan = npt.NDArray[np.int64]

_ALWAYS, _NEVER_POSITIVE = -(2**63), 2**63 - 1
_MOST_OF_A_CLASS: Final = 62  # columns whose presence one word holds

# The words of a key's head; what varies follows, from `AT_CELLS` on.
ID, NEWEST, INTERACTIONS, USERS, FLAGS, ACTIVE, FIXED = range(7)
ERASED, IS_DIRTY = 1, 2  # of FLAGS
MOMENT: Final = 4  # words of an event: time, item, value, action | category << 32
ENTRY: Final = 4  # of a table's entry: category, all, positive, time
CELL: Final = 2  # of a tile's cell before its sums: index, mask of the columns present

HASH, HEAD_WORDS, EVENT_WORDS, SEEN_LAST = range(4)  # EVENT_WORDS: that folding one event may need at most
CLASSES, MEASURES, DECAYS, RECENCIES, HISTORIES, TABLES, NUMBERS, CODES = range(4, 12)  # how many
AT_CELLS, AT_BLOCK, AT_HISTORIES, AT_TABLES, AT_SEEN = range(12, 17)  # vectors in a head
AT_TOTALS, AT_DECAY_VALUES, AT_DECAY_TIMES, AT_RECENCIES, AT_TABLE_TOTALS, AT_TABLE_TIMES = range(17, 23)
AT_NUMBERS, AT_CODES, AT_END = range(23, 26)
HOPS, KEEPS, WIDTHS = range(26, 29)  # lists by tile class: hop, longest window, columns
KS, TABLE_KS, HALF_LIVES, TABLE_HALF_LIVES, IS_SEEN = range(29, 34)  # by history, table, decay, table, action
ADDS = 34  # by action: (measure, bound, is it a sum of values)
CELLS = 35  # by action * classes + class: (column of the class, bound, is it a sum)
FADES = 36  # by action: (decay, bound, is it a sum)
TIMES = 37  # by action: (recency, bound)
KEPT = 38  # by action: (history, bound)
RATES = 39  # by action: (table, bound, bound of positive ones)
COLUMNS = 40  # tile columns of all classes
_LISTS: Final = 41


def plan_of(layout: Layout, side: Side) -> Plan:
    """The array of a layout's user or item side."""
    for tiles in side.classes:
        if len(tiles.measures) > _MOST_OF_A_CLASS:
            raise ValueError(f"{len(tiles.measures)} columns of {tiles.hop_us} us tiles; at most {_MOST_OF_A_CLASS}")
    is_user = side is layout.user  # an item's attributes come with the item
    seen_last = layout.usecase.seen.last if is_user else 0
    numbers, codes = (len(side.numbers), side.code_width) if is_user else (0, 0)
    heads = np.cumsum([FIXED, *_head_sizes(side), numbers, codes]).tolist()
    largest = [
        *((CELL + len(c.measures)) * (c.keep_us // c.hop_us + 8) for c in side.classes),
        MOMENT * BLOCK,
        *(MOMENT * history.k for history in side.histories),
        *(ENTRY * table.k for table in side.tables),
        seen_last // 2 + 1,
    ]
    head_words = -(-heads[-1] // LINE) * LINE
    plan = [
        layout.layout_hash,
        head_words,
        head_words + 2 * sum(1 << _exponent(words) for words in largest),
        seen_last,
        len(side.classes),
        len(side.measures),
        len(side.decays),
        len(side.recencies),
        len(side.histories),
        len(side.tables),
        numbers,
        codes,
        *heads,
    ]
    actions = range(len(layout.usecase.actions))
    plan += [0] * (_LISTS - len(plan))
    plan[COLUMNS] = len(side.tile_columns)
    for at, values in (
        (HOPS, [tiles.hop_us for tiles in side.classes]),
        (KEEPS, [tiles.keep_us for tiles in side.classes]),
        (WIDTHS, [len(tiles.measures) for tiles in side.classes]),
        (KS, [history.k for history in side.histories]),
        (TABLE_KS, [table.k for table in side.tables]),
        (HALF_LIVES, [decay.half_life_us for decay in side.decays]),
        (TABLE_HALF_LIVES, [table.half_life_us for table in side.tables]),
        (IS_SEEN, [int(is_user and action in layout.seen_actions) for action in actions]),
    ):
        plan[at] = len(plan)
        plan += values
    for at, groups in _by_action(side, actions):
        plan[at] = len(plan)
        rows_at = len(plan) + len(groups) + 1
        plan += (rows_at + np.cumsum([0, *(sum(map(len, group)) for group in groups)])).tolist()
        plan += [number for group in groups for row in group for number in row]
    return np.array(plan, np.int64)


def _head_sizes(side: Side) -> Iterator[int]:
    """Words of the parts of a head, in the order of the `AT_` places."""
    yield VECTOR * len(side.classes)
    yield VECTOR
    yield VECTOR * len(side.histories)
    yield VECTOR * len(side.tables)
    yield VECTOR
    yield len(side.measures)
    yield len(side.decays)
    yield len(side.decays)
    yield len(side.recencies)
    yield len(side.tables)
    yield len(side.tables)


_Groups = Sequence[Sequence[tuple[int, ...]]]


def _by_action(side: Side, actions: range) -> Iterator[tuple[int, _Groups]]:
    """What an event of each action changes, if its value reaches the bound."""
    measures = side.measures
    yield (
        ADDS,
        [[(m, low, int(s.is_sum)) for m, s in enumerate(measures) for low in _bounds(s.selector, a)] for a in actions],
    )
    yield (
        CELLS,
        [
            [
                (place, low, int(measures[measure].is_sum))
                for place, measure in enumerate(tiles.measures)
                for low in _bounds(measures[measure].selector, action)
            ]
            for action in actions
            for tiles in side.classes
        ],
    )
    yield (
        FADES,
        [
            [(i, low, int(d.is_sum)) for i, d in enumerate(side.decays) for low in _bounds(d.selector, a)]
            for a in actions
        ],
    )
    yield TIMES, [[(i, low) for i, s in enumerate(side.recencies) for low in _bounds(s, a)] for a in actions]
    yield KEPT, [[(i, low) for i, h in enumerate(side.histories) for low in _bounds(h.selector, a)] for a in actions]
    yield (
        RATES,
        [
            [
                (i, low, next(_bounds(table.positive, action), _NEVER_POSITIVE))
                for i, table in enumerate(side.tables)
                for low in _bounds(table.selector, action)
            ]
            for action in actions
        ],
    )


def _bounds(selector: Selector, action: int) -> Iterator[int]:
    """The least value with which an event of the action counts; nothing if it never does."""
    return iter([_ALWAYS if low is None else low for code, low in selector if code == action])


def _exponent(words: int) -> int:
    return max(3, (words - 1).bit_length())
