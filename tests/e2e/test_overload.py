"""A real stack is asked for several times what it can do: whoever gets no answer is told when to come again."""

import pytest
from local_stack.harness import NativeStack

from loadtest import run_loadtest

pytestmark = pytest.mark.real

RATE = 2_500.0  # five times what two cores gave; the generator takes a third of one
SECONDS, WARMUP_S = 4.0, 1.0
# What is shed has waited for a quarter of this, so that even a machine which is busy otherwise tells callers in time.
DEADLINE_MS = 1_000


def test_everybody_is_answered_or_sent_away(stack: NativeStack) -> None:
    """Each error is RESOURCE_EXHAUSTED with a push-back, nobody runs into the deadline; then all is as before."""
    overload = run_loadtest(
        stack.address("gateway"), "movies", RATE, SECONDS, 100, warmup_s=WARMUP_S, deadline_ms=DEADLINE_MS, pool=2_000,
    )  # fmt: skip
    assert {"RESOURCE_EXHAUSTED"} == overload.errors_by_code.keys()
    assert 0 == overload.unshed
    assert 0 < overload.shed < overload.requests
    assert overload.ok > 100 * SECONDS

    after = run_loadtest(stack.address("gateway"), "movies", 20.0, 2.0, 100, warmup_s=1.0, deadline_ms=DEADLINE_MS)
    assert 0 == after.errors
