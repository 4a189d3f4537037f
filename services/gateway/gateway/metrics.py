"""The gateway's own metrics. Labels are bound once: looking them up costs more than counting."""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge
from servicekit.histogram import LoopHistogram

from gateway.errors import Reason
from gateway.query import Rung

# 0.05 ms to 1 s; what the stages of a 50 ms request may take (1, 3, 28, 50 ms) lies at or beside an edge.
_BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.15, 0.3, 1.0)


class Metrics:
    """A `Meter` over Prometheus, and the counters of the clients."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"gateway_{name}", text, labels, registry=registry)

        self.requests = counter("requests", "Finished requests.", "usecase", "rung", "code")
        self.impressions = counter("impressions", "Impressions by what became of them.", "outcome")
        self.records = counter("records", "Records read from the log.", "topic", "outcome")
        self.bundles = counter("bundles", "Decisions by what became of their bundle.", "usecase", "outcome")
        self.shadow = counter("shadow", "Requests sampled for the shadow version.", "usecase", "outcome")
        self.guardrails = counter("guardrails", "Versions found bad, by what was done.", "usecase", "outcome")
        self.orphans = counter("triton_orphans", "Calls to Triton that outlived their request.")
        self.no_deadline = counter("requests_without_deadline", "Requests whose caller set no deadline.")
        self._layouts = Gauge(
            "gateway_layouts",
            "Revisions held in memory: 1 answers, 0 stands by for a rollback.",
            ["usecase", "revision"],
            registry=registry,
        )
        self._quality = Gauge(
            "gateway_rung_ndcg_at_10",
            "What a rung's answers are worth: NDCG@10 on the served bundle's test rows; NaN where it does not say.",
            ["usecase", "rung"],
            registry=registry,
        )
        self._left = counter("rung_left", "Rungs passed over.", "rung", "reason")
        self._tied = counter("tied_rows", "Rows whose values may count events at or after the request's time.")
        self._rows = counter("user_rows", "Reads of user rows by outcome.", "outcome")
        self._candidates = counter("candidates", "Candidates of Recommend by the source that brought them.", "source")
        self._sources_failed = counter("candidate_sources_failed", "Sources of candidates that failed.", "source")
        self._stages = LoopHistogram(
            "gateway_stage_seconds", "Time of one step of a request.", ["stage"], registry=registry, buckets=_BUCKETS_S
        )
        self._left_of = cache(lambda rung, reason: self._left.labels(rung.value, reason))
        self._stage_of = cache(self._stages.labels)
        self._candidates_of = cache(self._candidates.labels)
        self._row_of = cache(self._rows.labels)
        self._request_of = cache(self.requests.labels)

    def watch(self, registry: CollectorRegistry, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that asks `value` at each scrape."""
        Gauge(f"gateway_{name}", text, registry=registry).set_function(value)

    def layout(self, usecase: str, revision: int, state: int | None) -> None:
        """A revision answers (1), stands by (0), or is no longer in memory."""
        if state is not None:
            self._layouts.labels(usecase, str(revision)).set(state)
            return
        with suppress(KeyError):
            self._layouts.remove(usecase, str(revision))

    def quality(self, usecase: str, of: Callable[[Rung], float | None]) -> None:
        """What each rung is worth, asked at each scrape: beside its share of `gateway_requests_total`."""

        def value(rung: Rung) -> float:
            found = of(rung)
            return math.nan if found is None else found

        for rung in Rung:
            self._quality.labels(usecase, rung.value).set_function(partial(value, rung))

    def rung_left(self, rung: Rung, reason: Reason) -> None:
        """A rung was passed over."""
        self._left_of(rung, reason).inc()

    def stage(self, name: str, seconds: float) -> None:
        """A step of a request took that long."""
        self._stage_of(name).observe(seconds)

    def row(self, outcome: str) -> None:
        """How reading a user row ended."""
        self._row_of(outcome).inc()

    def candidates(self, source: str, found: int) -> None:
        """A source brought so many candidates."""
        self._candidates_of(source).inc(found)

    def source_failed(self, source: str) -> None:
        """A source of candidates failed."""
        self._sources_failed.labels(source).inc()

    def tied(self) -> None:
        """A row's values may count events at or after the request's time."""
        self._tied.inc()

    def finished(self, usecase: str, rung: str, code: str) -> None:
        """A request ended. `rung` is empty for an error, `usecase` one that we serve or empty."""
        self._request_of(usecase, rung, code).inc()
