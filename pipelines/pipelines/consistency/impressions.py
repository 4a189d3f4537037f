"""Sampled impressions from the lake, and those that are recomputed together."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.layout import Layout
from stores.offline import Lake

from pipelines.consistency.facts import Facts, Ids, Ints

_CLOCKS_APART_US = 60 * 1_000_000  # time_us further from the log's clock was chosen by the caller (replay)


@dataclass(frozen=True, eq=False)
class Logged:
    """One impression: candidates uint64 (n,), `features` float32 (n, F), `user_ints` int64 (Ku,), `item_ints` int64
    (n, Ki), the offsets below which its inputs were known, and when by the log's clock (`seen_us`).
    """

    log_id: str
    request_id: int
    user_id: int
    time_us: int
    seen_us: int
    item_ids: Ids
    features: npt.NDArray[np.float32]
    user_ints: Ints
    item_ints: Ints
    interactions_offset: int
    users_offset: int
    markers: tuple[tuple[int, int], ...]
    context: tuple[int, int, int]

    @property
    def has_row(self) -> bool:
        """Whether a user row was read."""
        return bool(self.interactions_offset or self.users_offset)


def sample(
    lake: Lake, layout: Layout, most: int, seed: int, request_ids: Collection[int] | None = None
) -> tuple[list[Logged], dict[str, int]]:
    """At most so many impressions of this layout, drawn by request id, and how many were passed over, by reason.

    `request_ids`: of these requests alone.
    """
    rows = lake.scan("impressions").select("request_id", "layout_hash", "log_id", "partition", "offset")
    if request_ids is not None:
        rows = rows.filter(pl.col("request_id").is_in(pl.Series(sorted(request_ids), dtype=pl.UInt64).implode()))
    frame = rows.unique("request_id", keep="any").collect()  # a shadow's has the same inputs
    own = frame.filter(pl.col("layout_hash") == layout.layout_hash)
    skipped = Counter({"another layout": frame.height - own.height})
    drawn = own.sort(pl.col("request_id").hash(seed), "request_id").head(most)
    whole = lake.scan("impressions").join(drawn.lazy(), on=["log_id", "partition", "offset"], how="semi").collect()
    found = []
    for row in whole.iter_rows(named=True):
        logged = _logged(row, layout)
        if logged is None:
            skipped["logged without features"] += 1
        else:
            found.append(logged)
    return found, {reason: count for reason, count in skipped.items() if count}


def _logged(row: dict[str, object], layout: Layout) -> Logged | None:
    ids = np.array(row["item_ids"], np.uint64)
    n, width, user_width = len(ids), len(layout.feature_names), len(layout.user_int_names)
    features = np.frombuffer(row["features"], "<f4")  # type: ignore[call-overload]
    ints = np.frombuffer(row["int_features"], "<i8")  # type: ignore[call-overload]
    if not n or len(features) != n * width or len(ints) != user_width + n * len(layout.item_int_names):
        return None
    time_us, arrived_us = int(row["time_us"]), int(row["timestamp_us"])  # type: ignore[call-overload]
    is_clock = 0 <= arrived_us - time_us < _CLOCKS_APART_US
    return Logged(
        log_id=str(row["log_id"]),
        request_id=int(row["request_id"]),  # type: ignore[call-overload]
        user_id=int(row["user_id"]),  # type: ignore[call-overload]
        time_us=time_us,
        seen_us=time_us if is_clock else arrived_us,
        item_ids=ids,
        features=features.reshape(n, width),
        user_ints=ints[:user_width],
        item_ints=ints[user_width:].reshape(n, len(layout.item_int_names)),
        interactions_offset=int(row["row_interactions_offset"]),  # type: ignore[call-overload]
        users_offset=int(row["row_users_offset"]),  # type: ignore[call-overload]
        markers=tuple(sorted(zip(row["marker_partitions"], row["marker_offsets"], strict=True))),  # type: ignore[call-overload]
        context=(int(row["device"]), int(row["surface"]), int(row["country"])),  # type: ignore[call-overload]
    )


def is_archived(logged: Logged, facts: Facts, positions: dict[int, int]) -> bool:
    """Whether the lake has every fact that the impression's inputs were made of; `positions` by partition."""
    if any(positions.get(partition, 0) < offset for partition, offset in logged.markers):
        return False
    if not logged.interactions_offset:
        return True
    theirs = facts.by_user.of(logged.user_id)  # a user's events lie in one partition
    partitions = facts.events.partition[theirs]
    return bool(len(theirs)) and positions.get(int(partitions[0]), 0) >= logged.interactions_offset


def groups(sampled: Sequence[Logged]) -> list[list[Logged]]:
    """Impressions that one recomputation serves: the same item markers, and each user at one pair of offsets."""
    found: dict[tuple[object, ...], list[tuple[dict[int, tuple[int, int]], list[Logged]]]] = {}
    for logged in sampled:
        layers = found.setdefault((logged.log_id, logged.markers), [])
        offsets = (logged.interactions_offset, logged.users_offset)
        for users, members in layers:
            if users.setdefault(logged.user_id, offsets) == offsets:
                members.append(logged)
                break
        else:
            layers.append(({logged.user_id: offsets}, [logged]))
    return [members for layers in found.values() for _, members in layers]
