"""Many reads in one process: does Feast, or what we put behind it, keep memory?"""

import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipelines.bench import feast_env
from pipelines.errors import BadInputError

ROWS: Final = 10  # of a call: one user and so many items
GROWTH_MIB: Final = 5.0  # what a process may gain after its first tenth, by fragments
_TIMEOUT_S: Final = 1800.0


def soak(repository: Path, calls: int) -> dict[str, Any]:
    """Read the repository's feature service `calls` times, for one user and 10 items, drawn among those that are known.

    `first_mib`, `last_mib`: resident memory after the first tenth and at the end; `growth_mib`, their difference;
    `p50_ms`, `p99_ms` of a call.

    Raises:
        UnavailableError: no environment with Feast, or what it reads does not answer.
    """
    return feast_env.call(__name__, {"repository": str(repository), "calls": calls}, timeout_s=_TIMEOUT_S)


def _measure(repository: str, calls: int) -> dict[str, Any]:
    """Inside Feast's environment."""
    from feast import FeatureStore

    from pipelines.feast.ids import to_feast

    store = FeatureStore(repo_path=repository)
    service = store.get_feature_service(store.project)
    users, items = ([to_feast(each) for each in ids] for ids in _known(store.config))
    rng = np.random.default_rng(0)
    times, first_mib = [], 0.0
    for number in range(calls):
        user, picked = users[rng.integers(len(users))], rng.integers(len(items), size=ROWS)
        rows = [{"user_id": user, "item_id": items[each]} for each in picked]
        begun = time.perf_counter()
        store.get_online_features(features=service, entity_rows=rows)
        times.append(1000 * (time.perf_counter() - begun))
        if number == calls // 10:
            first_mib = _resident_mib()
    last_mib = _resident_mib()
    return {
        "calls": calls,
        "rows_a_call": ROWS,
        "first_mib": round(first_mib, 1),
        "last_mib": round(last_mib, 1),
        "growth_mib": round(last_mib - first_mib, 1),
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
    }


def _known(config: Any) -> tuple[list[int], list[int]]:
    """Users that have a row, and items of the catalogue."""
    from stores.online import open_online

    from pipelines.feast.opened import Opened
    from pipelines.serving_view import item_snapshot

    own = config.online_store
    layout = Opened.of(config.repo_path, own.usecase, own.revision).layout
    rows = open_online(layout.usecase.name, own.revision, valkey=own.valkey, lmdb_path=Path(own.lmdb))
    try:
        users = rows.all_ids().tolist()
    finally:
        rows.close()
    items = item_snapshot(own.kafka, layout).popular(1000)[0].tolist()
    if not users or not items:
        raise BadInputError(f"{layout.usecase.name}: no user rows or no items to read; load data: millrace load")
    return users, items


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    feast_env.answer(_measure(**feast_env.asked()))
