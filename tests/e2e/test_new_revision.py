"""A feature is added to a use case while it is served: no request fails, no process restarts, and a rollback works."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from definitions.layout import layout_of
from definitions.usecase import load_usecase
from local_stack.harness import NativeStack, free_offset
from millrace.client import Entity, Event, EventClient, MillraceError, RankingClient
from pipelines.bench.planted import small_bundle

pytestmark = pytest.mark.real

USERS, ITEMS, EVENTS = range(1, 21), range(1, 31), 600
PATIENCE_S = 30.0
BEFORE = """
usecase: shop
actions: [{name: view, label: 0}, {name: buy, label: 1}]
attributes: {item: {colour: category}}
category: item.colour
features:
  - {name: u_bought, of: user, group: base, kind: count, action: buy, windows: [all]}
  - {name: i_bought, of: item, group: base, kind: count, action: buy, windows: [all]}
"""
ADDED = "  - {name: i_viewed, of: item, group: base, kind: count, action: view, windows: [24h, all]}\n"


@dataclass
class Load:
    """Ranks for one user after the other until it is ended; what answered, in order, each once in a row."""

    stack: NativeStack
    answered: list[tuple[int, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    requests: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> "Load":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def until(self, version: int) -> None:
        """Until the newest answers are this version's."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self.answered[-1:] == [(version, "MODEL")], PATIENCE_S)
        assert arrived, (self.answered, self.failed)

    def _run(self) -> None:
        with RankingClient(self.stack.address("gateway")) as rankings:
            while not self._ended.wait(0.025):
                self.requests += 1
                user = self.requests % len(USERS) + 1
                try:
                    ranking = rankings.rank("shop", user, ITEMS, timeout_s=5.0)
                except MillraceError as exc:
                    self.failed.append(f"{self.answered[-1:]}: {exc}")
                    continue
                answer = ranking.model_version, ranking.served_by
                with self._changed:
                    if self.answered[-1:] != [answer]:
                        self.answered.append(answer)
                    self._changed.notify_all()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NativeStack, Path]]:
    """A stack of its own that serves version 1 of `shop`, and the file that declares it."""
    home = tmp_path_factory.mktemp("shop")
    path = home / "shop.yaml"
    path.write_text(BEFORE)
    with free_offset() as offset:
        stack = NativeStack(home / "home", offset, usecases=(str(path),))
        try:
            stack.millrace("up", "--profile", "embedded")
            publish(stack)
            write_version(stack, path, 1, revision=1)
            stack.millrace("deploy")
            yield stack, path
        finally:
            stack.millrace("down")


def publish(stack: NativeStack) -> None:
    with EventClient(stack.address("collector")) as log:
        log.put_items("shop", [Entity(id=each, attributes={"colour": [each % 3 + 1]}) for each in ITEMS])
        events = [
            Event(user_id=n % len(USERS) + 1, item_id=n * 7 % len(ITEMS) + 1, action=n % 2, value=1.0)
            for n in range(EVENTS)
        ]
        assert not log.publish("shop", events).rejected


def write_version(stack: NativeStack, path: Path, version: int, *, revision: int) -> None:
    """A bundle of the file as it is now, as training writes it."""
    small_bundle(stack.home / "bundles" / "shop" / str(version), layout_of(load_usecase(path), revision))


def test_a_feature_is_added_without_a_failed_request(shop: tuple[NativeStack, Path]) -> None:
    """Built beside, switched to, returned from, switched to again; then the former goes, and all of it under load."""
    stack, path = shop
    before = stack.pids()
    with Load(stack) as load:
        load.until(1)
        path.write_text(BEFORE + ADDED)
        write_version(stack, path, 2, revision=2)
        assert "rebuild features --revision 2" in stack.millrace("deploy", code=2)["error"]

        (built,) = stack.millrace("rebuild", "features", "--revision", "2")["rebuilt"]
        assert (2, EVENTS, len(USERS)) == (built["revision"], built["events"], built["users"])
        assert [(1, "MODEL")] == load.answered
        stack.millrace("deploy")
        load.until(2)
        stack.millrace("rollback")
        load.until(1)
        stack.millrace("deploy")
        load.until(2)
        after = stack.pids()
        retired = stack.millrace("retire", "1", "--yes")
        load.until(2)

    assert [] == load.failed
    assert [(1, "MODEL"), (2, "MODEL"), (1, "MODEL"), (2, "MODEL")] == load.answered
    assert before == {name: pid for name, pid in after.items() if name != "features-2"}
    assert (1, len(USERS)) == (retired["given_up_version"], retired["rows"])
    ended = stack.pids()
    assert ({"features"}, before["gateway"]) == (after.keys() - ended.keys(), ended["gateway"])


def test_what_the_new_revision_serves_is_what_the_log_says(shop: tuple[NativeStack, Path]) -> None:
    """Its rows and item aggregates were complete at the first request, the new column's past included."""
    stack, _ = shop
    found = stack.millrace("consistency")

    assert found["impressions"] > 0
    assert (0, []) == (found["logic"], found["examples"])
    assert "i_viewed_all" in found["features"]
    assert "no former version" in stack.millrace("rollback", code=1)["error"]
