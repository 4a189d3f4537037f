"""Feast's offline store over the lake: point-in-time by our backfill, one row out for each row in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from definitions.backfill import Backfilled, Queries, backfill
from definitions.layout import Layout
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from stores.offline import Lake

from pipelines.feast.errors import NotHereError, NotReadableError
from pipelines.feast.ids import columns_from_feast
from pipelines.feast.opened import Opened
from pipelines.feast.views import ITEM, USER, Column, View
from pipelines.training.examples import Log

_NOT_STORED: Final = (
    "values are computed when they are read, and online rows are kept by the features service: nothing is "
    "materialized; use get_online_features, or get_historical_features with an entity_df"
)
Keys = tuple[str, str]
"""Columns of the entity frame that hold user and item ids."""


class MillraceOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # Feast has no environment with types
    """`offline_store` of `feature_store.yaml`, as `millrace feast apply` writes it. `lake`: folder or URI."""

    type: Literal["pipelines.feast.offline.MillraceOfflineStore"] = "pipelines.feast.offline.MillraceOfflineStore"
    usecase: str
    revision: int = 1
    lake: str


class HistoricalFeatures(RetrievalJob):  # type: ignore[misc]
    """Computed when it is asked for."""

    def __init__(
        self,
        compute: Callable[[], pa.Table],
        metadata: RetrievalMetadata,
        on_demand: list[OnDemandFeatureView],
        *,
        full_feature_names: bool,
    ) -> None:
        self._compute = compute
        self._metadata = metadata
        self._on_demand = on_demand
        self._full_feature_names = full_feature_names

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        del timeout  # it is one computation
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    @property
    def full_feature_names(self) -> bool:
        """Whether columns carry their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that other teams compute from ours."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked."""
        return self._metadata


class MillraceOfflineStore(OfflineStore):  # type: ignore[misc]
    """Only events strictly before a row's time count; windows, priors and expiry are those of the online values."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: Sequence[FeatureView],
        feature_refs: Sequence[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """The entity frame with a column more for each feature: the same rows, in the same order.

        Raises:
            NotReadableError: the frame is none, or lacks a key or a time, or a view is not of this layout.
            NotHereError: a range of time instead of rows.
        """
        if kwargs.get("start_date") is not None or kwargs.get("end_date") is not None or entity_df is None:
            raise NotHereError("start_date, end_date: give entity_df, the rows and times to compute features for")
        if not isinstance(entity_df, pd.DataFrame):
            raise NotReadableError("entity_df: must be a pandas DataFrame; there is no SQL engine behind this store")
        store = config.offline_store
        opened = Opened.of(config.repo_path, store.usecase, store.revision)
        time_column = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        time_us = _times(entity_df, time_column)
        wanted = [(view, opened.view(view.name, view.tags), _asked(view, feature_refs)) for view in feature_views]

        def compute() -> pa.Table:
            lake = Lake(store.lake, opened.layout.usecase.name)
            log = Log.of_lake(lake, opened.layout.usecase.dedupe_offsets)
            return _filled(opened.layout, log, entity_df, time_us, wanted, full_feature_names=full_feature_names)

        return HistoricalFeatures(
            compute,
            RetrievalMetadata(
                features=list(feature_refs),
                keys=sorted({_key_column(view, key) for view, ours, _ in wanted for key in ours.keys}),
                min_event_timestamp=entity_df[time_column].min(),
                max_event_timestamp=entity_df[time_column].max(),
            ),
            OnDemandFeatureView.get_requested_odfvs(list(feature_refs), project, registry),
            full_feature_names=full_feature_names,
        )

    @staticmethod
    def pull_latest_from_table_or_query(*args: Any, **kwargs: Any) -> NoReturn:
        """Refused, as the next."""
        del args, kwargs
        raise NotHereError(_NOT_STORED)

    @staticmethod
    def pull_all_from_table_or_query(*args: Any, **kwargs: Any) -> NoReturn:
        """Refused: this is how Feast materializes, and there is nothing to copy."""
        del args, kwargs
        raise NotHereError(_NOT_STORED)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> NoReturn:
        """Refused: the lake is the log's copy."""
        del config, table, progress
        raise NotHereError(f"{feature_view.name}: only the archiver writes the lake; push with PushMode.ONLINE")

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Nothing: tables appear with the first event."""

    @staticmethod
    def write_logged_features(*args: Any, **kwargs: Any) -> NoReturn:
        """Refused: requests are logged as impressions."""
        del args, kwargs
        raise NotHereError("the gateway logs every request's features: read the lake's table `impressions`")


def _times(frame: pd.DataFrame, column: str) -> npt.NDArray[np.int64]:
    """Event times, int64 (n,) microseconds; naive ones are UTC."""
    times = pd.to_datetime(frame[column], utc=True)
    if times.isna().any():
        row = int(np.flatnonzero(times.isna().to_numpy())[0])
        raise NotReadableError(f"entity_df: row {row} has no {column}; give each row its time")
    return np.asarray(times.to_numpy("datetime64[us]")).astype(np.int64)


def _asked(view: FeatureView, feature_refs: Sequence[str]) -> list[str]:
    """Features of one view among the references `view:feature`, in their order."""
    name = view.projection.name_to_use()
    return [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == name]


def _key_column(view: FeatureView, key: str) -> str:
    return str(view.projection.join_key_map.get(key, key))


def _ids(frame: pd.DataFrame, column: str) -> npt.NDArray[np.uint64]:
    if column not in frame:
        raise NotReadableError(f"entity_df: column {column!r} is missing; the asked features are read by it")
    values = frame[column]
    if values.isna().any() or not pd.api.types.is_integer_dtype(values.dtype):
        raise NotReadableError(
            f"entity_df: column {column!r} must be whole numbers without gaps; text ids by stable_id"
        )
    return columns_from_feast(values.to_numpy(np.uint64 if values.dtype.kind == "u" else np.int64).view(np.int64))


def _filled(
    layout: Layout,
    log: Log,
    frame: pd.DataFrame,
    time_us: npt.NDArray[np.int64],
    wanted: Sequence[tuple[FeatureView, View, list[str]]],
    *,
    full_feature_names: bool,
) -> pa.Table:
    """The frame, and the columns. One backfill for each pair of key columns: one, unless views are aliased."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    done: dict[Keys, Backfilled] = {}
    for view, ours, names in wanted:
        keys = _key_column(view, USER), _key_column(view, ITEM)
        if keys not in done:
            needed = {key for each, its, _ in wanted for key in its.keys if _key_column(each, key) in keys}
            users, items = (
                _ids(frame, column) if key in needed else np.zeros(len(frame), np.uint64)
                for key, column in zip((USER, ITEM), keys, strict=True)
            )
            done[keys] = backfill(layout, log.events, log.users, log.items, Queries.of(users, items, time_us))
        prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
        for name in names:
            table = table.append_column(prefix + name, _array(ours.by_name[name], done[keys]))
    return table


def _array(column: Column, filled: Backfilled) -> pa.Array:
    sources: Mapping[str, npt.NDArray[Any]] = {
        "feature": filled.features,
        "user_int": filled.user_ints,
        "item_int": filled.item_ints,
    }
    values = sources[column.source][:, column.start : column.start + column.width]
    if not column.listed:
        return pa.array(np.ascontiguousarray(values[:, 0]))
    ends = pa.array(np.arange(0, values.size + 1, column.width, dtype=np.int32))
    return pa.ListArray.from_arrays(ends, pa.array(np.ascontiguousarray(values).ravel()))
