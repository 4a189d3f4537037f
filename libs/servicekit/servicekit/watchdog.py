"""Notices a reader that stands still although the log goes on (dpkp/kafka-python#3131)."""

from collections.abc import Callable, Hashable, Mapping
from typing import Final, TypeVar

from servicekit.errors import Stalled

QUIET_S: Final = 10.0
STRIKES: Final = 3

Place = TypeVar("Place", bound=Hashable)


class Watchdog:
    """Compares positions with the log's ends, but only where nothing has moved for `quiet_s`."""

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._seen: dict[Hashable, tuple[int, float]] = {}  # position, and since when
        self._strikes: dict[Hashable, int] = {}

    def stalled(
        self, now_s: float, positions: Mapping[Place, int], ends: Callable[[], Mapping[Place, int] | None]
    ) -> list[Place]:
        """The places to assign again.

        Args:
            now_s: monotonic time.
            positions: next offset by place.
            ends: asks the log for its ends; called only if something is quiet; None where the log does not answer.

        Raises:
            Stalled: a place was assigned again twice and still stands.
        """
        quiet = []
        for place, position in positions.items():
            known = self._seen.get(place)
            if known is None or known[0] != position:
                self._seen[place] = (position, now_s)
                self._strikes.pop(place, None)
            elif now_s - known[1] >= self._quiet_s:
                quiet.append(place)
        if not quiet or (ends_now := ends()) is None:
            return []
        found = []
        for place in quiet:
            self._seen[place] = (positions[place], now_s)  # ask again only after another quiet spell
            if ends_now[place] <= positions[place]:
                self._strikes.pop(place, None)
                continue
            self._strikes[place] = self._strikes.get(place, 0) + 1
            if self._strikes[place] >= STRIKES:
                raise Stalled(
                    f"{place}: stands at {positions[place]} while the log ends at {ends_now[place]}, for the third time"
                )
            found.append(place)
        return found
