"""A real stack is asked for several times what it can do: whoever gets no answer is told when to come again."""

import pytest
from local_stack.harness import NativeStack

from loadtest import run_loadtest

pytestmark = pytest.mark.real

# Long lists cost the gateway ten times what a refusal does: several times its capacity leave it the time to refuse.
RATE, CANDIDATES = 1_500.0, 1_000
SECONDS, WARMUP_S = 4.0, 1.0
# What is shed has waited for a quarter of this, so that a machine which is busy otherwise still tells callers in time.
DEADLINE_MS = 2_000


def test_everybody_is_answered_or_sent_away(stack: NativeStack) -> None:
    """Each error is RESOURCE_EXHAUSTED with a push-back, nobody runs into the deadline; then all is as before."""
    gateway = stack.address("gateway")
    overload = run_loadtest(
        gateway, "movies", RATE, SECONDS, CANDIDATES, warmup_s=WARMUP_S, deadline_ms=DEADLINE_MS, pool=1_000
    )
    assert {"RESOURCE_EXHAUSTED"} == overload.errors_by_code.keys()
    assert 0 == overload.unshed
    assert 0 < overload.shed < overload.requests

    after = run_loadtest(gateway, "movies", 20.0, 2.0, 100, warmup_s=1.0, deadline_ms=DEADLINE_MS)
    assert 0 == after.errors
