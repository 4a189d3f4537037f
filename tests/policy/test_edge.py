"""The edge's policy is complete: no RPC without a rule, no rule without an RPC, no role that opens nothing unsaid."""

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from millrace.collector.v1 import collector_pb2
from millrace.ranking.v1 import ranking_pb2
from servicekit.security.policy import ROLES, Policy, unruled

RPCS = {
    f"{service.full_name}/{method.name}"
    for module in (collector_pb2, ranking_pb2, health_pb2, reflection_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_every_rpc_has_a_rule_and_every_rule_an_rpc() -> None:
    """A new RPC forces a choice; until it is made, the server lets nobody in."""
    policy = Policy.read()

    assert [] == unruled(policy, RPCS)
    assert [] == sorted(set(policy.rpcs) - RPCS)


def test_only_probes_are_open() -> None:
    """What anybody may call who has passed the handshake is health, and nothing else."""
    opened = {rpc for rpc, rule in Policy.read().rpcs.items() if rule.open}

    assert {rpc for rpc in RPCS if rpc.startswith("grpc.health.v1.Health/")} == opened


@pytest.mark.parametrize("role", [role for role in ROLES if role != "model.publish"])  # deploys go by signed bundles
def test_every_role_opens_an_rpc(role: str) -> None:
    """A role that opens nothing would be granted in good faith."""
    rules = [rule for rpc, rule in Policy.read().rpcs.items() if rpc.startswith("millrace.")]

    assert any(role in rule.roles for rule in rules)
