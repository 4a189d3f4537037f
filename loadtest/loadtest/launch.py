"""Runs the generator in a process of its own and hands its verdict back."""

import json
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.access import Access
from loadtest.errors import BadInput, GeneratorFailed, Unreachable
from loadtest.targets import DEFAULT_TARGETS
from loadtest.verdict import Verdict
from loadtest.watching import Watch

_LAST_WORDS = 20


def run_loadtest(
    target: str,
    usecase: str,
    rate: float | None = None,
    seconds: float | None = None,
    candidates: int | None = None,
    item_ids: Sequence[int] | None = None,
    user_ids: Sequence[int] | None = None,
    targets: Path = DEFAULT_TARGETS,
    report_dir: Path | None = None,
    warmup_s: float | None = None,
    deadline_ms: int | None = None,
    progress: Callable[[Mapping[str, Any]], None] | None = None,
    *,
    suite: str = "default",
    mode: str = "open",
    pool: int | None = None,
    users: int | None = None,
    time_us: int | None = None,
    seed: int | None = None,
    access: Access | None = None,
    watch: Watch | None = None,
) -> Verdict:
    """Load the gateway at `target` (host:port) and judge it by `suite` of the file `targets`.

    What is None comes from the suite; ids that are None are made up. `progress` is called about once a second with
    second, seconds, sent, requests, errors, in_flight and p99_ms so far. With `report_dir` the verdict is also written
    there, as JSON and as a page; the paths are in the verdict. `watch` names whose processor and memory it tells.

    Raises:
        BadInput: a value, the suite, or what the gateway says of the first request.
        Unreachable: no gateway answers at `target`.
        GeneratorFailed: the generator ended without a verdict.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-loadtest-") as folder:
        options: dict[str, object] = {
            "--target": target,
            "--usecase": usecase,
            "--suite": suite,
            "--targets": targets,
            "--rate": rate,
            "--seconds": seconds,
            "--candidates": candidates,
            "--warmup": warmup_s,
            "--deadline-ms": deadline_ms,
            "--mode": mode,
            "--pool": pool,
            "--users": users,
            "--time-us": time_us,
            "--seed": seed,
            "--report-dir": report_dir,
        }
        if access is not None:
            options |= {
                "--ca": access.ca, "--cert": access.certificate, "--key": access.key, "--token": access.token,
                "--server-name": access.name,
            }  # fmt: skip
        if watch is not None:
            options["--triton-metrics"] = watch.triton_metrics
        if item_ids is not None and user_ids is not None:
            ids = Path(folder) / "ids.json"
            ids.write_text(json.dumps({"items": list(map(int, item_ids)), "users": list(map(int, user_ids))}))
            options["--ids"] = ids
        command = [sys.executable, "-m", "loadtest", "--json"]
        for name, value in options.items():
            if value is not None:
                command += [name, str(value)]
        for name, pid in (watch.pids if watch is not None else {}).items():
            command += ["--watch", f"{name}={pid}"]
        return _converse(command, progress)


def _converse(command: Sequence[str], progress: Callable[[Mapping[str, Any]], None] | None) -> Verdict:
    """Read one JSON object a line until the generator ends; its last one is the verdict or the error."""
    last: Mapping[str, Any] = {}
    words: deque[str] = deque(maxlen=_LAST_WORDS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout or ():
                message = _parsed(line)
                if message is None:
                    words.append(line.rstrip())
                elif "progress" in message:
                    if progress is not None:
                        progress(message["progress"])
                else:
                    last = message
        except BaseException:
            process.terminate()  # the caller leaves, so the load ends with it
            raise
    code = process.returncode
    if "error" in last:
        error = BadInput if last["error"]["kind"] == "bad_input" else Unreachable
        raise error(last["error"]["message"])
    if "suite" not in last:
        raise GeneratorFailed(f"the load generator ended with code {code} and no verdict:\n" + "\n".join(words))
    return Verdict.from_json(last)


def _parsed(line: str) -> Mapping[str, Any] | None:
    """The JSON object of a line; None for what libraries write between."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
