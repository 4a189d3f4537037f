"""The generator's process, `python -m loadtest`.

Exit codes: 0 all targets held, 1 one was missed, 2 bad input, 3 no gateway answers.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from loadtest import errors
from loadtest.access import Access
from loadtest.load import Load
from loadtest.report import summary_line, write_reports
from loadtest.targets import DEFAULT_TARGETS, load_suite
from loadtest.watching import Watch

Number = TypeVar("Number", int, float)

MADE_UP_ITEMS = range(1, 1683)
MADE_UP_USERS = range(1, 944)
SWITCH_INTERVAL_S = 0.0005  # what the threads beside the load may keep the interpreter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load test and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except errors.BadInput as exc:
        return _say_error(options, "bad_input", exc, 2)
    except errors.Unreachable as exc:
        return _say_error(options, "unreachable", exc, 3)


def _run(options: argparse.Namespace) -> int:
    suite = load_suite(options.suite, options.targets)
    rate, seconds = _given(options.rate, suite.rate), _given(options.seconds, suite.seconds)
    suite = suite.scaled(rate, seconds)
    load = Load(
        target=options.target,
        usecase=options.usecase,
        rate=rate,
        seconds=seconds,
        phases=tuple((phase.rate, phase.seconds) for phase in suite.phases),
        candidates=_given(options.candidates, suite.candidates),
        warmup_s=_given(options.warmup, suite.warmup_s),
        deadline_ms=_given(options.deadline_ms, suite.deadline_ms),
        mode=options.mode,
        pool=options.pool,
        users=options.users,
        seed=options.seed,
        time_us=options.time_us,
    ).checked()
    access = Access(options.ca, options.cert, options.key, options.token, options.server_name).checked()
    item_ids, user_ids = _ids(options.ids)

    from loadtest.generator import Progress, generate

    def progress(now: Progress) -> None:
        if options.json:
            _say(json.dumps({"progress": dataclasses.asdict(now)}))
        else:
            p99 = "-" if now.p99_ms is None else f"{now.p99_ms:.1f} ms"
            _say(f"{now.second:6.1f} of {now.seconds:.0f} s  {now.requests} requests  {now.errors} errors  p99 {p99}")

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    verdict = generate(load, options.suite, suite, item_ids, user_ids, progress, access=access, watch=_watch(options))
    if options.report_dir is not None:
        verdict = write_reports(verdict, options.report_dir)
    _say(json.dumps(verdict.to_json()) if options.json else summary_line(verdict))
    return 0 if verdict.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load a gateway and judge what it answers.")
    parser.add_argument("--target", default="127.0.0.1:50051", help="host:port of the gateway")
    parser.add_argument("--usecase", default="movies")
    parser.add_argument("--suite", default="default", help="which load and limits of the targets file")
    parser.add_argument("--targets", type=Path, default=DEFAULT_TARGETS, help="YAML file of suites")
    parser.add_argument("--rate", type=float, help="requests a second instead of the suite's")
    parser.add_argument("--seconds", type=float, help="measured time instead of the suite's")
    parser.add_argument("--candidates", type=int, help="item ids a request instead of the suite's")
    parser.add_argument("--warmup", type=float, help="warm-up in s instead of the suite's")
    parser.add_argument("--deadline-ms", type=int, help="what a caller waits instead of the suite's")
    parser.add_argument("--mode", choices=("open", "poisson"), default="open", help="open: timed from the schedule")
    parser.add_argument("--pool", type=int, default=512, help="most requests in flight")
    parser.add_argument("--users", type=int, help="how many users share the rate in mode poisson")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--time-us", type=int, help="event time at which features are evaluated (development only)")
    parser.add_argument("--ids", type=Path, help='JSON file {"items": [...], "users": [...]}; made up where absent')
    parser.add_argument("--report-dir", type=Path, help="folder for loadtest-<suite>.json and .html")
    parser.add_argument("--ca", type=Path, help="PEM of who signs the server's certificate; its presence turns TLS on")
    parser.add_argument("--cert", type=Path, help="PEM of our own certificate (mTLS)")
    parser.add_argument("--key", type=Path, help="PEM of its key")
    parser.add_argument("--token", type=Path, help="file with a bearer token")
    parser.add_argument("--server-name", help="what the server's certificate says, if not the host")
    parser.add_argument("--watch", action="append", default=[], metavar="NAME=PID", help="a process to look at")
    parser.add_argument("--triton-metrics", help="URL of Triton's metrics, read at both ends of the measured time")
    parser.add_argument("--json", action="store_true", help="progress and verdict as one JSON object a line")
    return parser


def _ids(path: Path | None) -> tuple[Sequence[int], Sequence[int]]:
    if path is None:
        return MADE_UP_ITEMS, MADE_UP_USERS
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [int(i) for i in document["items"]], [int(u) for u in document["users"]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise errors.BadInput(f'ids file {path} is not {{"items": [...], "users": [...]}}: {exc}') from exc


def _watch(options: argparse.Namespace) -> Watch:
    pids = {}
    for text in options.watch:
        name, _, pid = text.partition("=")
        if not name or not pid.isdecimal():
            raise errors.BadInput(f"--watch {text}: must be NAME=PID")
        pids[name] = int(pid)
    return Watch(pids, options.triton_metrics)


def _given(value: Number | None, otherwise: Number) -> Number:
    return otherwise if value is None else value


def _say_error(options: argparse.Namespace, kind: str, exc: Exception, code: int) -> int:
    if options.json:
        _say(json.dumps({"error": {"kind": kind, "message": str(exc)}}))
    else:
        sys.stderr.write(f"{exc}\n")
    return code


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
