"""Counts what the log took against what the lake holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from stores.offline import Lake


@dataclass(frozen=True, slots=True)
class Archived:
    """Log records of a span of offsets in the lake: `rows`, and how many places (partition, offset) they fill."""

    rows: int
    places: int

    @property
    def duplicates(self) -> int:
        """Rows whose place is there twice."""
        return self.rows - self.places


def archived_since(lake: Lake, log_id: str, first_offsets: Mapping[int, int]) -> Archived:
    """What the lake holds of `log_id`'s interactions from `first_offsets` (partition -> offset) on."""
    frame = lake.scan("interactions").filter(pl.col("log_id") == log_id).select("partition", "offset").collect()
    begins = pl.DataFrame(
        {"partition": list(first_offsets), "begin": list(first_offsets.values())},
        schema={"partition": frame.schema["partition"], "begin": frame.schema["offset"]},
    )
    span = frame.join(begins, on="partition").filter(pl.col("offset") >= pl.col("begin"))
    return Archived(span.height, span.unique(["partition", "offset"]).height)
