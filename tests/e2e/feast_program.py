"""What another team writes: run by `test_feast` in Feast's environment. Arguments and answer are JSON files."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from feast import FeatureStore
from pipelines.feast.ids import to_feast

PUSHED_S = 30.0


def run(asked: dict[str, Any]) -> dict[str, Any]:
    store = FeatureStore(repo_path=asked["repository"])
    service = store.get_feature_service("movies")
    pairs = [{"user_id": to_feast(user), "item_id": to_feast(item)} for user, item in asked["pairs"]]
    online = {
        place: FeatureStore(repo_path=repository).get_online_features(service, entity_rows=pairs).to_dict()
        for place, repository in asked["at_a_time"].items()
    }
    frame = pd.DataFrame(
        {
            "user_id": [to_feast(user) for user, _, _ in asked["rows"]],
            "event_timestamp": pd.to_datetime([at for _, _, at in asked["rows"]], unit="us", utc=True),
            "label": range(len(asked["rows"])),
            "item_id": [to_feast(item) for _, item, _ in asked["rows"]],
        }
    )
    historical = store.get_historical_features(frame, service, full_feature_names=False).to_df()
    return {
        "registered": {
            "entities": sorted(each.name for each in store.list_entities()),
            "views": {view.name: [field.name for field in view.features] for view in store.list_feature_views()},
            "columns": service.tags["columns"].split(","),
        },
        "online": online,
        "historical": {name: [_plain(value) for value in historical[name]] for name in historical.columns},
        "pushed": pushed(store, asked),
        "refused": {name: refusal(action) for name, action in refused(store, asked).items()},
    }


def pushed(store: FeatureStore, asked: dict[str, Any]) -> dict[str, list[Any]]:
    """What is read of a user and an item once their pushed attributes are there; the old if they never come."""
    user, item = (to_feast(each) for each in asked["push_to"])
    now = pd.Timestamp.now(tz="UTC")
    people = {"user_id": [user], "event_timestamp": [now], "age": [77.0], "gender": [5], "occupation": [6]}
    films = {"item_id": [item], "event_timestamp": [now], "title": ["A film"], "year": [1931.0], "genre": [[9, 8]]}
    store.push("movies_user_attributes", pd.DataFrame(people))
    store.push("movies_item_attributes", pd.DataFrame(films))
    features = ["movies_user:u_age", "movies_user:u_gender", "movies_item:i_year", "movies_item:i_genre"]
    ends = time.monotonic() + PUSHED_S
    while True:
        found = store.get_online_features(features, entity_rows=[{"user_id": user, "item_id": item}]).to_dict()
        if (found["u_age"], found["i_year"]) == ([77.0], [1931.0]) or time.monotonic() > ends:
            return {name: found[name][0] for name in ("u_age", "u_gender", "i_year", "i_genre")}
        time.sleep(0.05)


def refused(store: FeatureStore, asked: dict[str, Any]) -> dict[str, Any]:
    """What must not work."""
    user = to_feast(asked["push_to"][0])
    now = pd.Timestamp.now(tz="UTC")
    view = store.get_feature_view("movies_cross")
    aggregate = {"user_id": [user], "item_id": [1], "event_timestamp": [now]} | {
        each.name: [1.0] for each in view.features
    }
    attributes = {"entity_rows": [{"user_id": user}], "features": ["movies_user_attributes:age"]}
    return {
        "push of an aggregate": lambda: store.push("movies_cross", pd.DataFrame(aggregate)),
        "materialize": lambda: store.materialize(now - pd.Timedelta("1h"), now, ["movies_user"]),
        "read of what is pushed": lambda: store.get_online_features(**attributes),
        "a row without a time": lambda: store.get_historical_features(
            pd.DataFrame({"user_id": [user], "event_timestamp": [pd.NaT]}), ["movies_user:u_age"]
        ),
    }


def refusal(action: Any) -> str:
    try:
        action()
    except Exception as exc:  # noqa: BLE001  whatever it is, its words are what the user sees
        return f"{type(exc).__name__}: {exc}"
    return "not refused"


def _plain(value: Any) -> Any:
    """JSON's own types: arrays as lists, times as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, int | float | str) else str(value)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
