"""The nightly job: `python -m archiver.compaction`. Each table's small files become few, what they replaced goes.

The archiver writes a file a partition value and commit, so a day leaves thousands. Archivers go on meanwhile: merging
changes no row and no position, and only files that no reader of the last `MILLRACE_KEEP_HOURS` can be reading go.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import structlog
from definitions.errors import DefinitionsError
from definitions.usecase import find_usecase
from servicekit import failpoints
from servicekit.failpoints import fp
from servicekit.logs import configure_logs
from servicekit.settings import EXIT_BAD_INPUT, load_settings
from stores.errors import StoreError
from stores.offline import Lake, Upkeep, table_names

from archiver.settings import Settings

EXIT_ENVIRONMENT = 3  # a retry may help


def main() -> int:
    """Settings, then every table; its last line on stdout is one JSON object."""
    settings = load_settings(Settings)
    configure_logs("compaction", settings.log_level)
    failpoints.arm(settings.failpoint)
    log = structlog.get_logger("compaction")
    try:
        usecases = [find_usecase(name, settings.usecase_dir).name for name in settings.usecases]
    except DefinitionsError as exc:
        sys.stderr.write(f"MILLRACE_USECASES: {exc}\n")
        return EXIT_BAD_INPUT
    try:
        done = compact(settings.lake, usecases, settings.keep_hours)
    except StoreError as exc:
        log.error("stopped", error=str(exc), kind=type(exc).__name__)
        return EXIT_ENVIRONMENT
    sys.stdout.write(json.dumps({name: asdict(upkeep) for name, upkeep in done.items()}) + "\n")
    return 0


def compact(lake: str, usecases: Sequence[str], keep_hours: int) -> dict[str, Upkeep]:
    """Merge and clean every table of the use cases; what was done, by `<usecase>/<table>`, of the shared by `<table>`.

    Killed anywhere, it leaves the rows as they were; the next run does what is left.

    Raises:
        StoreError: a table could not be read or written now.
    """
    done: dict[str, Upkeep] = {}
    for usecase in usecases:
        tables = Lake(lake, usecase)
        for table, is_shared in table_names().items():
            name = table if is_shared else f"{usecase}/{table}"
            if name in done or tables.version(table) is None:
                continue
            merged, into = tables.compact(table)
            fp("archiver.compacted")
            done[name] = Upkeep(merged, into, tables.vacuum(table, keep_hours))
    return done


if __name__ == "__main__":
    sys.exit(main())
