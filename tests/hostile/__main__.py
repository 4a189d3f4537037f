"""`make hostile`: a secured stack of its own, attacked. Exit 1 if a promise does not hold; the last line is JSON."""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from local_stack.harness import NativeStack, free_offset
from servicekit.security.development import Files

from hostile.running import Plan, Run, missed


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(prog="python -m hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutated", type=int, default=Plan.mutated, help="requests with broken bytes")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="abusive calls and connections a second")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="of good traffic, with and without abuse")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--profile", choices=("embedded", "real"), default="embedded")
    given = parser.parse_args()
    plan = Plan(given.seed, given.mutated, given.rate, seconds=given.seconds, rounds=given.rounds)
    with tempfile.TemporaryDirectory(prefix="millrace-hostile-") as folder, free_offset() as offset:
        stack = NativeStack(Path(folder), offset)
        try:
            _say(f"a secured stack of profile {given.profile} at offset {offset}")
            stack.millrace("up", "--profile", given.profile, "--secured")
            summary = Run(stack, Files(Path(folder) / "certs"), plan, _say).whole()
        finally:
            stack.millrace("down")
    failed = missed(summary)
    ran_on = {"cores": os.cpu_count(), "python": platform.python_version(), "profile": given.profile}
    for line in failed:
        _say(f"missed: {line}")
    sys.stdout.write(json.dumps(summary | {"missed": failed, "ran_on": ran_on}) + "\n")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
