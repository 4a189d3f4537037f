"""The online store that keeps nothing: every read is "missing". Spares tests a stub."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from stores.online.guard import check_rows
from stores.online.interface import Bounds, Bytes, Ids, row_columns


class NullStore:
    """Complete: it judges rows as the others do, and forgets them."""

    def write_rows(self, ids: Ids, bounds: Bounds, data: Bytes) -> int:  # noqa: ARG002  the interface's
        """All valid rows win: there is never an older one."""
        check_rows(bounds)
        return len(ids)

    def write(self, rows: Mapping[int, bytes]) -> int:
        """As `write_rows`."""
        return self.write_rows(*row_columns(rows))

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
