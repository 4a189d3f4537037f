"""The online store that keeps nothing: every read is "missing". Spares tests a stub."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from stores.online.guard import version_of


class NullStore:
    """Complete: it judges rows as the others do, and forgets them."""

    def write(self, rows: Mapping[int, bytes]) -> int:
        """All valid rows win: there is never an older one."""
        for row in rows.values():
            version_of(row)
        return len(rows)

    def read(self, user_id: int) -> bytes | None:  # noqa: ARG002  the interface's
        """Always missing."""
        return None

    def read_many(self, user_ids: Iterable[int]) -> dict[int, bytes]:  # noqa: ARG002  the interface's
        """Always missing."""
        return {}

    def all_ids(self) -> npt.NDArray[np.uint64]:
        """None."""
        return np.empty(0, np.uint64)

    def identity(self) -> str:
        """Always the same: there is nothing that could be lost."""
        return "null"

    def clear(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
