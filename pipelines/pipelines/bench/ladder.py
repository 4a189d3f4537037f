"""What every rung of the gateway's ladder is worth, and what a fault costs on the way down: each one injected for real.

The traffic never stops: a fault begins, two seconds are its own, then the rung that must answer is measured, then the
fault ends and MODEL has to come back. Quality is NDCG@10 of what that rung answered, by the truth of events that the
stack has never seen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from definitions.events import EventColumns

from pipelines.bench import Bar, at_least, at_most
from pipelines.bench.open_loop import DEADLINE_S, Answer, OpenLoop, Question, failures
from pipelines.errors import UnavailableError
from pipelines.evaluation.metrics import ndcg
from pipelines.progress import SILENT, Progress

RUNGS: Final = ("MODEL", "LOCAL_MODEL", "PRECOMPUTED", "POPULAR")
FIRST_S: Final = 2.0  # of a fault: until the breaker has opened
FIRST_SHARE: Final = 0.001
GONE_S: Final = 2.0  # a deleted item may be seen that long
CANDIDATES: Final = 100
_GRACE_MS: Final = 20.0  # beyond the deadline
_RECOMMEND_EVERY: Final = 5
_MEASURE_S: Final = 4.0
_WATCH_S: Final = 3.0  # for a deleted item, after its two seconds
_STEADY: Final = 25  # answers in a row
_PATIENCE_S: Final = 60.0
_TOLD: Final = 5
_STRANGER: Final = 1 << 61

Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Case:
    """A fault. `rung` must answer after it.

    `strangers`: it is asked for users whom nobody knows. `quality_of_rung`: the order is the rung's own, with all that
    it reads there. `doomed`: an item that is deleted meanwhile; 0 is none.
    """

    name: str
    rung: str
    inject: Callable[[], None]
    heal: Callable[[], None]
    strangers: bool = False
    quality_of_rung: bool = True
    doomed: int = 0


@dataclass(frozen=True)
class Catalogue:
    """Takes an item away and puts it back, through the collector; both return when it is on the log."""

    delete: Callable[[int], None]
    restore: Callable[[int], None]


def questions_of(events: EventColumns, labels: npt.NDArray[np.int64], fillers: Ids, *, seed: int = 0) -> list[Question]:
    """One `Rank` of 100 for every user with a positive event: the user's items, filled up with others of `fillers`.

    Only the judged items count for the quality, in the order in which the answer has them (condensed lists: Sakai,
    SIGIR 2007), so that nobody has to guess what the user thinks of the others. Features are evaluated at the user's
    first event.

    Args:
        events: that the stack has not seen, with their `labels` int64 (n,), 0 or 1.
        fillers: uint64 (m,), items to fill up with, best known first.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    found = []
    for user in np.unique(events.user_id).tolist():
        rows = np.flatnonzero(events.user_id == user)
        rows = draw.permutation(rows)[:CANDIDATES]
        judged, first = np.unique(events.item_id[rows], return_index=True)
        truth = labels[rows][first]
        if not truth.any():
            continue
        others = fillers[~np.isin(fillers, judged)]
        filled = np.concatenate([judged, others[: CANDIDATES - len(judged)]])
        time_us = int(events.event_time_us[events.user_id == user].min())
        found.append(Question(user, draw.permutation(filled), judged, truth, time_us))
    return found


