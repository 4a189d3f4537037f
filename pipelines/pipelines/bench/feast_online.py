"""Stock Feast on Redis, for `bench online`: what reading one user and many items costs there.

Both sides read from the same kind of server on the same machine. Feast reads plain columns that were written to it, as
many as our float columns; ours also computes windows, decay and cross features from the packed row.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.bench import feast_env

_WRITE = 2_000  # rows of one write
_WARM_UP = 20
_TIMEOUT_S = 300.0


def feast_redis(
    redis: str,
    *,
    user_features: int,
    item_features: int,
    candidates: int = 100,
    users: int = 1_000,
    items: int = 10_000,
    reads: int = 300,
) -> dict[str, Any]:
    """Load rows into Feast's own Redis store at `redis` (host:port) and time `get_online_features`, nothing else.

    `p50_ms`, `p99_ms` of `reads` calls, each for one user and `candidates` items, user and items drawn evenly;
    `rows_loaded`; `load_rows_per_s`; `feast`, its version.

    Raises:
        UnavailableError: no environment with Feast, or the server does not answer.
    """
    arguments = {
        "redis": redis,
        "user_features": user_features,
        "item_features": item_features,
        "candidates": candidates,
        "users": users,
        "items": items,
        "reads": reads,
    }
    return feast_env.call(__name__, arguments, timeout_s=_TIMEOUT_S)


def feast_redis_p50_ms(redis: str, *, user_features: int, item_features: int, **sizes: int) -> float:
    """The one figure of `feast_redis`."""
    return float(feast_redis(redis, user_features=user_features, item_features=item_features, **sizes)["p50_ms"])


def _measure(
    redis: str, user_features: int, item_features: int, candidates: int, users: int, items: int, reads: int
) -> dict[str, Any]:
    """Inside Feast's environment."""
    import feast

    with tempfile.TemporaryDirectory(prefix="feast-redis-") as folder:
        store = _store(Path(folder), redis)
        views = {"user": (user_features, users), "item": (item_features, items)}
        _apply(store, Path(folder), {name: count for name, (count, _) in views.items()})
        begun = time.perf_counter()
        for name, (count, rows) in views.items():
            _load(store, name, count, rows)
        load_s = time.perf_counter() - begun
        asked = [f"{name}:{name}_{index}" for name, (count, _) in views.items() for index in range(count)]
        rng = np.random.default_rng(0)
        times = []
        for number in range(_WARM_UP + reads):
            user = int(rng.integers(1, users + 1))
            picked = rng.choice(items, candidates, replace=False) + 1
            pairs = [{"user_id": user, "item_id": item} for item in picked.tolist()]
            begun = time.perf_counter()
            answer = store.get_online_features(features=asked, entity_rows=pairs)
            if number >= _WARM_UP:
                times.append(1000 * (time.perf_counter() - begun))
        values = answer.to_dict()
        if any(None in values[name] for name in ("user_0", "item_0")):
            raise ValueError("Feast found no row where one was loaded")
    return {
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "rows_loaded": users + items,
        "load_rows_per_s": (users + items) / load_s,
        "feast": feast.__version__,
    }


def _store(folder: Path, redis: str) -> Any:
    from feast import FeatureStore, RepoConfig

    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "redis", "connection_string": redis},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def _apply(store: Any, folder: Path, views: dict[str, int]) -> None:
    from datetime import timedelta

    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32

    objects: list[Any] = []
    for name, count in views.items():
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        path = folder / f"{name}.parquet"
        _frame(name, count, 1, 2).to_parquet(path)
        fields = [Field(name=f"{name}_{index}", dtype=Float32) for index in range(count)]
        source = FileSource(name=f"{name}_file", path=str(path), timestamp_field="event_timestamp")
        view = FeatureView(name=name, entities=[entity], schema=fields, source=source, ttl=timedelta(0))
        objects += [entity, view]
    store.apply(objects)


def _load(store: Any, name: str, count: int, rows: int) -> None:
    for begin in range(1, rows + 1, _WRITE):
        store.write_to_online_store(name, _frame(name, count, begin, min(begin + _WRITE, rows + 1)))


def _frame(name: str, count: int, begin: int, end: int) -> Any:
    """Rows with ids `begin` <= id < `end`."""
    import pandas as pd

    values = np.random.default_rng(begin).random((end - begin, count), np.float32)
    frame = pd.DataFrame(values, columns=[f"{name}_{index}" for index in range(count)])
    frame[f"{name}_id"] = np.arange(begin, end, dtype=np.int64)
    frame["event_timestamp"] = pd.Timestamp.now(tz="UTC")
    return frame


if __name__ == "__main__":
    feast_env.answer(_measure(**feast_env.asked()))
