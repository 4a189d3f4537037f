"""Which revisions the stack keeps, and which one a use case's file is."""

import os
from pathlib import Path

import pytest
from definitions.layout import layout_of
from definitions.usecase import UseCase
from features.kept import keep
from local_stack.service import ServiceSpec
from millrace_cli.revisions import Revisions, feature_specs, layout_now, revision_of, state_folder
from millrace_cli.settings import Settings

COUNT = {"name": "u_seen", "of": "user", "group": "base", "kind": "count", "windows": ["all"]}
OTHER = {"name": "i_seen", "of": "item", "group": "base", "kind": "count", "windows": ["24h"]}
LOG = "a-log"


def usecase(*features: dict[str, object]) -> UseCase:
    return UseCase.model_validate({"usecase": "shop", "actions": [{"name": "view"}], "features": list(features)})


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Of an empty home."""
    for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    return Settings()


@pytest.fixture
def rolled_out(settings: Settings) -> Settings:
    """`shop` was edited from COUNT to COUNT and OTHER, and both revisions are kept."""
    (settings.home / "data").mkdir(parents=True)
    (settings.home / "data" / "log-id").write_text(f"{LOG}\n")
    keep(state_folder(settings, LOG, "shop", 1), layout_of(usecase(COUNT)))
    keep(state_folder(settings, LOG, "shop", 2), layout_of(usecase(COUNT, OTHER), 2))
    Revisions.read(settings).plus("shop", 2).write()
    return settings


def test_a_new_home_has_the_first_revision_of_everything(settings: Settings) -> None:
    """Which a model is trained for before anything runs."""
    assert (1,) == Revisions.read(settings).of("shop")
    assert 1 == revision_of(settings, usecase(COUNT))


def test_a_file_is_the_revision_that_has_its_layout(rolled_out: Settings) -> None:
    """Edited again, it is the next one; put back, the former."""
    assert (1, 2) == Revisions.read(rolled_out).of("shop")
    third = usecase(OTHER)
    assert [1, 2, 3] == [revision_of(rolled_out, spec) for spec in (usecase(COUNT), usecase(COUNT, OTHER), third)]


def test_a_revision_has_the_layout_that_it_was_built_under(rolled_out: Settings) -> None:
    """Whatever the file says now."""
    layout = layout_now(rolled_out, usecase(COUNT, OTHER), LOG, 1)
    assert (1, usecase(COUNT)) == (layout.revision, layout.usecase)


def test_each_revision_is_a_process_of_its_own(rolled_out: Settings) -> None:
    """With its own port; what serves a single revision is where it always was."""
    base = ServiceSpec("features", "features", frozenset({"MILLRACE_REVISION"}), 3, {"metrics": 9103}, nice=3)
    first, second = feature_specs(base, rolled_out, {"shop": "shop.yaml", "films": "films"})

    assert ("features", 9103, {"MILLRACE_REVISION": "1"}) == (first.name, first.ports["metrics"], first.settings)
    assert ("features-2", 9112) == (second.name, second.ports["metrics"])
    assert {
        "MILLRACE_REVISION": "2",
        "MILLRACE_USECASES": "shop.yaml",
        "MILLRACE_METRICS_PORT": "9112",
    } == second.settings


def test_a_retired_revision_is_no_process_any_more(rolled_out: Settings) -> None:
    """The other use case's first goes on."""
    base = ServiceSpec("features", "features", frozenset(), 3, {"metrics": 9103})
    Revisions.read(rolled_out).minus("shop", 1).write()

    (only,) = feature_specs(base, rolled_out, {"shop": "shop"})
    assert "features-2" == only.name
    first, _ = feature_specs(base, rolled_out, {"shop": "shop", "films": "films"})
    assert "films" == first.settings["MILLRACE_USECASES"]


def test_further_revisions_have_topics_of_their_own(rolled_out: Settings) -> None:
    """Like the declared one."""
    assert {"shop.item-features.2": "shop.item-features"} == Revisions.read(rolled_out).topics(["shop", "films"])
