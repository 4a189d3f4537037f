"""What it costs callers to change the model under them: new versions, bad ones, and back, under steady load."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from bundle import Bundle, load_bundle, write_bundle
from millrace.decisions.v1 import decisions_pb2 as pb

from pipelines import decisions
from pipelines.bench import at_least, at_most
from pipelines.bench.open_loop import Answer, OpenLoop, Question, failures
from pipelines.bench.planted import spoil
from pipelines.deploy import deploy, rollback
from pipelines.errors import DeployError, UnavailableError
from pipelines.progress import SILENT, Progress
from pipelines.triton_repository import Repository

DEADLINE_S: Final = 0.5
WITHIN_S: Final = 30.0  # for a swap to be seen
REST_S: Final = 2.0  # between swaps, and of each swap after its version answers
ROLLBACKS: Final = 3
_IN_A_ROW: Final = 20
_JUDGED_S: Final = 2.0  # a gateway takes .1 s to refuse a bundle


@dataclass(frozen=True)
class Servers:
    """Where versions go; `repository` has planted templates (`bench.planted`). `gateway` is host:port."""

    gateway: str
    kafka: str
    triton: str
    repository: Repository


def another(bundle: Bundle, version: int) -> Path:
    """The same model as another version beside it: for serving it is new, its scores are the same."""
    folder = bundle.folder.with_name(str(version))
    manifest = bundle.manifest.model_copy(update={"version": version, "files": {}})
    write_bundle(folder, manifest, {name: bundle.folder / name for name in bundle.manifest.files})
    return folder


def run(
    bundle: Bundle,
    servers: Servers,
    questions: Sequence[Question],
    apart: Executor,
    *,
    swaps: int = 5,
    rate: float = 150.0,
    before_s: float = 20.0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Swap, refuse, roll back, and let a version go bad, while `rate` requests a second are sent.

    Args:
        bundle: what serves.
        servers: of the running stack.
        questions: what is asked.
        apart: another process, where versions are deployed as by the command, so that its work is not the load
            generator's.
        swaps: new versions, one after the other.
        rate: requests a second, sent by the clock.
        before_s: measured time without a swap.
        progress: is told each step.

    Raises:
        UnavailableError: a server does not answer, or a version never does.
    """
    usecase, version = bundle.manifest.usecase, bundle.manifest.version
    folders = [another(bundle, version + k) for k in range(1, swaps + 1)]
    with OpenLoop([servers.gateway], usecase, questions, rate=rate, deadline_s=DEADLINE_S) as loop:
        bench = _Bench(loop, servers, usecase, apart)
        progress.stage("answer without a swap")
        bench.wait_for(version, time.monotonic())
        time.sleep(REST_S)
        begun = time.monotonic()
        time.sleep(before_s)
        before = loop.between(begun, time.monotonic())
        progress.stage("swap")
        windows = [bench.swap(folder) for folder in folders]
        progress.stage("corrupt versions")
        refused = bench.corrupt(folders[-1])
        progress.stage("roll back and forth")
        rollbacks = [bench.back(bundle.folder.parent.parent) for _ in range(ROLLBACKS)]
        progress.stage("a version that goes bad while it serves")
        taken_back_s = bench.goes_bad()
        answers = loop.answers
    during = [answer for window in windows for answer in window]
    return _result(before, during, answers, rollbacks, refused, taken_back_s, swaps=swaps, rate=rate)


