"""Log and wait: what was shown, with the very features that the model scored, as columns from the lake."""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from definitions.layout import Layout
from stores.offline import Lake

from pipelines.training.candidates import NONE, Candidates, Codes, Ids, Ints, Mask

Column = TypeVar("Column", bound=np.generic)

_OF_REQUEST: Final = ("request_id", "user_id", "time_us", "device", "surface", "country")


@dataclass(frozen=True, eq=False)
class Shown:
    """m items that were shown in answer to requests, in log order; each request once.

    user_id, item_id, request_id uint64; time_us int64, when the features were evaluated; device, surface, country
    uint32. `features` float32 (k, F), `user_ints` int64 (k, Ku), `item_ints` int64 (k, Ki): of the rows whose `place`
    int64 (m,) is not NONE; the others were served under another layout, or by a rung without features.
    """

    user_id: Ids
    item_id: Ids
    request_id: Ids
    time_us: Ints
    device: Codes
    surface: Codes
    country: Codes
    place: Ints
    features: npt.NDArray[np.float32]
    user_ints: Ints
    item_ints: Ints

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def candidates(self) -> Candidates:
        """Each a candidate, at the time of its features."""
        m = len(self)
        return Candidates(
            self.user_id, self.item_id, self.request_id, self.time_us, self.device, self.surface, self.country,
            event=np.full(m, NONE, np.int64), shown=self.place, sampled=np.zeros(m, bool),
        )  # fmt: skip

    def answered_by(self, events: Candidates) -> Candidates:
        """Candidates that are events, at the time and with the features of what they answer: the item they are about in
        the request that they name. An organic event stays as it is.
        """
        shown = pl.DataFrame({"request": self.request_id, "item": self.item_id}).with_row_index("row")
        asked = pl.DataFrame({"request": events.request_id, "item": events.item_id})
        joined = asked.join(
            shown.filter(pl.col("request") != 0).unique(["request", "item"], keep="first", maintain_order=True),
            on=["request", "item"], how="left", maintain_order="left",
        )  # fmt: skip
        row = joined["row"].cast(pl.Int64).fill_null(NONE).to_numpy()
        hit = row != NONE

        def of(own: npt.NDArray[Column], theirs: npt.NDArray[Column]) -> npt.NDArray[Column]:
            out = own.copy()
            out[hit] = theirs[row[hit]]
            return out

        return Candidates(
            events.user_id, events.item_id, events.request_id, of(events.time_us, self.time_us),
            of(events.device, self.device), of(events.surface, self.surface), of(events.country, self.country),
            event=events.event, shown=of(events.shown, self.place), sampled=events.sampled,
        )  # fmt: skip


def shown_items(lake: Lake, layout: Layout) -> Shown:
    """Every shown item of the lake's impressions, with the features that were logged under this layout.

    Raises:
        StoreUnavailable: the lake cannot be read.
    """
    frame = _impressions(lake)
    sizes = frame["item_ids"].list.len().cast(pl.Int64).to_numpy()
    is_logged, features, user_ints, item_ints = _decoded(frame, sizes, layout)
    request = np.repeat(np.arange(frame.height), sizes)
    is_shown = (frame["positions"].explode() > 0).to_numpy()
    has_features = is_logged[request]
    used = is_shown[has_features]  # of the decoded rows
    place = np.full(len(request), NONE, np.int64)
    place[is_shown & has_features] = np.arange(used.sum())
    asked = request[is_shown]
    return Shown(
        item_id=frame["item_ids"].explode().to_numpy()[is_shown],
        place=place[is_shown],
        features=features[used],
        user_ints=user_ints[used],
        item_ints=item_ints[used],
        **{name: frame[name].to_numpy()[asked] for name in _OF_REQUEST},
    )


def _impressions(lake: Lake) -> pl.DataFrame:
    """One row a request: the first record of it, should it be on the log again."""
    columns = (*_OF_REQUEST, "item_ids", "positions", "features", "int_features", "layout_hash")
    order = ("timestamp_us", "log_id", "partition", "offset")
    frame = lake.scan("impressions").filter(~pl.col("arm").str.starts_with("shadow:")).select(*columns, *order)
    is_whole = (pl.col("item_ids").list.len() > 0) & (pl.col("item_ids").list.len() == pl.col("positions").list.len())
    return frame.filter(is_whole).sort(order).unique("request_id", keep="first", maintain_order=True).collect()


def _decoded(frame: pl.DataFrame, sizes: Ints, layout: Layout) -> tuple[Mask, npt.NDArray[np.float32], Ints, Ints]:
    """Which requests were logged under the layout, and of all their candidates features, user ints, item ints."""
    width, of_user, of_item = (
        len(names) for names in (layout.feature_names, layout.user_int_names, layout.item_int_names)
    )
    is_logged = (
        (frame["layout_hash"].to_numpy() == layout.layout_hash)
        & (frame["features"].bin.size().to_numpy() == 4 * sizes * width)
        & (frame["int_features"].bin.size().to_numpy() == 8 * (of_user + sizes * of_item))
    )
    logged, sizes = frame.filter(is_logged), sizes[is_logged]
    n = int(sizes.sum())
    features = np.frombuffer(b"".join(logged["features"]), "<f4").reshape(n, width)
    ints = np.frombuffer(b"".join(logged["int_features"]), "<i8")
    starts = np.cumsum(np.r_[0, of_user + sizes * of_item])[:-1]
    users = starts[:, None] + np.arange(of_user)  # a request's user ints, then its candidates'
    is_item = np.ones(len(ints), bool)
    is_item[users] = False
    user_ints = ints[users][np.repeat(np.arange(len(sizes)), sizes)]
    return is_logged, features, user_ints, ints[is_item].reshape(n, of_item)
