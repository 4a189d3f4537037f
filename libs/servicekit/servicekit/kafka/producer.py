"""kafka-python 3.0.12's producer, three faults mended. Why, and for how long: `docs/adr/0022-a-mended-producer.md`."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import kafka.errors as foreign
from kafka import KafkaProducer
from kafka.producer.transaction_manager import TransactionState


class MendedProducer(KafkaProducer):  # type: ignore[misc]  # untyped
    """A producer whose records are all settled within the delivery timeout, and whose `close` closes.

    1. An idempotent producer whose sent batch expired forgets its id, stays READY, and so never asks for another: from
       then on its records are neither sent nor failed, also when the broker is back. Without the mend
       `tests/e2e/test_collector_durability.py` failed in 3 of 3 runs: under 200 records passed in the 60 s after it.
    2. One that asks for an id does nothing else until a broker answers: meanwhile no record expires, and what is sent
       piles up.
    3. `close` flushes first, and where that takes longer than its timeout it raises and leaves everything running.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        manager, sender = self._transaction_manager, self._sender
        if manager is not None:
            manager.reset_producer_id = functools.partial(_forget_and_ask_again, manager, manager.reset_producer_id)
            sender._maybe_send_pending_request = functools.partial(
                _ask_who_listens, manager, sender, sender._maybe_send_pending_request
            )
            sender.run_once = functools.partial(_expire_and_run, manager, sender, sender.run_once)

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
        """Send what is buffered, waiting up to `timeout` seconds; what is left then fails."""
        try:
            super().close(timeout, null_logger)
        except foreign.KafkaTimeoutError:
            self._sender.force_close()
            self._closed = True


def _forget_and_ask_again(manager: Any, forget: Callable[[], None]) -> None:
    with manager._lock:
        forget()
        if manager._current_state is TransactionState.READY:  # else a request for an id is under way
            manager._current_state = TransactionState.UNINITIALIZED


def _ask_who_listens(manager: Any, sender: Any, ask: Callable[[], bool]) -> bool:
    """`ask` loops until a node is ready: call it only then. True means to it that the answer is to be waited for."""
    if manager._pending_requests:
        node = sender._client.least_loaded_node()
        if node is None:
            sender._metadata.request_update()
            return True
        try:
            sender._client.await_ready(node, timeout_ms=sender.config["retry_backoff_ms"])
        except foreign.KafkaError:
            return True
    return ask()


def _expire_and_run(manager: Any, sender: Any, run_once: Callable[[], None]) -> None:
    """While the manager is READY `run_once` itself expires what is overdue."""
    if manager._current_state is not TransactionState.READY:
        with contextlib.suppress(foreign.IllegalStateError):  # settled by its answer meanwhile
            for batch in [*sender._accumulator.expired_batches(), *sender._get_expired_inflight_batches()]:
                late = f"{batch.record_count} record(s) for {batch.topic_partition} expired while no broker answered"
                sender._complete_batch_with_exception(batch, foreign.KafkaTimeoutError(late))
    run_once()
