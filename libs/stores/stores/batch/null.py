"""The batch store that keeps nothing: there is no generation to read. Spares tests a stub."""

from collections.abc import Sequence

from stores.batch.interface import Pointer, Run, RunSummary, check_create
from stores.batch.rows import UserList
from stores.errors import UnknownRun


class NullBatchStore:
    """Complete: runs may be written to it, and are forgotten."""

    def ensure_schema(self) -> None:
        """Nothing to do."""

    def create_run(self, usecase: str, run_id: str, buckets: int, model_version: str) -> bool:  # noqa: ARG002
        """Always new."""
        check_create(run_id, buckets)
        return True

    def write_bucket(self, usecase: str, run_id: str, bucket: int, rows: Sequence[UserList]) -> None:
        """Forgotten."""

    def finished_buckets(self, usecase: str, run_id: str) -> set[int]:  # noqa: ARG002
        """None."""
        return set()

    def seal_run(self, usecase: str, run_id: str, agreement: float | None = None) -> RunSummary:  # noqa: ARG002
        """There is never a run to seal."""
        raise UnknownRun(f"{usecase} {run_id}: the null store keeps no runs")

    def flip(self, usecase: str, run_id: str) -> Pointer:
        """There is never a run to flip to."""
        raise UnknownRun(f"{usecase} {run_id}: the null store keeps no runs")

    def pointer(self, usecase: str) -> Pointer | None:  # noqa: ARG002
        """Never flipped."""
        return None

    def read(self, usecase: str, run_id: str, user_id: int) -> UserList | None:  # noqa: ARG002
        """There is never a run to read."""
        raise UnknownRun(f"{usecase} {run_id}: the null store keeps no runs")

    def run(self, usecase: str, run_id: str) -> Run | None:  # noqa: ARG002
        """None."""
        return None

    def runs(self, usecase: str) -> list[Run]:  # noqa: ARG002
        """None."""
        return []

    def drop_run(self, usecase: str, run_id: str) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
