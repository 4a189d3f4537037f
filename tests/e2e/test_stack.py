"""`millrace up`, `status` and `down` over the real servers and our services."""

import psutil
import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from local_stack.harness import NativeStack
from local_stack.ports import is_free
from millrace.client.events import Event, EventClient
from stores.offline.lake import Lake

pytestmark = pytest.mark.real

SERVERS = {"kafka", "cassandra", "valkey", "triton"}
SERVICES = {"collector", "features", "archiver", "gateway"}


def test_everything_is_ready(stack: NativeStack) -> None:
    """`status` asks each part in its own protocol; the answer names the profile it ran on."""
    answer = stack.millrace("status")

    assert {part["name"]: part["state"] for part in answer["parts"]} == dict.fromkeys(SERVERS | SERVICES, "ready")
    assert answer["healthy"]
    assert answer["ran_on"]["profile"] == "real"


def test_a_repeated_up_keeps_every_process(stack: NativeStack) -> None:
    """What answers is not touched."""
    before = stack.pids()

    answer = stack.millrace("up")

    assert sorted(answer["kept"]) == sorted(before)
    assert stack.pids() == before


@pytest.mark.parametrize("name", ["gateway", "features", "triton"])
def test_a_killed_part_shows_and_up_brings_it_back_alone(stack: NativeStack, name: str) -> None:
    """Nothing restarts by itself; a crash is exit 1 of `status`."""
    before = stack.pids()
    stack.kill(name)

    broken = stack.millrace("status", code=1)
    stack.millrace("up")
    after = stack.pids()

    assert [part["name"] for part in broken["parts"] if part["state"] == "dead"] == [name]
    assert after[name] not in (None, before[name])
    assert {other: pid for other, pid in after.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }


def test_the_topics_are_as_declared(stack: NativeStack) -> None:
    """The broker stamps the records; compaction and sizes are the declared ones."""
    admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{stack.ports.kafka}")
    try:
        names = set(admin.list_topics())
        letters = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "dead-letters")])
    finally:
        admin.close()

    own = {f"movies.{kind}" for kind in ("interactions", "impressions", "items", "users", "item-features")}
    assert names >= own | {"decisions", "dead-letters"}
    assert "2097152" in str(letters)
    assert "LogAppendTime" in str(letters)


def test_state_survives_down_and_up(stack: NativeStack) -> None:
    """Down leaves no process and no port; the next up continues where the log ended, and nothing is archived twice."""
    archived_before = archived(stack)
    publish(stack, count=3)
    assert archived(stack) == archived_before + 3
    pids = [int(pid) for pid in stack.pids().values() if pid]

    stack.millrace("down")

    assert [
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ] == []
    assert [name for name, port in stack.ports.all().items() if not is_free(port)] == []
    stack.millrace("up")
    publish(stack, count=2)
    assert archived(stack) == archived_before + 5


def publish(stack: NativeStack, *, count: int) -> None:
    """Publish good events; all are accepted."""
    with EventClient(stack.address("collector")) as client:
        answer = client.publish("movies", [Event(user_id=7, item_id=11, action=2, value=4.0) for _ in range(count)])
    assert len(answer.accepted) == count
    assert answer.rejected == ()


def archived(stack: NativeStack) -> int:
    """Rows in Delta after a flush; each log record is there once."""
    stack.flush("archiver")
    places = Lake(stack.home / "lake", "movies").scan("interactions").select("partition", "offset").collect()
    assert places.is_duplicated().sum() == 0
    return places.height
