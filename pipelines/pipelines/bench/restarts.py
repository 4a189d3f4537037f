"""Two gateways restarted in turn under load, as a rolling update does it: nobody who asks by our client may notice."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from pipelines.bench import at_least, at_most
from pipelines.bench.open_loop import DEADLINE_S, OpenLoop, Question, failures
from pipelines.progress import SILENT, Progress

REQUESTS: Final = 10_000
DRAIN_S: Final = 20.0
# From one gateway's return to the next one's end, as `minReadySeconds` of the Deployment: a caller's channel tries a
# server that was away every two seconds, and our client asks it again after one.
MIN_READY_S: Final = 4.0
_TOLD: Final = 10

Restart = Callable[[int], float]
"""Ends the gateway of that number, starts it anew and returns when it is ready; the seconds that it took to end."""


def run(
    targets: Sequence[str],
    usecase: str,
    questions: Sequence[Question],
    restart: Restart,
    *,
    how: str,
    rolls: int = 10,
    requests: int = REQUESTS,
    rate: float = 100.0,
    deadline_s: float = DEADLINE_S,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Restart every gateway `rolls` times, one after the other, while requests go on until there were `requests`.

    Args:
        targets: host:port of each gateway.
        usecase, questions: what is asked, in turn.
        restart: of one of them.
        how: in words, for the report.
        rolls, requests: at least so many of each.
        rate: requests a second.
        deadline_s: of each request.
        progress: is told each restart.

    Raises:
        UnavailableError: no gateway answers.
    """
    ended_s: list[float] = []
    with OpenLoop(targets, usecase, questions, rate=rate, deadline_s=deadline_s) as loop:
        begun = time.monotonic()
        progress.stage("restart under load", rolls * len(targets))
        for _ in range(rolls):
            for number in range(len(targets)):
                ended_s.append(restart(number))
                time.sleep(MIN_READY_S)
                progress.advance(1)
        time.sleep(max(0.0, begun + requests / rate - time.monotonic()))
        seconds = time.monotonic() - begun
        loop.close()
        answers = loop.answers
    failed = failures(answers)
    bad = [each for each in answers if each.code != "OK"]
    keys = {
        "failed": sum(failed.values()),
        "requests": len(answers),
        "restarts": len(ended_s),
        "failed_by_code": failed,
        "p50_ms": round(float(np.median([each.ms for each in answers])), 2),
        "p99_ms": round(float(np.percentile([each.ms for each in answers], 99)), 2),
        "model_share": round(sum(each.rung == "MODEL" for each in answers) / max(1, len(answers)), 4),
        "drain_max_s": round(max(ended_s), 2),
        "seconds": round(seconds, 1),
        "odd": [f"{each.sent - begun:+.2f} s, {each.ms:.0f} ms: {each.code} {each.reason}" for each in bad[:_TOLD]],
    }
    return {
        **keys,
        "what": f"{len(targets)} gateways on a real stack, {rolls} times each {how}, one after the other, "
        f"{MIN_READY_S:g} s after the former is ready; "
        f"{rate:g} requests/s x {len(questions[0].item_ids)} candidates by millrace.client with both addresses",
        "table": [],
        "bars": [
            at_most(keys, "failed", 0),
            at_least(keys, "requests", requests),
            at_least(keys, "restarts", rolls * len(targets)),
            at_most(keys, "drain_max_s", DRAIN_S),
        ],
    }
