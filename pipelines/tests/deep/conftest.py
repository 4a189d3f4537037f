"""Deep models on a small world in arrays. `make deep-test` runs these; only `-m deep` imports torch."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .small_world import World


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Importing torch takes seconds, and it may be absent: only who asks for these tests collects them."""
    asked = str(config.getoption("markexpr"))
    return None if "deep" in asked and not asked.startswith("not (") else True


@pytest.fixture(scope="session")
def world() -> "World":
    from .small_world import small_world

    return small_world()
