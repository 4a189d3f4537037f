"""A small use case and a small world, for all tests of this room."""

from pathlib import Path

import pytest
from definitions.usecase import UseCase, load_usecase

YAML = """
usecase: films
columns:
  user_id: who
  item_id: what
  value: stars
  event_time_us: {from: when, unit: s}
  action: action
item_columns: {item_id: id, year: year, genre: {from: genres, split: "|"}}
user_columns: {user_id: id}
actions:
  - {name: view, label: 0}
  - {name: rate, label: {if_value_at_least: 4, weight: 1}}
attributes:
  user: {gender: category}
  item: {year: number, genre: {kind: categories, width: 3}}
category: item.genre
features:
  - {name: u_rated, of: user, kind: count, action: rate, windows: [1h, all]}
  - name: u_liked
    of: user
    kind: rate
    num: &liked {rate: {if_value_at_least: 4}}
    den: rate
    windows: [all]
    prior: &p {mean: 0.5, weight: 5}
  - {name: u_gender, of: user, kind: attribute, from: gender}
  - {name: u_genre, of: user, kind: affinity, action: rate, k: 10, half_life: 365d, positive: *liked}
  - {name: x_genre, of: cross, kind: affinity_rate, table: u_genre, prior: *p}
  - {name: i_rated, of: item, kind: count, action: rate, windows: [all]}
  - {name: i_liked, of: item, kind: rate, num: *liked, den: rate, windows: [all], prior: *p}
  - {name: i_year, of: item, kind: attribute, from: year, default: 1990}
  - {name: i_genre, of: item, kind: attribute, from: genre}
label: {examples: [rate], positive: {rate: {if_value_at_least: 4}}}
"""


@pytest.fixture
def films(tmp_path: Path) -> UseCase:
    """Columns with names of their own, two actions, one of which is no example."""
    path = tmp_path / "films.yaml"
    path.write_text(YAML)
    return load_usecase(path)
