"""The gate as a command runs it: real bundles, a real log for its decisions, MLflow's aliases, deploy and rollback."""

from pathlib import Path

import pytest
from bundle import load_bundle
from local_stack.topics import create_topics, declared_topics
from millrace.decisions.v1 import decisions_pb2 as pb
from pipelines.deploy import deploy, rollback
from pipelines.errors import DeployError
from pipelines.gate import proof
from pipelines.gate.hearing import kept_in
from pipelines.gate.judge import Reason
from pipelines.gate.promotion import Promotion, promote
from pipelines.registry import champion_version, register
from servicekit import kafka as log_client
from servicekit import topics
from servicekit.settings import checkout_root

from pipelines import decisions

pytestmark = pytest.mark.real

NOT_BETTER, BETTER = 1, 2


@pytest.fixture(scope="module")
def log(kafka: str) -> str:
    """Kafka with the topic `decisions`."""
    create_topics(kafka, declared_topics(checkout_root() / "infra" / "kafka" / "topics.yaml", [proof.USECASE]))
    return kafka


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> proof.World:
    """Two signed bundles: 1 hardly beats the item mean, 2 does."""
    return proof.build(tmp_path_factory.mktemp("promotion"))


@pytest.fixture(scope="module")
def mlflow(world: proof.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that knows both."""
    folder = tmp_path_factory.mktemp("registry")
    for bundle in (world.champion, world.better):
        register(folder, load_bundle(bundle), {})
    return folder


def ask(world: proof.World, version: int, log: str, mlflow: Path, *found: Reason) -> Promotion:
    return promote(
        world.champion.parent / str(version), world.forge.layout, world.log, trust=world.trust,
        stored=kept_in(world.lake), mlflow=mlflow, kafka=log, found=found,
    )  # fmt: skip


def published(log: str) -> list[pb.Decision]:
    """Every decision, oldest first."""
    seen: list[pb.Decision] = []
    reader = log_client.TopicReader(log, topics.DECISIONS, lambda _p, _o, _k, value: seen.append(value))
    reader.start()
    reader.wait_caught_up(15)
    reader.stop()
    return [found for value in seen if (found := pb.Decision.FromString(value)).usecase == proof.USECASE]


def test_each_verdict_is_on_the_log_and_only_a_promoted_version_is_deployed(
    world: proof.World, log: str, mlflow: Path
) -> None:
    """No, no, yes; then production's deploy, and a rollback that gives the crown back."""
    weak = ask(world, NOT_BETTER, log, mlflow)
    torn = ask(world, BETTER, log, mlflow, Reason("consistency", "3 rows have no explanation"))
    assert champion_version(mlflow, proof.USECASE) is None
    good = ask(world, BETTER, log, mlflow)

    assert [False, False, True] == [each.verdict.promoted for each in (weak, torn, good)]
    assert "baseline" in {reason.rule for reason in weak.verdict.reasons}
    assert ["consistency"] == [reason.rule for reason in torn.verdict.reasons]
    assert (BETTER, BETTER) == (good.champion, champion_version(mlflow, proof.USECASE))
    said = published(log)
    kinds = [pb.DECISION_KIND_REFUSAL, pb.DECISION_KIND_REFUSAL, pb.DECISION_KIND_PROMOTION]
    assert kinds == [each.kind for each in said]
    assert "baseline: gauc" in said[0].reason
    assert [False, False, True] == [each.state.HasField("champion") for each in said]

    with pytest.raises(DeployError, match="was not promoted"):
        deploy(world.champion, kafka=log, triton=None, repository=None, trust=world.trust, promoted_only=True)
    deploy(world.champion, kafka=log, triton=None, repository=None)  # as in development
    deploy(world.better, kafka=log, triton=None, repository=None, trust=world.trust, promoted_only=True)
    state = decisions.serving_state(log, proof.USECASE)
    assert (BETTER, BETTER, NOT_BETTER) == (state.pin.version, state.champion.version, state.previous.version)

    rollback(proof.USECASE, bundles=world.forge.bundles, kafka=log, triton=None, repository=None, mlflow=mlflow)
    state = decisions.serving_state(log, proof.USECASE)
    assert (NOT_BETTER, NOT_BETTER) == (state.pin.version, state.champion.version)
    assert NOT_BETTER == champion_version(mlflow, proof.USECASE)
