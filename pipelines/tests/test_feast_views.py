"""What Feast shows of a layout, and the repository that is written: without Feast, which has its own environment."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from definitions.assembly import RequestContext, assemble, past_items
from definitions.item_snapshot import ItemSnapshot
from definitions.layout import Layout, layout_of
from definitions.usecase import load_usecase
from definitions.user_values import UserAt
from millrace.decisions.v1.decisions_pb2 import ModelPin, ServingState
from millrace.events.v1 import events_pb2 as pb
from pipelines.feast.errors import NotReadableError
from pipelines.feast.ids import columns_from_feast, from_feast, to_feast
from pipelines.feast.opened import Opened
from pipelines.feast.reading import columns_of, read_items, read_pairs, read_users
from pipelines.feast.repository import Places, served_layout, write
from pipelines.feast.views import ITEM, USER, Column, View, views_of
from servicekit.settings import checkout_root
from stores.online.null import NullStore

USECASES = sorted((checkout_root() / "usecases").glob("*.yaml"))
NOON_US = 1_700_000_000_000_000


def view_by(layout: Layout, *keys: str) -> View:
    return next(view for view in views_of(layout) if view.keys == keys)


@pytest.fixture(params=USECASES, ids=lambda path: path.stem)
def layout(request: pytest.FixtureRequest) -> Layout:
    return layout_of(load_usecase(request.param))


def taken(columns: Iterable[Column], source: str) -> list[int]:
    """Places of a layout's array that the columns show."""
    return [place for each in columns if each.source == source for place in range(each.start, each.start + each.width)]


def test_every_stored_column_is_shown_once(layout: Layout) -> None:
    """Left out are only the request's codes and the candidate's id: the caller has them."""
    columns = [column for view in views_of(layout) for column in view.columns]
    names = [column.name for column in columns]
    context = [spec.start for spec in layout.context_ints]

    assert len(set(names)) == len(names)
    assert not {USER, ITEM} & set(names)
    assert list(range(len(layout.feature_names))) == sorted(taken(columns, "feature"))
    assert set(range(len(layout.user_int_names))) - set(context) == set(taken(columns, "user_int"))
    codes = sum(spec.codes.width for spec in layout.item_code_ints)
    assert codes == len(taken(columns, "item_int"))


def test_an_id_survives_feasts_signed_numbers() -> None:
    """Ids of text are hashes: half of them are above what int64 holds."""
    ids = [1, 2**63 - 1, 2**63, 2**64 - 1]

    assert ids == [from_feast(to_feast(each)) for each in ids]
    assert ids == columns_from_feast([to_feast(each) for each in ids]).tolist()
    assert all(-(2**63) <= to_feast(each) < 2**63 for each in ids)


def test_values_are_those_of_assembly(layout: Layout) -> None:
    """Also for a user and an item that nobody knows: priors and defaults, no gaps."""
    items, rows = ItemSnapshot(layout), NullStore()
    items.put_item(pb.Item(id=7))
    context = RequestContext()
    nobody = UserAt(layout, None, NOON_US)
    whole = assemble(nobody, items.view(np.array([7, 8], np.uint64), NOON_US, past_items(nobody)), context)

    user, item = view_by(layout, USER), view_by(layout, ITEM)
    of_user = read_users(layout, rows, [1, 2], user.columns, NOON_US)
    of_items = read_items(layout, items, [7, 8], item.columns, NOON_US)
    cross = view_by(layout, USER, ITEM)
    of_pairs = read_pairs(layout, rows, items, [(1, 7), (2, 8)], cross.columns, NOON_US)

    for view, values in ((user, of_user), (item, of_items), (cross, of_pairs)):
        for column, found in zip(view.columns, values.columns, strict=True):
            if column.source == "feature":
                assert whole.features[:, column.start].tolist() == found.tolist(), column.name
            else:
                assert not np.isnan(found).any()
                assert (2, column.width) == found.shape if column.listed else (2,) == found.shape


def test_columns_come_as_asked(layout: Layout) -> None:
    """Feast asks for some, in its own order."""
    view = view_by(layout, USER)
    names = [column.name for column in view.columns][::-2]

    assert names == [column.name for column in columns_of(view, names)]


def test_the_repository_is_whole_and_can_be_moved(tmp_path: Path) -> None:
    """A use case of its own beside the stores' addresses: nothing of the checkout is needed."""
    places = Places(f"sqlite:///{tmp_path}/registry/r.db", "s3://lake", None, tmp_path / "rows", "k:9092", "c:50052")

    movies = checkout_root() / "usecases" / "movies.yaml"
    write(tmp_path / "repository", movies, layout_of(load_usecase(movies), 3), places)

    config = yaml.safe_load((tmp_path / "repository" / "feature_store.yaml").read_text())
    assert ("movies", 3, 3) == (
        config["project"],
        config["online_store"]["revision"],
        config["offline_store"]["revision"],
    )
    assert (tmp_path / "registry").is_dir()
    opened = Opened.of(tmp_path / "repository", config["online_store"]["usecase"], 3)
    assert (
        layout_of(load_usecase(checkout_root() / "usecases" / "movies.yaml")).layout_hash == opened.layout.layout_hash
    )


def test_the_rows_that_serve_are_the_ones_registered(layout: Layout) -> None:
    """A changed use case has rows only once a model of it is deployed."""
    pin = ModelPin(revision=4, layout_hash=layout.layout_hash)

    assert 2 == served_layout(ServingState(), layout.usecase, 2).revision
    assert 4 == served_layout(ServingState(pin=pin), layout.usecase, 2).revision
    pin.layout_hash ^= 1
    with pytest.raises(NotReadableError, match="deploy"):
        served_layout(ServingState(pin=pin), layout.usecase, 2)


def test_a_registry_of_another_layout_is_refused() -> None:
    """Else a view would silently show other windows than it says."""
    opened = Opened.of(checkout_root() / "usecases", "movies.yaml", 1)

    assert opened.view("movies_user", {"layout_hash": f"{opened.layout.layout_hash:08x}"}).keys == (USER,)
    with pytest.raises(NotReadableError, match="millrace feast apply"):
        opened.view("movies_user", {"layout_hash": "00000000"})
    with pytest.raises(NotReadableError, match="movies_item"):
        opened.view("movies_user_attributes", {})
