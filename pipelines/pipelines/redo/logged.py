"""Decisions as the lake has them: what was known, what was scored, what was shown."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.assignment import INTERLEAVED
from definitions.layout import Layout
from definitions.rules import Rules
from millrace.events.v1 import events_pb2 as pb
from stores.offline import Lake

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SHADOW = "shadow:"  # the arm of what was scored and never shown
BY_MODEL = frozenset({pb.RUNG_MODEL, pb.RUNG_LOCAL_MODEL})
_PLACE = ("log_id", "partition", "offset")


@dataclass(frozen=True, eq=False)
class Decision:
    """One logged answer of n candidates, in the logged order: the list first, then the others by score.

    `item_ids` uint64 (n,); `scores`, `propensities` float32 (n,); `unknown` bool (n,), what its rung knew nothing of;
    `reasons`: where each candidate came from. `candidates`: how many were ranked, more than n where only the list is
    logged, 0 where the record does not say. `features`, `ints`, `rule_codes`: as they were logged.
    """

    request_id: int
    user_id: int
    time_us: int
    arm: str
    rung: int
    model_name: str
    model_version: int
    digest: str
    layout_hash: int
    rules: str
    shown: int
    candidates: int
    item_ids: Ids
    scores: Floats
    propensities: Floats
    unknown: Mask | None
    reasons: tuple[str, ...]
    features: bytes
    ints: bytes
    rule_codes: bytes

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """Of a row of `impressions`."""
        ids = np.array(row["item_ids"], np.uint64)
        unknown = np.array(row["unknown"], np.bool_)
        return cls(
            request_id=row["request_id"],
            user_id=row["user_id"],
            time_us=row["time_us"],
            arm=row["arm"],
            rung=row["rung"],
            model_name=row["model_name"],
            model_version=row["model_version"],
            digest=row["model_digest"],
            layout_hash=row["layout_hash"],
            rules=row["rules"],
            shown=sum(position > 0 for position in row["positions"]),
            candidates=row["candidates"],
            item_ids=ids,
            scores=np.array(row["scores"], np.float32),
            propensities=np.array(row["propensities"], np.float32),
            unknown=unknown if len(unknown) else None,
            reasons=tuple(row["reasons"]),
            features=row["features"],
            ints=row["int_features"],
            rule_codes=row["rule_codes"],
        )

    @property
    def has_all(self) -> bool:
        """Whether all candidates are logged, not the list alone."""
        return self.candidates == len(self.item_ids)

    @property
    def heads(self) -> Mapping[str, float]:
        """What its rules say of a model's heads. UseCaseError if they are damaged."""
        return Rules.parse(self.rules).heads if self.rules else {}

    @property
    def interleaved(self) -> bool:
        """Whether an interleaved experiment has it: nothing is explored then."""
        return f"={INTERLEAVED}" in self.arm

    @property
    def drafted(self) -> bool:
        """Whether two rankings drafted the list; else the other one did not answer in time."""
        return self.interleaved and any("@" in reason for reason in self.reasons[: self.shown])

    def inputs(self, layout: Layout) -> tuple[Floats, Ints, Ints] | None:
        """Features float32 (n, F), user ints int64 (Ku,), item ints int64 (n, Ki); None if the bytes are not that."""
        n, width, users = len(self.item_ids), len(layout.feature_names), len(layout.user_int_names)
        items = len(layout.item_int_names)
        if len(self.features) != 4 * n * width or len(self.ints) != 8 * (users + n * items):
            return None
        features = np.frombuffer(self.features, "<f4").reshape(n, width)
        ints = np.frombuffer(self.ints, "<i8")
        return features, ints[:users], ints[users:].reshape(n, items)


def newest(lake: Lake, last: int) -> list[Decision]:
    """The last so many answers by the log's clock, newest first."""
    keys = lake.scan("impressions").filter(~pl.col("arm").str.starts_with(SHADOW))
    order = ("timestamp_us", "partition", "offset")
    found = keys.select("request_id", "timestamp_us", *_PLACE).collect()
    chosen = found.sort(*order, descending=True).unique("request_id", keep="first", maintain_order=True).head(last)
    rows = lake.scan("impressions").join(chosen.lazy(), on=list(_PLACE), how="semi").collect()
    return [Decision.of(row) for row in rows.sort(*order, descending=True).iter_rows(named=True)]


def named(lake: Lake, request_ids: Collection[int]) -> dict[int, Decision]:
    """The answers of these requests; one that is not there is left out. A record that came twice is there once."""
    wanted = pl.Series("request_id", sorted(request_ids), pl.UInt64)
    rows = lake.scan("impressions").filter(
        pl.col("request_id").is_in(wanted.implode()) & ~pl.col("arm").str.starts_with(SHADOW)
    )
    return {row["request_id"]: Decision.of(row) for row in rows.sort(*_PLACE).collect().iter_rows(named=True)}
