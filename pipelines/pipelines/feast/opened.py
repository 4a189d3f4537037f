"""A repository's use case as both stores read it. Imports no Feast."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from definitions.layout import Layout, layout_of
from definitions.usecase import load_usecase

from pipelines.feast.errors import NotReadableError
from pipelines.feast.views import View, views_of


@dataclass(frozen=True)
class Opened:
    """The layout of a repository's use case, and its views by name."""

    layout: Layout
    views: Mapping[str, View]

    @classmethod
    def of(cls, repository: Path | None, usecase: str, revision: int) -> "Opened":
        """`usecase` is a path, relative to the repository. Raises definitions.errors.UseCaseError."""
        return _open((repository or Path()) / usecase, revision)

    def view(self, name: str, tags: Mapping[str, str]) -> View:
        """The view that a Feast view of that name, with these tags, shows.

        Raises:
            NotReadableError: it is for pushes, or it was applied for another layout.
        """
        if name not in self.views:
            names = ", ".join(self.views)
            raise NotReadableError(f"{name}: is for pushes or not ours; what can be read is in {names}")
        here = f"{self.layout.layout_hash:08x}"
        if tags.get("layout_hash") != here:
            raise NotReadableError(
                f"{name}: the registry has layout {tags.get('layout_hash')}, this repository {here}; "
                "bring both to the same: millrace feast apply"
            )
        return self.views[name]


@lru_cache(maxsize=8)
def _open(usecase: Path, revision: int) -> Opened:
    layout = layout_of(load_usecase(usecase), revision)
    return Opened(layout, {view.name: view for view in views_of(layout)})
