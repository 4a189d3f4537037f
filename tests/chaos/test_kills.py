"""Services killed while events flow: what was accepted is archived once, whatever died and when."""

import http.client
import random

import pytest
from local_stack.harness import NativeStack
from millrace.client.events import Event, EventClient
from stores.offline.lake import Lake

pytestmark = pytest.mark.chaos

SEED = 3
KILLS = 6
BATCH = 50
USER = 900_001


def test_accepted_events_are_archived_once_through_kills(stack: NativeStack) -> None:
    """Lost 0, double 0; the stream side is killed at random, and only `up` brings it back."""
    random_ = random.Random(SEED)  # noqa: S311 - a schedule, no secret
    accepted: set[tuple[int, int]] = set()
    with EventClient(stack.address("collector")) as client:
        for _ in range(KILLS):
            victim = random_.choice(["archiver", "features"])
            accepted |= publish(client, random_.randrange(1, 4))
            stack.kill(victim)
            accepted |= publish(client, random_.randrange(1, 4))
            stack.millrace("up")
    flush(stack)

    rows = Lake(stack.home / "lake", "movies").scan("interactions").select("user_id", "partition", "offset").collect()
    own = [(row["partition"], row["offset"]) for row in rows.iter_rows(named=True) if row["user_id"] == USER]
    assert sorted(own) == sorted(accepted)


def publish(client: EventClient, batches: int) -> set[tuple[int, int]]:
    """Publish batches and return (partition, offset) of what was accepted: all of it, as the collector lives."""
    accepted = set()
    for _ in range(batches):
        answer = client.publish("movies", [Event(user_id=USER, item_id=11, action=2, value=4.0) for _ in range(BATCH)])
        assert answer.rejected == ()
        accepted |= {(each.partition, each.offset) for each in answer.accepted}
    return accepted


def flush(stack: NativeStack) -> None:
    """Have the archiver write all that is on the log."""
    connection = http.client.HTTPConnection(stack.metrics("archiver"), timeout=90)
    try:
        connection.request("POST", "/flush")
        response = connection.getresponse()
        assert response.status == 200, response.read()
    finally:
        connection.close()
