"""Partial aggregates of items as columns: read from the log by the thousand, merged over partitions for those asked.

A row is one item's partial from one partition of origin. It is written once, before anything points to it, and never
changed; so readers go on while the next ones are written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from definitions.errors import CorruptRow, DefinitionsError, LayoutMismatch
from definitions.item_values import Gathered
from definitions.layout import Layout
from definitions.plan import FORMAT_VERSION
from definitions.tiles import NEVER, end_tile, first_tile, ring_length

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]

NONE: Final = 0  # the row of an item that a partition knows nothing of
_WORDS_AT: Final = 5  # of a packed partial: format u8, layout hash u32, then 64-bit words, the first the newest time
_FIRST_ROWS: Final = 1024
_FIRST_CELLS: Final = 8192
_SPAN_BITS: Final = 16  # of an extent: its first cell << 16 | number of tiles
_SPAN: Final = (1 << _SPAN_BITS) - 1
_GRAIN: Final = 2  # cells: sizes of extents are multiples of it, above 16 of an eighth of a power of two


@dataclass(frozen=True, eq=False, slots=True)
class _Read:
    """Packed partials that hold together: which of the contents (n,), their words (n, w), and their tiles, by partial,
    then column: of each cell its group (partial x class), measure's place, tile and sum.
    """

    which: Ints
    words: Ints
    group: Ints
    place: Ints
    tile: Ints
    total: Ints


class ItemPartials:
    """Rows of partials. One thread at a time may `write` and `free`; others may read rows that are not freed.

    Tiles of a class and measure lie as running sums over the tiles that the row has, a zero before them, so that a
    window is the difference of two cells.
    """

    def __init__(self, layout: Layout) -> None:
        side = layout.item
        self._layout, self._side = layout, side
        decays, classes = len(side.decays), len(side.classes)
        ends = np.cumsum([1, len(side.measures), decays, decays, len(side.recencies), classes, classes]).tolist()
        self._totals, self._values, self._times, self._recencies, self._oldest, self._extents = map(
            slice, ends, ends[1:]
        )
        self._packed_words: int = ends[4]
        self._kept = np.array([ring_length(tiles.keep_us, tiles.hop_us) for tiles in side.classes], np.int64)
        self._hops = np.array([tiles.hop_us for tiles in side.classes], np.int64)
        self._widths = np.array([len(tiles.measures) for tiles in side.classes], np.int64)
        self._class_of = np.repeat(np.arange(classes), self._widths)
        self._place_of = np.arange(len(self._class_of)) - np.repeat(
            np.cumsum(self._widths) - self._widths, self._widths
        )
        self._words = np.zeros((_FIRST_ROWS, ends[-1]), np.int64)
        self._words[NONE, 0] = NEVER
        self._words[NONE, self._times] = NEVER
        self._words[NONE, self._recencies] = NEVER
        self._used = NONE + 1
        self._free_rows = np.empty(0, np.int64)
        self._cells = np.zeros(_FIRST_CELLS, np.int64)  # the first ones stay zero: rows without tiles read them
        self._used_cells = _FIRST_CELLS // 8
        self._free_cells: dict[int, list[Ints]] = {}  # size of an extent -> first cells

    @property
    def nbytes(self) -> int:
        """Bytes given out, freed ones included."""
        return 8 * int(self._used * self._words.shape[1] + self._used_cells)

    def write(self, contents: Sequence[bytes]) -> tuple[Ints, dict[int, DefinitionsError]]:
        """Rows of packed partials, int64 (n,); and why some cannot be had, by index: LayoutMismatch or CorruptRow.

        The row of those is `NONE`.
        """
        rows, errors = np.full(len(contents), NONE, np.int64), dict[int, DefinitionsError]()
        read = self._read(contents, errors)
        if read is not None and len(read.which):
            words = np.zeros((len(read.which), self._words.shape[1]), np.int64)
            words[:, : self._packed_words] = read.words
            self._write_tiles(read, words)
            taken = self._new_rows(len(read.which))
            self._words[taken] = words
            rows[read.which] = taken
        return rows, errors

    def free(self, rows: Ints) -> None:
        """Rows that nothing points to any more; they are written anew."""
        rows = rows[rows != NONE]
        extents = self._words[rows, self._extents]
        sizes = _sizes(((extents & _SPAN) + 1) * self._widths)
        used = (extents & _SPAN) > 0
        for size in np.unique(sizes[used]).tolist():
            self._free_cells.setdefault(size, []).append((extents >> _SPAN_BITS)[used & (sizes == size)])
        self._free_rows = np.concatenate([self._free_rows, rows])

    def scores(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Popularity (n,): the label-weighted totals over all partitions. `rows` (n, partitions)."""
        scores = np.zeros(len(rows))
        for measure, weight in self._layout.popularity:
            column = self._words[:, self._totals][:, measure]
            scores += weight * column[rows].sum(axis=1)
        return scores

    def gather(self, rows: Rows, numbers: npt.NDArray[np.float64], time_us: int) -> Gathered:
        """Items at t from their partials. `rows` (n, partitions), partitions in order, as decayed sums must be added;
        `numbers` (n, number attributes).
        """
        words = self._words.take(rows, axis=0)
        newest_us = words[:, :, 0].max(axis=1)
        values, times = self._decays(words)
        return Gathered(
            newest_us=newest_us,
            totals=words[:, :, self._totals].sum(axis=1),
            decay_values=values,
            decay_times=times,
            recencies=words[:, :, self._recencies].max(axis=1),
            numbers=numbers,
            tiles=self._windows(words, newest_us, time_us),
        )

    def newest_us(self, rows: Rows) -> Ints:
        """Time of each item's newest event, (n,), 0 if it has none; `rows` as of `gather`."""
        return np.asarray(np.maximum(self._words.take(rows, axis=0)[:, :, 0].max(axis=1), 0))

    def _decays(self, words: Ints) -> tuple[npt.NDArray[np.float64], Ints]:
        """`kernel.decayed_add` of partition after partition: the newer value stays, the older one fades to its time."""
        values, times = words[:, 0, self._values].view(np.float64), words[:, 0, self._times]
        if not values.shape[1] or words.shape[1] == 1:
            return values, times
        half_lives = np.array([decay.half_life_us for decay in self._side.decays], np.float64)
        for partition in range(1, words.shape[1]):
            more, at = words[:, partition, self._values].view(np.float64), words[:, partition, self._times]
            newest = np.maximum(times, at)
            # A time that has not been has a value of 0: how that fades does not matter.
            values = values * _left(newest, times, half_lives) + more * _left(newest, at, half_lives)
            times = newest
        return values, times

    def _windows(self, words: Ints, newest_us: Ints, time_us: int) -> dict[tuple[int, int], Ints]:
        """(hop, window) -> sums (n, measures of the class), for each window that a feature reads."""
        found: dict[tuple[int, int], Ints] = {}
        for index, tiles in enumerate(self._side.classes):
            hop_us, measures = tiles.hop_us, np.arange(len(tiles.measures))
            oldest, extents = words[:, :, self._oldest][:, :, index], words[:, :, self._extents][:, :, index]
            starts, spans = extents >> _SPAN_BITS, extents & _SPAN
            steps = (spans + 1)[:, :, None] * measures
            steps += starts[:, :, None]
            # A partition that fell behind may have tiles which the whole item no longer keeps.
            kept = (newest_us // hop_us - self._kept[index] + 1)[:, None]

            def below(
                tile: int, oldest: Ints = oldest, spans: Ints = spans, steps: Ints = steps, kept: Ints = kept
            ) -> Ints:
                places = np.minimum(np.maximum(np.maximum(kept, tile) - oldest, 0), spans)
                total: Ints = self._cells.take(steps + places[:, :, None]).sum(axis=1)
                return total

            end = below(end_tile(time_us, hop_us))
            for window_us in self._side.windows_of(tiles):
                found[hop_us, window_us] = end - below(first_tile(time_us, window_us, hop_us))
        return found

    def _read(self, contents: Sequence[bytes], errors: dict[int, DefinitionsError]) -> _Read | None:
        columns = len(self._class_of)
        head = _WORDS_AT + 8 * self._packed_words + 2 * columns
        lengths = np.fromiter(map(len, contents), np.int64, len(contents))
        starts = np.cumsum(lengths) - lengths
        for index in np.flatnonzero(lengths < head).tolist():
            errors[index] = CorruptRow(f"item partial of {lengths[index]} bytes; its head alone has {head}")
        which = np.flatnonzero(lengths >= head)
        if not len(which):
            return None
        content = np.frombuffer(b"".join(contents), np.uint8)
        heads = content[starts[which, None] + np.arange(head)]
        version, layout_hash = heads[:, 0], heads[:, 1:_WORDS_AT].copy().view("<u4")[:, 0]
        cells = heads[:, head - 2 * columns :].copy().view("<u2").astype(np.int64).reshape(len(which), columns)
        ours = (version == FORMAT_VERSION) & (layout_hash == self._layout.layout_hash)
        adds_up = head + 16 * cells.sum(axis=1) == lengths[which]
        for index in np.flatnonzero(~ours | ~adds_up).tolist():
            errors[int(which[index])] = self._refused(int(version[index]), int(layout_hash[index]))
        good = np.flatnonzero(ours & adds_up)
        words = heads[good, _WORDS_AT : _WORDS_AT + 8 * self._packed_words].copy().view("<i8")
        return self._read_tiles(content, which[good], starts[which[good]] + head, words, cells[good], errors)

    def _refused(self, version: int, layout_hash: int) -> DefinitionsError:
        ours = self._layout.layout_hash
        if (version, layout_hash) != (FORMAT_VERSION, ours):
            return LayoutMismatch(
                f"item partial of format {version}, layout {layout_hash:08x}; this reader has {FORMAT_VERSION}, "
                f"{ours:08x}"
            )
        return CorruptRow("item partial whose lengths do not add up; rebuild the topic")

    def _read_tiles(
        self,
        content: npt.NDArray[np.uint8],
        which: Ints,
        starts: Ints,
        words: Ints,
        cells: Ints,
        errors: dict[int, DefinitionsError],
    ) -> _Read:
        n, columns = cells.shape
        lengths = cells.ravel()
        before = np.cumsum(cells, axis=1) - cells
        segments = (starts[:, None] + 16 * before).ravel()
        cell_of = np.repeat(np.arange(n * columns), lengths)
        at = segments[cell_of] + 8 * (np.arange(len(cell_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths))
        tile, total = _int64_at(content, at), _int64_at(content, at + 8 * lengths[cell_of])
        partial, column = np.divmod(cell_of, max(columns, 1))
        of = self._class_of[column]
        newest = words[partial, 0] // self._hops[of]
        bad = tile > newest  # no event is newer than the newest
        if bad.any():
            broken = np.unique(partial[bad])
            for index in which[broken].tolist():
                errors[index] = CorruptRow("item partial with a tile after its newest event; rebuild the topic")
            sound = np.ones(n, np.bool_)
            sound[broken] = False
            keep = sound[partial]
            partial = (np.cumsum(sound) - 1)[partial]
            which, words = which[sound], words[sound]
        else:
            keep = np.ones(len(tile), np.bool_)
        keep &= tile > newest - self._kept[of]  # older ones cannot be read, see `_windows`
        group = partial * len(self._kept) + of
        return _Read(which, words, group[keep], self._place_of[column][keep], tile[keep], total[keep])

    def _write_tiles(self, read: _Read, words: Ints) -> None:
        """Fill in the extents and oldest tiles of `words`."""
        classes = len(self._kept)
        if not len(read.group):
            return
        firsts = np.flatnonzero(np.diff(read.group, prepend=-1))  # cells lie by partial, then class
        groups = read.group[firsts]
        oldest = np.minimum.reduceat(read.tile, firsts)
        spans = np.maximum.reduceat(read.tile, firsts) - oldest + 1
        widths = self._widths[groups % classes]
        starts = self._new_extents((spans + 1) * widths)
        # Each measure's cells, a zero first, one after the other as they will lie; then their running sums.
        lengths = np.repeat(spans + 1, widths)
        ends = np.cumsum(lengths)
        first = (ends - lengths)[np.cumsum(widths) - widths]  # of each group
        of = np.repeat(np.arange(len(groups)), np.diff(firsts, append=len(read.group)))
        sums = np.zeros(int(ends[-1]), np.int64)
        sums[first[of] + read.place * (spans + 1)[of] + 1 + read.tile - oldest[of]] = read.total
        np.cumsum(sums, out=sums)
        sums -= np.repeat(sums[ends - lengths], lengths)
        sizes = (spans + 1) * widths
        self._cells[np.repeat(starts - first, sizes) + np.arange(len(sums))] = sums
        partial, of_class = np.divmod(groups, classes)
        words[:, self._oldest][partial, of_class] = oldest
        words[:, self._extents][partial, of_class] = starts << _SPAN_BITS | spans

    def _new_rows(self, n: int) -> Ints:
        again = self._free_rows[len(self._free_rows) - min(n, len(self._free_rows)) :]
        self._free_rows = self._free_rows[: len(self._free_rows) - len(again)]
        new = np.arange(self._used, self._used + n - len(again))
        self._used += len(new)
        if self._used > len(self._words):
            larger = np.zeros((max(self._used, len(self._words) * 3 // 2), self._words.shape[1]), np.int64)
            larger[: len(self._words)] = self._words
            self._words = larger
        return np.concatenate([again, new])

    def _new_extents(self, cells: Ints) -> Ints:
        """First cells of extents with room for so many, int64 (n,)."""
        sizes, starts = _sizes(cells), np.empty(len(cells), np.int64)
        for size in np.unique(sizes).tolist():
            which = np.flatnonzero(sizes == size)
            freed = np.concatenate([*self._free_cells.pop(size, ()), np.empty(0, np.int64)])
            again, left = freed[: len(which)], freed[len(which) :]
            if len(left):
                self._free_cells[size] = [left]
            new = self._used_cells + size * np.arange(len(which) - len(again))
            self._used_cells += size * len(new)
            starts[which] = np.concatenate([again, new])
        if self._used_cells > len(self._cells):
            larger = np.zeros(max(self._used_cells, len(self._cells) * 3 // 2), np.int64)
            larger[: len(self._cells)] = self._cells
            self._cells = larger
        return starts


def _sizes(cells: Ints) -> Ints:
    """Sizes of extents with room for `cells`: few different ones, so that freed extents fit again."""
    grain = np.maximum(_GRAIN, 1 << np.maximum(np.frexp(np.maximum(cells, 1) - 1)[1] - 3, 0).astype(np.int64))
    return np.asarray(-(-cells // grain) * grain)


def _left(newest_us: Ints, times: Ints, half_lives: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What is left at `newest_us` of weights at `times`, (n, decays)."""
    ages = newest_us - np.maximum(times, NEVER // 2)
    return np.asarray(np.exp2(-np.where(times == NEVER, 0, ages) / half_lives))


def _int64_at(content: npt.NDArray[np.uint8], at: Ints) -> Ints:
    """Little-endian int64 at byte places, aligned or not."""
    return content[at[:, None] + np.arange(8)].view("<i8")[:, 0] if len(at) else np.empty(0, np.int64)
