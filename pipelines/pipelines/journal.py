"""What was loaded into a stack, kept beside its state."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from servicekit.textfile import replace_text

from pipelines.errors import BadInputError

if TYPE_CHECKING:
    from pipelines.datasets import DataPaths


@dataclass(frozen=True, slots=True)
class Loaded:
    """One data set in one stack.

    `source`: its name, with a folder `name:/path`; or the absolute path of the interactions file, with `items` and
    `users` beside it. `rows`: events of the whole set; those before `tail_from_us` were loaded, the later ones are
    replay's, and `replayed` says whether they came. `newest_us`: the newest event time that the stack has.
    `shifted_ids`: `user_id`, `item_id` where the file's integers have a 0, so that the stack's are 1 higher;
    `text_ids`: where not all are integers.
    """

    usecase: str
    source: str
    items: str | None
    users: str | None
    seed: int
    rows: int
    tail_from_us: int
    newest_us: int
    shifted_ids: tuple[str, ...]
    text_ids: tuple[str, ...]
    replayed: bool = False
    licence: str = ""
    """Of the data, as its loader says it; a model that is trained on the archived events says it too."""

    @property
    def dataset(self) -> str | DataPaths:
        """What `load_dataset` takes."""
        from pipelines.datasets import DataPaths  # whoever only asks for a list need not wait for it
        from pipelines.datasets.load import is_named

        if is_named(self.source):
            return self.source
        return DataPaths(
            Path(self.source),
            None if self.items is None else Path(self.items),
            None if self.users is None else Path(self.users),
        )


def licence_of(loaded: Loaded | None) -> str:
    """The licence of what a stack holds, or plainly that nobody said one."""
    if loaded is None:
        return "unknown: the events came through the collector; ask whoever owns them."
    return loaded.licence or f"unknown: {loaded.source} was loaded without one; ask whoever owns it."


def path_of(home: Path, usecase: str) -> Path:
    """Where the note on a use case lies."""
    return home / "data" / "loaded" / f"{usecase}.json"


def write(home: Path, loaded: Loaded) -> None:
    """Replace the note."""
    replace_text(path_of(home, loaded.usecase), json.dumps(asdict(loaded), indent=2) + "\n")


def read(home: Path, usecase: str) -> Loaded | None:
    """The note, or None if nothing was loaded.

    Raises:
        BadInputError: the file is damaged.
    """
    path = path_of(home, usecase)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Loaded(**{**fields, **{name: tuple(fields[name]) for name in ("shifted_ids", "text_ids")}})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise BadInputError(f"{path}: not the note of a load ({exc}); remove it and load again") from exc
