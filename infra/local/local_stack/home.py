"""Where a stack keeps its files: the folders of one `MILLRACE_HOME`, and the shared `dist/`."""

from dataclasses import dataclass
from pathlib import Path


def checkout_root() -> Path:
    """Folder of the checkout that this package is installed from (editable)."""
    return Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Home:
    """The folders of one stack. Several stacks on one machine have different roots and port offsets."""

    root: Path
    downloads: Path | None = None  # where `dist` is, if not in `root`: tests share the checkout's

    @property
    def dist(self) -> Path:
        """Downloads, filled aside and renamed: each folder is complete or absent."""
        return self.downloads or self.root / "dist"

    @property
    def run(self) -> Path:
        """One `<name>.json` per process that was started, the lock, and `stack.json`."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        """Output of each process."""
        return self.root / "log"

    @property
    def data(self) -> Path:
        """State that survives `down` and `up`."""
        return self.root / "data"

    @property
    def config(self) -> Path:
        """Configuration files, written anew before each start."""
        return self.root / "run" / "config"

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.dist, self.run, self.log, self.data, self.config):
            folder.mkdir(parents=True, exist_ok=True)

    def dist_folder(self, key: str) -> Path:
        """Folder `key` of this home's `dist/`, or of the checkout's own home, where only that one has it."""
        own = self.dist / key
        shared = Home(checkout_root() / ".millrace").dist / key
        return shared if not own.exists() and shared.exists() else own
