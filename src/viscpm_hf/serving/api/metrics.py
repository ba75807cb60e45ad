"""`/metrics`: what the engine has counted, for Prometheus."""

from collections.abc import Iterable, Mapping

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..engine import Engine

_OUTCOMES = ("answered", "failed", "cancelled", "refused")
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class EngineCollector:
    """The counters of an engine, read whenever somebody asks.

    Args:
        engine (`Engine`).
        names (`Mapping`): under which its models are served.
    """

    def __init__(self, engine: Engine, names: Mapping[str, str]):
        self.engine, self.names = engine, names

    def collect(self) -> Iterable[Metric]:
        """The metrics, of each model."""
        requests = CounterMetricFamily(
            "viscpm_requests", "Requests by what became of them.", labels=["model", "outcome"]
        )
        batches = CounterMetricFamily("viscpm_batches", "Calls of a model.", labels=["model"])
        sizes = HistogramMetricFamily("viscpm_batch_size", "Requests in a call of a model.", labels=["model"])
        waiting = GaugeMetricFamily("viscpm_queue_length", "Requests that wait for a model.", labels=["model"])
        busy = CounterMetricFamily("viscpm_busy_seconds", "Seconds a model was at work.", labels=["model"])
        for kind, batcher in self.engine.batchers.items():
            name, counters = self.names[kind], batcher.counters
            outcomes, by_size = dict(counters.requests), dict(counters.batches)  # at once: the model's thread adds
            for outcome in _OUTCOMES:
                requests.add_metric([name, outcome], outcomes.get(outcome, 0))
            total = sum(by_size.values())
            batches.add_metric([name], total)
            buckets = [(f"{most}", sum(n for size, n in by_size.items() if size <= most)) for most in _SIZES]
            sizes.add_metric([name], [*buckets, ("+Inf", total)], sum(size * n for size, n in by_size.items()))
            waiting.add_metric([name], len(batcher))
            busy.add_metric([name], counters.seconds)
        return requests, batches, sizes, waiting, busy


def add_to(app: FastAPI, engine: Engine, names: Mapping[str, str]) -> None:
    """Adds the route.

    Args:
        app (`FastAPI`).
        engine (`Engine`), names (`Mapping`): see [`EngineCollector`].
    """
    registry = CollectorRegistry()  # not the process's: there may be several applications
    registry.register(EngineCollector(engine, names))
    ProcessCollector(registry=registry)

    @app.get("/metrics", tags=["Operation"], response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
