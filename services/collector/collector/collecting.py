"""The core: judge each record, stamp what is missing, append the good ones to the log, answer by index."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from definitions.usecase import UseCase
from millrace.events.v1 import events_pb2 as pb
from servicekit.topics import id_key, topic

from collector import validation
from collector.catalogue import Catalogue
from collector.errors import InvalidRequest

MAX_RECORDS = 2_000  # a message; judging more at once would hold the event loop for over 20 ms


class Record(NamedTuple):
    """What is appended: key and value as they lie on the log."""

    key: bytes
    value: bytes


class Place(NamedTuple):
    """Where an acknowledged record lies."""

    partition: int
    offset: int


class Log(Protocol):
    """The log, as the core needs it."""

    async def append(self, topic: str, records: Sequence[Record], budget_s: float, *, wait: bool) -> Sequence[Place]:
        """Append and wait until all in-sync replicas have every record; places in the records' order.

        Args:
            topic: where to.
            records: not empty.
            budget_s: longest time to wait.
            wait: where too many records are in flight, wait for room instead of refusing.

        Raises:
            Overloaded: no room; none of the records was sent.
            LogDown: not all were acknowledged in time; each of them may or may not land.
        """


class Outcome(NamedTuple):
    """The answer: which records are on the log, which were rejected and why; both by index in the request."""

    accepted: list[tuple[int, Place]]
    rejected: list[tuple[int, str]]


class Collector:
    """Takes batches of one use case. `clock_us` tells the time that "too far ahead" is judged against."""

    def __init__(
        self,
        catalogues: Mapping[str, tuple[UseCase, Catalogue]],
        log: Log,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._catalogues = catalogues
        self._log = log
        self._clock_us = clock_us

    async def publish(
        self, usecase_name: str, events: Sequence[pb.Interaction], budget_s: float, *, wait: bool = False
    ) -> Outcome:
        """Append what people did; an event without a category gets its item's (the message is changed).

        Raises:
            InvalidRequest: unknown use case, or too many events.
            Overloaded, LogDown: as `Log.append`.
        """
        usecase, catalogue = self._find(usecase_name, "events", len(events))
        now_us = self._clock_us()
        good: list[int] = []
        records: list[Record] = []
        rejected: list[tuple[int, str]] = []
        for index, event in enumerate(events):
            if fault := validation.event_fault(usecase, event, catalogue.erased, now_us):
                rejected.append((index, fault))
                continue
            if event.category == 0:
                event.category = catalogue.category_of(event.item_id)
            good.append(index)
            records.append(Record(id_key(event.user_id), event.SerializeToString()))
        places = await self._append(topic(usecase.name, "interactions"), records, budget_s, wait=wait)
        return Outcome(list(zip(good, places, strict=True)), rejected)

    async def put_items(self, usecase_name: str, items: Sequence[pb.Item], budget_s: float) -> Outcome:
        """Append items of the catalogue; from the answer on, their categories are stamped. Errors as `publish`."""
        usecase, catalogue = self._find(usecase_name, "items", len(items))
        faults = [validation.item_fault(usecase, item) for item in items]
        good = [index for index, fault in enumerate(faults) if fault is None]
        records = [Record(id_key(items[index].id), items[index].SerializeToString()) for index in good]
        places = await self._append(topic(usecase.name, "items"), records, budget_s, wait=True)
        for index, place in zip(good, places, strict=True):
            catalogue.apply_item(items[index], place.offset)
        return Outcome(list(zip(good, places, strict=True)), _by_index(faults))

    async def put_users(self, usecase_name: str, users: Sequence[pb.User], budget_s: float) -> Outcome:
        """Append users; `deleted` erases, and from the answer on the id's events are refused. Errors as `publish`."""
        usecase, catalogue = self._find(usecase_name, "users", len(users))
        faults = [validation.user_fault(usecase, user, catalogue.erased) for user in users]
        good = [index for index, fault in enumerate(faults) if fault is None]
        records = [Record(id_key(users[index].id), users[index].SerializeToString()) for index in good]
        places = await self._append(topic(usecase.name, "users"), records, budget_s, wait=True)
        for index in good:
            catalogue.apply_user(users[index])
        return Outcome(list(zip(good, places, strict=True)), _by_index(faults))

    def _find(self, name: str, field: str, count: int) -> tuple[UseCase, Catalogue]:
        if (found := self._catalogues.get(name)) is None:
            served = ", ".join(sorted(self._catalogues))
            raise InvalidRequest(f"usecase: {name!r} is not served here; use one of {served}")
        if count > MAX_RECORDS:
            raise InvalidRequest(f"{field}: {count} in one message; send at most {MAX_RECORDS}")
        return found

    async def _append(self, name: str, records: Sequence[Record], budget_s: float, *, wait: bool) -> Sequence[Place]:
        return await self._log.append(name, records, budget_s, wait=wait) if records else ()


def _by_index(faults: Sequence[str | None]) -> list[tuple[int, str]]:
    return [(index, fault) for index, fault in enumerate(faults) if fault is not None]
