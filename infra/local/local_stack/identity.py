"""Which log the derived state belongs to. Rows and checkpoints hold offsets, which mean nothing in another log."""

import socket
from pathlib import Path

from local_stack.home import Home
from local_stack.probes import split

# What holds offsets of one log. Delta does too, but names the log in each transaction, so it stays.
_DERIVED = ("online", "checkpoints", "valkey")

_SET_ASIDE = """
local cursor, moved = '0', 0
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', 'u:*', 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do redis.call('RENAME', key, ARGV[1] .. key); moved = moved + 1 end
until cursor == '0'
return moved
"""


def state_log_id(home: Home) -> str | None:
    """Identity of the log that the state under `data/` was made from; None where there is no state yet."""
    path = home.data / "log-id"
    return path.read_text().strip() if path.exists() else None


def is_foreign(home: Home, log_id: str) -> bool:
    """Whether the state was made from another log than `log_id`."""
    return state_log_id(home) not in (None, log_id)


def set_aside(home: Home) -> Path | None:
    """Move the rows and checkpoints of the former log to `data/foreign/<its id>`; nobody may be using them.

    Returns the folder, None if there was nothing to move. A kill in between leaves the old identity, so that the next
    `up` moves the rest.
    """
    left = [home.data / name for name in _DERIVED if (home.data / name).exists()]
    if not left:
        return None
    folder = home.data / "foreign" / (state_log_id(home) or "unknown")
    folder.mkdir(parents=True, exist_ok=True)
    for path in left:
        path.rename(folder / path.name)
    return folder


def adopt(home: Home, log_id: str) -> None:
    """Note that the state is of `log_id` from now on, and bring back what was set aside of it, if anything was."""
    folder = home.data / "foreign" / log_id
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if not (home.data / path.name).exists():
            path.rename(home.data / path.name)
    (home.data / "log-id").write_text(log_id + "\n")


def set_aside_rows(address: str, log_id: str) -> int:
    """Rename the rows `u:*` of a Valkey that somebody else runs to `foreign:<log_id>:u:*`; returns how many."""
    host, port = split(address)
    parts = [b"EVAL", _SET_ASIDE.encode(), b"0", f"foreign:{log_id}:".encode()]
    command = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(command)
        answer = connection.makefile("rb").readline().decode().strip()
    if not answer.startswith(":"):
        raise OSError(f"{address}: {answer}")
    return int(answer[1:])
