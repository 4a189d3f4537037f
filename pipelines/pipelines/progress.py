"""How long work tells its caller where it is. Nothing here prints."""

from typing import Protocol


class Progress(Protocol):
    """What the command line implements with a bar, and tests with a list."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins; `total` units of work if known."""

    def advance(self, done: int) -> None:
        """So many more units of the present stage are done."""

    def note(self, text: str) -> None:
        """Something the user must be told: a licence, a fallback, a finding."""


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignored."""

    def advance(self, done: int) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


SILENT: Progress = Silent()
