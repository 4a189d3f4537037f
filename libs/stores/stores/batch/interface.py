"""The batch store: nightly lists in immutable generations, verified, then flipped by one row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from stores.batch.rows import UserList, bucket_of, run_time_us
from stores.errors import RunConflict, UnknownRun, VerificationFailed

State = Literal["loading", "sealed", "dropping"]


@dataclass(frozen=True)
class Run:
    """A generation. `users`, `rows` and `checksum` are 0 until it is sealed."""

    run_id: str
    state: State
    buckets: int
    model_version: str
    created_at_us: int
    users: int = 0
    rows: int = 0
    checksum: int = 0
    agreement: float | None = None


@dataclass(frozen=True)
class RunSummary:
    """What a sealed run holds: `users` written, `rows` read back (equal), `checksum` of the rows read back (u64)."""

    users: int
    rows: int
    checksum: int


@dataclass(frozen=True)
class Pointer:
    """The generation that readers see, and the one that a rollback returns to."""

    run_id: str
    previous_run_id: str | None
    flipped_at_us: int


class BatchStore(Protocol):
    """Nightly lists of all use cases. Safe to use from several threads; processes may share a store.

    Every method raises StoreUnavailable (StoreTimeout for a missed deadline). Every write may be repeated: the same
    run written again changes nothing. ValueError for what is no run id (`rows.new_run_id` makes them).
    """

    def ensure_schema(self) -> None:
        """Create the tables that are missing."""
        ...

    def create_run(self, usecase: str, run_id: str, buckets: int, model_version: str) -> bool:
        """Begin a run, in the state `loading`. True for the one caller that created it, False if it is there already.

        Raises:
            RunConflict: it is there with other parameters.
        """
        ...

    def write_bucket(self, usecase: str, run_id: str, bucket: int, rows: Sequence[UserList]) -> None:
        """Write all lists of one bucket, which may be none, then mark it finished.

        Raises:
            UnknownRun: no such run.
            RunConflict: the run takes no more rows.
            ValueError: the bucket is not the run's, a user belongs to another bucket, or is there twice.
        """
        ...

    def finished_buckets(self, usecase: str, run_id: str) -> set[int]:
        """Buckets that need not be written again."""
        ...

    def seal_run(self, usecase: str, run_id: str, agreement: float | None = None) -> RunSummary:
        """Read every bucket back, compare count and checksum with what was written, and let the run be served.

        `agreement` is the share of the lists that online scoring confirms. Sealing again verifies again.

        Raises:
            UnknownRun: no such run.
            VerificationFailed: buckets are missing or differ; the message names them. The state stays.
        """
        ...

    def flip(self, usecase: str, run_id: str) -> Pointer:
        """Show this generation to readers, in one step. To the current one: no change. Backwards is a rollback.

        Raises:
            UnknownRun: no such run, or it is not sealed.
            PointerMoved: another process flipped meanwhile.
        """
        ...

    def pointer(self, usecase: str) -> Pointer | None:
        """What readers see; None before the first flip."""
        ...

    def read(self, usecase: str, run_id: str, user_id: int) -> UserList | None:
        """One user's list in that generation; None if it has none. Bounded by the store's read timeout.

        Raises:
            UnknownRun: no such run.
        """
        ...

    def run(self, usecase: str, run_id: str) -> Run | None:
        """One run; None if there is none."""
        ...

    def runs(self, usecase: str) -> list[Run]:
        """All runs, newest first."""
        ...

    def drop_run(self, usecase: str, run_id: str) -> None:
        """Remove a generation with its rows; one that is not there is no error. Its id can never be used again.

        Raises:
            RunConflict: the pointer names it, as current or as previous.
        """
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...


@dataclass(frozen=True)
class Mark:
    """What a finished bucket must read back as."""

    users: int
    checksum: int


def check_create(run_id: str, buckets: int) -> None:
    """ValueError for parameters that no store takes."""
    run_time_us(run_id)
    if not 0 < buckets < 2**31:
        raise ValueError(f"buckets: {buckets}; want 1 to 2**31 - 1")


def check_same(existing: Run | None, usecase: str, run_id: str, buckets: int, model_version: str) -> None:
    """RunConflict if a run that is there already was created for something else."""
    if existing is not None and (existing.buckets, existing.model_version) != (buckets, model_version):
        raise RunConflict(
            f"{usecase} {run_id}: exists with {existing.buckets} buckets of {existing.model_version}, "
            f"not {buckets} of {model_version}; name the new run differently"
        )


def check_write(run: Run, bucket: int, rows: Sequence[UserList]) -> None:
    """RunConflict or ValueError for rows that do not belong into this bucket of this run."""
    if run.state != "loading":
        raise RunConflict(f"{run.run_id}: is {run.state} and takes no more rows")
    if not 0 <= bucket < run.buckets:
        raise ValueError(f"bucket: {bucket}; the run has {run.buckets}")
    if wrong := [row.user_id for row in rows if bucket_of(row.user_id, run.buckets) != bucket]:
        raise ValueError(f"bucket {bucket}: user {wrong[0]} belongs to {bucket_of(wrong[0], run.buckets)}")
    if len({row.user_id for row in rows}) != len(rows):
        raise ValueError(f"bucket {bucket}: a user is there twice")


def check_drop(pointer: Pointer | None, usecase: str, run_id: str) -> None:
    """RunConflict if readers may be led to this run."""
    if pointer is not None and run_id in (pointer.run_id, pointer.previous_run_id):
        raise RunConflict(f"{usecase} {run_id}: the pointer names it; flip twice before it is dropped")


def known(run: Run | None, usecase: str, run_id: str) -> Run:
    """The run, or UnknownRun."""
    if run is None:
        raise UnknownRun(f"{usecase} {run_id}: no such run")
    return run


def verified(run: Run, marks: dict[int, Mark], found: dict[int, Mark]) -> RunSummary:
    """The sum of what was read back. VerificationFailed if it is not what was marked, bucket by bucket."""
    if missing := sorted(set(range(run.buckets)) - marks.keys()):
        raise VerificationFailed(f"{run.run_id}: {len(missing)} of {run.buckets} buckets not written: {missing[:5]}")
    if wrong := [bucket for bucket in sorted(marks) if found[bucket] != marks[bucket]]:
        first = wrong[0]
        raise VerificationFailed(
            f"{run.run_id}: {len(wrong)} buckets read back differently: {wrong[:5]}; bucket {first} has "
            f"{found[first].users} rows, {marks[first].users} were written"
        )
    users, rows = (sum(mark.users for mark in side.values()) for side in (marks, found))
    return RunSummary(users, rows, sum(mark.checksum for mark in found.values()) & (2**64 - 1))
