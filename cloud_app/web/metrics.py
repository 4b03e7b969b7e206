"""What Prometheus reads: requests, tokens, waiting requests, jobs by state."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from genie.contracts.inference import Usage
from genie.errors import DatabaseDown

BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's


class JobStates(Collector):
    """Jobs by state, counted in the database when somebody scrapes."""

    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """One gauge per state; none while the database is down."""
        family = GaugeMetricFamily(
            "genie_jobs", "Jobs kept, by state", labels=["state"]
        )
        try:
            counts = self._count()
        except DatabaseDown:
            return
        for state, number in counts.items():
            family.add_metric([state], number)
        yield family


class Metrics:
    """The figures of one web process, in a registry of their own."""

    def __init__(self, jobs: Callable[[], Mapping[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "genie_http_requests",
            "HTTP requests by route and status",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "genie_http_request_seconds",
            "Seconds until the answer began",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "genie_tokens",
            "Tokens of answers this process waited for",
            ["model", "kind"],
            registry=self.registry,
        )
        self.streams = Gauge(
            "genie_streams_open", "Streams being sent now", registry=self.registry
        )
        self.registry.register(JobStates(jobs))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered; ``route`` is its rule, never its path."""
        verb = method if method in METHODS else "other"
        self._requests.labels(route, verb, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def used(self, model: str, usage: Usage) -> None:
        """An answer was complete."""
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
