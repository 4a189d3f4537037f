"""Rules on a whole stack: in force within two seconds without a deployment, refused by field, taken back."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_stack.harness import NativeStack, free_offset
from millrace.client import RankingClient

pytestmark = pytest.mark.real

IN_FORCE_S = 2.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    with free_offset() as offset:
        made = NativeStack(tmp_path_factory.mktemp("rules"), offset)
        made.millrace("up", "--profile", "embedded")
        made.millrace("simulate", "--requests", "20", "--users", "20", "--items", "60", "--rate", "0")
        yield made
        made.millrace("down")


def answer_when(stack: NativeStack, holds: Callable[[Any], bool]) -> tuple[Any, float]:
    """The first answer that holds, and how long that took."""
    began = time.monotonic()
    with RankingClient(stack.address("gateway")) as client:
        while not holds(answer := client.recommend("movies", 3, limit=5, timeout_s=5.0)):
            assert time.monotonic() < began + 10 * IN_FORCE_S, answer
    return answer, time.monotonic() - began


def rules(tmp_path: Path, said: dict[str, Any]) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps(said))  # JSON is YAML
    return str(path)


def test_rules_change_what_is_served_and_back(stack: NativeStack, tmp_path: Path) -> None:
    """A pin stands on whatever rung answers; its reason tells; the decision names its version."""
    before, _ = answer_when(stack, lambda answer: len(answer.items) == 5)
    wanted = before.items[4].item_id

    pin = {"rerank": [{"pin": {"item_id": wanted, "position": 2}}]}
    told = stack.millrace("rules", "set", rules(tmp_path, pin))

    assert (1, False, pin["rerank"][0]["pin"]) == (
        told["rules_version"],
        told["own"],
        told["rules"]["rerank"][0]["pin"],
    )
    assert stack.millrace("rules", "show")["rules"] == told["rules"]
    _, seconds = answer_when(
        stack, lambda answer: (answer.items[1].item_id, answer.items[1].reason) == (wanted, "pinned")
    )
    assert seconds < IN_FORCE_S

    told = stack.millrace("rules", "reset")
    assert (2, True) == (told["rules_version"], told["own"])
    _, seconds = answer_when(stack, lambda answer: "pinned" not in {item.reason for item in answer.items})
    assert seconds < IN_FORCE_S


def test_rules_that_do_not_fit_are_refused_by_field(stack: NativeStack, tmp_path: Path) -> None:
    """Exit 2, and nothing is announced."""
    before = stack.millrace("rules", "show")["rules_version"]
    wrong = rules(tmp_path, {"rerank": [{"max_share": {"by": "colour", "share": 0.5}}]})
    told = stack.millrace("rules", "set", wrong, code=2)
    assert "max_share.by 'colour' is no category attribute" in told["error"]
    assert before == stack.millrace("rules", "show")["rules_version"]