def run(
    gateway: str,
    usecase: str,
    questions: Sequence[Question],
    cases: Sequence[Case],
    catalogue: Catalogue,
    *,
    where: str,
    offline: Mapping[str, float | None] | None = None,
    rate: float = 100.0,
    measure_s: float = _MEASURE_S,
    deadline_s: float = DEADLINE_S,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Inject each case under load, and measure.

    Args:
        gateway: host:port.
        usecase: its name.
        questions: what is asked, in turn; each is asked once at least while a fault lasts.
        cases: in this order, the first without a fault; MODEL must answer before each and after it.
        catalogue: of the doomed items.
        where: in words, what runs, for the report.
        offline: rung -> NDCG@10 that the bundle says of itself, where it does.
        rate: requests a second, every fifth a `Recommend`.
        measure_s: least time that a rung is measured.
        deadline_s: of each request.
        progress: is told each case.

    Raises:
        UnavailableError: nobody answers, a rung is never reached, or MODEL does not come back; or a bar is missed
            before any fault, so that nothing could be said of faults.
    """
    where = f"{where}; {rate:g} requests/s x {CANDIDATES} candidates, deadline {deadline_s * 1e3:g} ms, all the time"

    def result(found: Sequence[_Found]) -> dict[str, Any]:
        return _result(found, questions, where, offline or {}, rate, deadline_s)

    with OpenLoop(
        [gateway], usecase, questions, rate=rate, deadline_s=deadline_s, recommend_every=_RECOMMEND_EVERY
    ) as loop:
        begun = time.monotonic()
        _await(loop, "MODEL", begun, "before the first fault")
        found = []
        for case in cases:
            found.append(_Run(loop, case, catalogue, rate, measure_s, progress).run())
            if len(found) == 1:
                refuse_unfit(result(found)["bars"])
        loop.close()
    return result(found)


def refuse_unfit(bars: Sequence[Bar]) -> None:
    """What a machine makes of the bars while nothing is broken. Raises UnavailableError where one is missed."""
    missed = [f"{bar.key} {bar.measured:g} for {bar.limit:g}" for bar in bars if not bar.held]
    if missed:
        raise UnavailableError(
            f"without any fault the stack already misses {', '.join(missed)}: this machine is too busy, or too small, "
            "to judge faults on, and none was judged; run again when nothing else runs, or with a lower --rate"
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """One case: its answers in the first two seconds, and later; those of the measured part, and of the deletion."""

    case: Case
    began: float
    first: list[Answer]
    later: list[Answer]
    measured: list[Answer]
    mislabelled: list[Answer]
    reached_s: float
    back_s: float
    doomed_before: int
    doomed_after: int


class _Run:
    """One case, from its beginning to MODEL's return."""

    def __init__(
        self, loop: OpenLoop, case: Case, catalogue: Catalogue, rate: float, measure_s: float, progress: Progress
    ) -> None:
        self._loop = loop
        self._case = case
        self._catalogue = catalogue
        self._known = loop.questions
        asked = len(loop.questions) / rate * _RECOMMEND_EVERY / (_RECOMMEND_EVERY - 1)
        self._measure_s = max(measure_s, 1.1 * asked)
        self._progress = progress

    def run(self) -> _Found:
        """All of it."""
        loop, case = self._loop, self._case
        self._progress.stage(case.name)
        if case.strangers:
            loop.ask([question.by(_STRANGER + place) for place, question in enumerate(self._known)])
        began = time.monotonic()
        case.inject()
        injected = time.monotonic()
        reached_s = _await(loop, case.rung, began, case.name)
        _sleep_until(began + FIRST_S)
        measured_from = time.monotonic()
        _sleep_until(measured_from + self._measure_s)
        measured_to = time.monotonic()
        before, after = self._deleted() if case.doomed else (0, 0)
        faulty_to = time.monotonic()
        case.heal()
        back_s = _await(loop, "MODEL", time.monotonic(), f"after {case.name}")
        loop.ask(self._known)
        over = time.monotonic()
        return _Found(
            case=case,
            began=began,
            first=loop.between(began, began + FIRST_S),
            later=loop.between(began + FIRST_S, over),
            measured=loop.between(measured_from, measured_to),
            mislabelled=[
                each
                for each in loop.between(began, over)
                if _mislabelled(each) or (injected <= each.sent < each.ended < faulty_to and _claims(each, case.rung))
            ],
            reached_s=reached_s,
            back_s=back_s,
            doomed_before=before,
            doomed_after=after,
        )

    def _deleted(self) -> tuple[int, int]:
        """Answers of the rung with the doomed item: in the seconds before it was deleted, and two seconds after."""
        case, since = self._case, time.monotonic() - self._measure_s
        self._catalogue.delete(case.doomed)
        gone = time.monotonic() + GONE_S
        _sleep_until(gone + _WATCH_S)
        try:
            before = self._loop.between(since, gone - GONE_S)
            after = self._loop.between(gone)
            return _holding(before, case.doomed, case.rung), _holding(after, case.doomed)
        finally:
            self._catalogue.restore(case.doomed)


def _holding(answers: Sequence[Answer], item_id: int, rung: str = "") -> int:
    return sum(
        each.item_ids is not None and each.rung.startswith(rung) and bool((each.item_ids == np.uint64(item_id)).any())
        for each in answers
    )


def _await(loop: OpenLoop, rung: str, since: float, what: str) -> float:
    """Seconds until that rung answers steadily. Below MODEL one probe a second may still find MODEL well."""
    waited = loop.wait_for(lambda each: each.rung == rung, since=since, count=_STEADY, within_s=_PATIENCE_S)
    if waited is None:
        newest = [f"{each.rung or each.code} {each.reason}" for each in loop.between(since)[-5:]]
        raise UnavailableError(f"{what}: {rung} does not answer within {_PATIENCE_S:.0f} s; last: {newest}")
    return waited


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _claims(answer: Answer, rung: str) -> bool:
    """Whether an answer says MODEL while no model answers."""
    return answer.rung == "MODEL" != rung


def _mislabelled(answer: Answer) -> bool:
    """Whether an answer does not say which rung it is from, or, below MODEL, why each better one was left."""
    if answer.code != "OK":
        return False
    if answer.rung not in RUNGS:
        return True
    said = [part.partition(":") for part in answer.reason.split(",")] if answer.reason else []
    better = RUNGS[: RUNGS.index(answer.rung)]
    return tuple(rung for rung, _, _ in said) != better or not all(reason for _, _, reason in said)


def quality(answers: Sequence[Answer], questions: Sequence[Question]) -> float | None:
    """NDCG@10 of the judged items in the order of the newest answer to each question; mean over users."""
    newest = {each.question: each.item_ids for each in answers if each.question >= 0}
    labels, scores, users = [], [], []
    for place, item_ids in newest.items():
        question = questions[place]
        order = {item: at for at, item in enumerate([] if item_ids is None else item_ids.tolist())}
        for item, label in zip(question.judged.tolist(), question.labels.tolist(), strict=True):
            if item in order:  # one that is deleted at the moment is not
                labels.append(label)
                scores.append(-float(order[item]))
                users.append(place)
    if not labels:
        return None
    return ndcg(np.array(labels, np.int64), np.array(scores), np.array(users, np.uint64), k=10)


def _p99(answers: Sequence[Answer]) -> float:
    return round(float(np.percentile([each.ms for each in answers], 99)), 2) if answers else float("nan")


def _result(
    found: Sequence[_Found],
    questions: Sequence[Question],
    where: str,
    offline: Mapping[str, float | None],
    rate: float,
    deadline_s: float,
) -> dict[str, Any]:
    first = [each for one in found for each in one.first]
    later = [each for one in found for each in one.later]
    ok = sum(each.code == "OK" for each in (*first, *later))
    failed = failures(later)
    rungs: dict[str, dict[str, Any]] = {}
    for rung in RUNGS:
        own = [one for one in found if one.case.rung == rung]
        answers = [each for one in own for each in one.measured if each.rung == rung and each.question >= 0]
        if not answers:
            continue
        valued = [quality(_on(one), questions) for one in own if one.case.quality_of_rung]
        values = [value for value in valued if value is not None]
        rungs[rung] = {
            "ndcg_at_10": round(float(np.mean(values)), 4) if values else None,
            "p99_ms": _p99(answers),
            "offline_ndcg_at_10": None if offline.get(rung) is None else round(float(offline[rung] or 0), 4),
            "answers": len(answers),
        }
    keys = {
        "failed_first_2s": sum(failures(first).values()),
        "failed_first_2s_share": round(sum(failures(first).values()) / max(1, len(first)), 5),
        "failed_after_2s": sum(failed.values()),
        "failed_by_code": failed,
        "labelled_share": round(1 - sum(len(one.mislabelled) for one in found) / max(1, ok), 6),
        "rungs": rungs,
        "rungs_reached": len(rungs),
        "worst_p99_ms": max((each["p99_ms"] for each in rungs.values()), default=float("nan")),
        "deleted_seen_before": min((one.doomed_before for one in found if one.case.doomed), default=0),
        "deleted_served": sum(one.doomed_after for one in found),
        "requests": len(first) + len(later),
        "rate": rate,
        "odd": [line for one in found for line in _odd(one)],
    }
    return {
        **keys,
        "what": f"{where}; {len(questions)} users of events after all that the stack knows; {len(found)} faults",
        "table": [_row(one, questions) for one in found],
        "bars": _bars(keys, found, deadline_s),
    }


def _odd(found: _Found) -> list[str]:
    """What failed, and what was labelled otherwise than it can be: the first of each case, with when it was sent."""

    def said(answer: Answer, what: str) -> str:
        after = f"{answer.sent - found.began:+.2f} s, {answer.ms:.0f} ms"
        return f"{found.case.name}: {after}: {what} {answer.rung} {answer.reason}".rstrip()

    bad = [each for each in (*found.first, *found.later) if each.code != "OK"]
    told = [said(each, each.code) for each in bad[:_TOLD]] + [said(each, "label") for each in found.mislabelled[:_TOLD]]
    left = len(bad) + len(found.mislabelled) - len(told)
    return [*told, f"{found.case.name}: {left} more"] if left else told


def _on(found: _Found) -> list[Answer]:
    return [each for each in found.measured if each.rung == found.case.rung]


def _row(found: _Found, questions: Sequence[Question]) -> dict[str, Any]:
    answers = [each for each in found.measured if each.code == "OK"]
    value = quality(_on(found), questions)
    return {
        "fault": found.case.name,
        "rung": found.case.rung,
        "share": round(len(_on(found)) / max(1, len(answers)), 4),
        "ndcg_at_10": "-" if value is None else round(value, 4),
        "p50_ms": round(float(np.median([each.ms for each in answers])), 2) if answers else "-",
        "p99_ms": _p99([each for each in _on(found) if each.question >= 0]),
        "failed_first_2s": sum(failures(found.first).values()),
        "failed_later": sum(failures(found.later).values()),
        "reached_s": round(found.reached_s, 2),
        "back_s": round(found.back_s, 2),
        "deleted": f"{found.doomed_before} -> {found.doomed_after}" if found.case.doomed else "-",
    }


def _bars(keys: Mapping[str, Any], found: Sequence[_Found], deadline_s: float) -> list[Bar]:
    bars = [
        at_most(keys, "failed_first_2s_share", FIRST_SHARE),
        at_most(keys, "failed_after_2s", 0),
        at_least(keys, "labelled_share", 1.0),
        at_least(keys, "rungs_reached", len({one.case.rung for one in found})),
        at_most(keys, "worst_p99_ms", deadline_s * 1e3 + _GRACE_MS),
    ]
    if any(one.case.doomed for one in found):
        bars += [at_least(keys, "deleted_seen_before", 1), at_most(keys, "deleted_served", 0)]
    return bars
