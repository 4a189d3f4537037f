"""What a run against a stack counts."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Counters of requests and events, and where the world's clock stands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "simulator_requests", "Requests by the rung that answered, or by error.", ["answer"], registry=registry
        )
        self._seconds = Histogram(
            "simulator_request_seconds",
            "Time of one request, as the user waits for it.",
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        )
        self._events = Counter("simulator_events", "Events that the log took.", ["action"], registry=registry)
        self._clock = Gauge("simulator_clock_seconds", "The world's time, seconds since the epoch.", registry=registry)
        self._waiting = Gauge("simulator_waiting_events", "Events whose time has not come.", registry=registry)

    def requested(self, answer: str, seconds: float) -> None:
        """One request was answered from rung `answer`, or failed with that error."""
        self._requests.labels(answer).inc()
        self._seconds.observe(seconds)

    def published(self, action: str, count: int) -> None:
        """So many events of an action are on the log."""
        self._events.labels(action).inc(count)

    def clock(self, read: Callable[[], float]) -> None:
        """Where the gauge reads from."""
        self._clock.set_function(read)

    def waiting(self, read: Callable[[], float]) -> None:
        """Where the gauge reads from."""
        self._waiting.set_function(read)