class _Bench:
    """Actions under load; each returns when its effect is seen in the answers."""

    def __init__(self, loop: OpenLoop, servers: Servers, usecase: str, apart: Executor) -> None:
        self._loop = loop
        self._to: dict[str, Any] = {
            "kafka": servers.kafka, "triton": servers.triton, "repository": servers.repository,
        }  # fmt: skip
        self._repository = servers.repository
        self._usecase = usecase
        self._apart = apart

    def wait_for(self, version: int, since: float) -> None:
        """Until `_IN_A_ROW` answers in a row are of this version's rung MODEL. UnavailableError."""

        def holds(answer: Answer) -> bool:
            return (answer.version, answer.rung) == (version, "MODEL")

        if self._loop.wait_for(holds, since=since, count=_IN_A_ROW, within_s=WITHIN_S) is None:
            odd = {
                (answer.code, answer.rung, answer.version, answer.reason) for answer in self._loop.between(since)[-50:]
            }
            raise UnavailableError(f"version {version} does not answer within {WITHIN_S:.0f} s: {sorted(odd)[:5]}")

    def swap(self, folder: Path) -> list[Answer]:
        """The answers while a new version was deployed, and shortly after."""
        since = time.monotonic()
        self._apart.submit(deploy, folder, **self._to).result()
        self.wait_for(int(folder.name), since)
        time.sleep(REST_S)
        window = self._loop.between(since, time.monotonic())
        time.sleep(REST_S)
        return window

    def corrupt(self, good: Path) -> int:
        """How many of three corrupt versions were refused while the old one went on to serve."""
        serves, usecase, kafka = int(good.name), self._usecase, self._to["kafka"]
        folder = good.with_name(str(serves + 1))
        shutil.copytree(good, folder)
        raw = bytearray((folder / "model.onnx").read_bytes())
        raw[-20] ^= 1
        (folder / "model.onnx").write_bytes(raw)
        since, refused = time.monotonic(), 0
        refused += self._refused(lambda: deploy(folder, **self._to))
        # Past all checks of `deploy`, as if somebody had changed the file afterwards.
        state = decisions.serving_state(kafka, usecase)
        for pin in (_with_version(state.pin, serves + 1), state.pin):
            self._announce(state, pin)
            time.sleep(_JUDGED_S)
        refused += all(answer.version == serves for answer in self._loop.between(since) if answer.code == "OK")
        shutil.rmtree(folder)
        another(load_bundle(good), serves + 1)
        broken = self._repository.templates.with_name("broken-templates")
        shutil.copytree(self._repository.templates, broken, dirs_exist_ok=True)
        (broken / "model.py").write_text("raise RuntimeError('no such model')\n")
        repository = replace(self._repository, templates=broken)
        refused += self._refused(lambda: deploy(folder, **(self._to | {"repository": repository})))
        if any(answer.version != serves for answer in self._loop.between(since) if answer.code == "OK"):
            return 0
        return refused

    def _announce(self, state: pb.ServingState, pin: pb.ModelPin) -> None:
        after = pb.ServingState()
        after.CopyFrom(state)
        after.pin.CopyFrom(pin)
        said = {"reason": "bench swap: corrupt", "actor": "millrace bench swap"}
        decisions.change(self._to["kafka"], self._usecase, pb.DECISION_KIND_DEPLOY, lambda _: after, **said)

    def _refused(self, attempt: Callable[[], object]) -> bool:
        try:
            attempt()
        except DeployError:
            return True
        return False

    def back(self, bundles: Path) -> float:
        """Seconds from the command until no answer is of the version that it took back."""
        kafka = self._to["kafka"]
        wanted = decisions.serving_state(kafka, self._usecase).previous.version
        since = time.monotonic()
        self._apart.submit(rollback, self._usecase, bundles=bundles, **self._to).result()
        self.wait_for(wanted, since)
        took = self._last(since, lambda answer: answer.version != wanted)
        time.sleep(REST_S)
        return took

    def goes_bad(self) -> float:
        """Seconds until no answer shows that the version which serves scores NaN: another version answers."""
        state = decisions.serving_state(self._to["kafka"], self._usecase)
        good, bad = state.previous, state.pin
        since = time.monotonic()
        heal = spoil(self._repository.root / bad.triton_name / str(bad.version), "nan")
        try:
            self.wait_for(good.version, since)
        finally:
            heal()
        return self._last(since, lambda answer: (answer.version, answer.rung) != (good.version, "MODEL"))

    def _last(self, since: float, holds: Callable[[Answer], bool]) -> float:
        ends = [answer.ended for answer in self._loop.between(since) if holds(answer)]
        return max(ends, default=since) - since


def _with_version(pin: pb.ModelPin, version: int) -> pb.ModelPin:
    """The pin with another version, and so with a digest that its files do not have."""
    changed = pb.ModelPin()
    changed.CopyFrom(pin)
    changed.version = version
    return changed


def _p99_ms(answers: Sequence[Answer]) -> float:
    return float(np.quantile([answer.ms for answer in answers if answer.code == "OK"], 0.99))


def _result(
    before: Sequence[Answer],
    during: Sequence[Answer],
    answers: Sequence[Answer],
    rollbacks: Sequence[float],
    refused: int,
    taken_back_s: float,
    *,
    swaps: int,
    rate: float,
) -> dict[str, Any]:
    failed = failures(answers)
    off_model = dict(
        Counter(answer.reason for answer in [*before, *during] if answer.code == "OK" and answer.rung != "MODEL")
    )
    result: dict[str, Any] = {
        "failed": sum(failed.values()),
        "failed_by_code": dict(failed),
        "p99_before_ms": _p99_ms(before),
        "p99_during_ms": _p99_ms(during),
        "rollback_s": max(rollbacks),
        "corrupt_refused": refused,
        "taken_back_s": taken_back_s,
        "off_model": sum(off_model.values()),
        "off_model_why": off_model,
        "swaps": swaps,
        "requests": len(answers),
        "rate": rate,
    }
    result["p99_ratio"] = result["p99_during_ms"] / result["p99_before_ms"]

    def row(when: str, some: Sequence[Answer]) -> dict[str, Any]:
        taken = [answer.ms for answer in some if answer.code == "OK"]
        return {
            "when": when, "requests": len(some), "failed": sum(failures(some).values()),
            "p50_ms": float(np.median(taken)), "p99_ms": _p99_ms(some), "max_ms": max(taken),
        }  # fmt: skip

    return {
        **result,
        "what": (
            f"{swaps} new versions, 3 corrupt ones, {len(rollbacks)} rollbacks and one that goes bad under {rate:g} "
            "requests/s × 100 candidates; gateway, Triton, Kafka, Valkey and this generator on one machine"
        ),
        "table": [row("without a swap", before), row(f"during {swaps} swaps", during), row("all of it", answers)],
        "bars": [
            at_most(result, "failed", 0),
            at_most(result, "p99_ratio", 2.0),
            at_most(result, "rollback_s", 2.0),
            at_least(result, "corrupt_refused", 3),
            at_most(result, "taken_back_s", 10.0),
            at_most(result, "off_model", 0),
        ],
    }
