"""What the service measures, in the text format of Prometheus."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from headwater.errors import HeadwaterError
from headwater.serving.knowledge import State

log = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts what is asked, and reads the state of the knowledge base when it is looked at.

    Labels are names of endpoints, statuses, kinds of errors and sources: never anything that a
    caller sends.
    """

    def __init__(self, state: Callable[[], State]) -> None:
        """Start counting; `state` tells the knowledge base's own figures."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "headwater_requests", "Requests.", ["endpoint", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "headwater_request_seconds",
            "From the first byte of a request to the last of its reply.",
            ["endpoint"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._errors = Counter(
            "headwater_errors", "Requests that failed, by kind.", ["kind"], registry=self._registry
        )
        self._queries = Counter(
            "headwater_queries", "Searches that were answered.", registry=self._registry
        )
        self._empty = Counter(
            "headwater_queries_empty", "Of these, without any hit.", registry=self._registry
        )
        self._registry.register(_KnowledgeCollector(state))
        ProcessCollector(registry=self._registry)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """A reply has left; status 0 where the caller did not wait for it."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def problem(self, kind: str) -> None:
        """A request failed."""
        self._errors.labels(kind).inc()

    def query(self, hits: int) -> None:
        """A search was answered."""
        self._queries.inc()
        if not hits:
            self._empty.inc()

    def text(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self._registry)


class _KnowledgeCollector(Collector):
    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def describe(self) -> list[Metric]:
        # Asked when it is registered: nothing is read for that.
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            state = self._state()
        except HeadwaterError as error:
            # Nothing published, or a damaged store: /status says what; a scrape must not fail.
            log.info("no figures of the knowledge base: %s", error)
            yield _gauge("headwater_up", "Whether searches can be answered.", 0)
            return
        yield _gauge("headwater_up", "Whether searches can be answered.", 1)
        yield _gauge("headwater_snapshot_seq", "Number of the snapshot served.", state.seq)
        yield _gauge("headwater_documents", "Live documents.", state.documents)
        yield _gauge("headwater_texts", "Distinct texts in the index.", state.texts)
        age = GaugeMetricFamily(
            "headwater_source_verified_age_seconds",
            "Since the source last confirmed all of its documents; +Inf when it never did.",
            labels=["source"],
        )
        fresh = GaugeMetricFamily(
            "headwater_source_fresh", "Whether the objective is met.", labels=["source"]
        )
        for source in state.sources:
            age.add_metric([source.source], math.inf if source.age_s is None else source.age_s)
            fresh.add_metric([source.source], float(source.fresh))
        yield age
        yield fresh


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
