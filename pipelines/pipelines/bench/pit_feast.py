"""Feast's point-in-time join with its own DuckDB store, as a program in Feast's environment."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Int64

from pipelines.bench import feast_env


def run(folder: str, sources: int) -> dict[str, Any]:
    """Join `entities.parquet` with `totals_<i>.parquet` of the folder, into `feast.parquet`; how long the join took."""
    root = Path(folder)
    store = FeatureStore(
        config=RepoConfig(
            project="pit", provider="local", registry=str(root / "registry.db"), entity_key_serialization_version=3,
            offline_store={"type": "duckdb"}, online_store={"type": "sqlite", "path": str(root / "online.db")},
        )
    )  # fmt: skip
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=f"view_{place}",
            entities=[user],
            ttl=timedelta(0),  # for ever
            schema=[Field(name=f"{name}_{place}", dtype=Int64) for name in ("n", "total")],
            source=FileSource(
                name=f"totals_{place}",
                path=str(root / f"totals_{place}.parquet"),
                timestamp_field="event_timestamp",
                field_mapping={name: f"{name}_{place}" for name in ("n", "total")},
            ),
            online=False,
        )
        for place in range(sources)
    ]
    store.apply([user, *views])
    entities = pd.read_parquet(root / "entities.parquet").astype({"user_id": "int64"})
    features = [f"view_{place}:{name}_{place}" for place in range(sources) for name in ("n", "total")]
    began = time.perf_counter()
    table = store.get_historical_features(entity_df=entities, features=features).to_arrow()
    seconds = time.perf_counter() - began
    table.to_pandas().to_parquet(root / "feast.parquet")
    return {"seconds": seconds, "rows": table.num_rows}


if __name__ == "__main__":
    feast_env.answer(run(**feast_env.asked()))
