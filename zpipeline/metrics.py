"""What Prometheus reads: made when it is asked for, so that nothing of it costs a job anything.

Names are by Prometheus's conventions ("Metric and label naming"): base units, and ``_total`` for what only grows.
docs/http.rst and docs/options.rst list them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Protocol

from attrs import asdict
from prometheus_client import CollectorRegistry, GCCollector, Metric, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from zpipeline._version import __version__
from zpipeline.histogram import Histogram, Timings
from zpipeline.stats import Measures, Stats


class Pipeline(Protocol):
    """What is asked of `zpipeline.pipeline.Pipeline`."""

    @property
    def measures(self) -> Measures: ...

    def stats(self) -> Stats: ...


class Connections(Protocol):
    """What is asked of `zpipeline.web.http.connections.Connections`."""

    @property
    def open(self) -> int: ...

    @property
    def refused(self) -> int: ...


class Worker(Protocol):
    """What is asked of `zpipeline.worker.Worker`."""

    @property
    def jobs_ended(self) -> Mapping[str, int]: ...

    @property
    def jobs_waiting(self) -> int: ...

    @property
    def jobs_running(self) -> int: ...

    @property
    def ventilators(self) -> int: ...

    @property
    def timings(self) -> Timings: ...


class PipelineCollector(Collector):
    """The metrics of a web side."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def collect(self) -> Iterator[Metric]:
        """As they are now."""
        stats, measures = self._pipeline.stats(), self._pipeline.measures
        yield _build()
        yield CounterMetricFamily("zpipeline_jobs_accepted", "Jobs that were accepted.", stats.accepted)
        yield _counter("zpipeline_jobs_refused", "Jobs that were refused.", "reason", asdict(stats.refused))
        settled = {"done": stats.done, "dead": stats.dead}
        yield _counter("zpipeline_jobs_settled", "Jobs that were settled: run, or given up.", "outcome", settled)
        yield CounterMetricFamily("zpipeline_attempts_failed", "Attempts at jobs that failed.", stats.failed)
        again = "How often a job was handed out that had been before."
        yield _counter("zpipeline_jobs_redelivered", again, "cause", asdict(stats.redeliveries))
        yield GaugeMetricFamily("zpipeline_jobs_waiting", "Unsettled jobs that are at no worker.", stats.waiting)
        yield GaugeMetricFamily(
            "zpipeline_oldest_waiting_seconds",
            "How long the job has waited that could be handed out and has waited longest.",
            stats.oldest_waiting,
        )
        yield GaugeMetricFamily("zpipeline_jobs_in_flight", "Unsettled jobs that are at a worker.", stats.in_flight)
        yield GaugeMetricFamily("zpipeline_dead_letters", "Dead letters that are kept.", stats.dead_letters)
        yield GaugeMetricFamily("zpipeline_workers_ready", "Workers that take part.", stats.ready_workers)
        yield CounterMetricFamily(
            "zpipeline_bad_messages", "Messages to the sink that broke the protocol.", stats.bad_messages
        )
        if stats.journal is not None:
            commits = measures.commits
            yield _histogram(
                "zpipeline_journal_commit_seconds", "How long a commit took, until it was on the disk.", commits.seconds
            )
            yield _histogram("zpipeline_journal_commit_jobs", "How many jobs a commit had.", commits.jobs)
            yield CounterMetricFamily(
                "zpipeline_journal_set_aside",
                "How often it could not be written what became of a job, for another reason than the disk.",
                commits.set_aside,
            )
        yield _histogram(
            "zpipeline_job_start_seconds",
            "From a job's acceptance to the start of its first attempt, as workers measure it.",
            measures.timings.start,
        )
        yield _histogram(
            "zpipeline_job_run_seconds", "How long attempts took, as workers measure it.", measures.timings.run
        )
        yield _histogram(
            "zpipeline_job_settle_seconds", "From a job's acceptance until it was settled.", measures.settle
        )


class ConnectionsCollector(Collector):
    """The metrics of a site's connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        """As they are now."""
        connections = self._connections
        yield GaugeMetricFamily("zpipeline_connections_open", "HTTP connections that are open.", connections.open)
        yield CounterMetricFamily(
            "zpipeline_connections_refused", "HTTP connections that were too many.", connections.refused
        )


class WorkerCollector(Collector):
    """The metrics of a worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """As they are now."""
        worker = self._worker
        yield _build()
        yield _counter(
            "zpipeline_worker_jobs",
            "What became of jobs here: done, failed (an attempt), or returned, not begun.",
            "outcome",
            worker.jobs_ended,
        )
        yield GaugeMetricFamily("zpipeline_worker_waiting", "Jobs here that are not begun.", worker.jobs_waiting)
        yield GaugeMetricFamily("zpipeline_worker_running", "Jobs that are under way.", worker.jobs_running)
        yield GaugeMetricFamily("zpipeline_worker_ventilators", "Ventilators that it works for.", worker.ventilators)
        yield _histogram(
            "zpipeline_worker_start_seconds",
            "From a job's acceptance to the start of its first attempt.",
            worker.timings.start,
        )
        yield _histogram("zpipeline_worker_run_seconds", "How long attempts took.", worker.timings.run)


class Exposition:
    """The metrics of collectors, and those of the process, as text."""

    def __init__(self, *collectors: Collector) -> None:
        self._registry = CollectorRegistry()
        for collector in collectors:
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, bytes]:
        """The metrics as they are now, and their content type.

        :param accept: the header, by which Prometheus asks for one of its formats.
        """
        encode, content_type = format_of(accept)
        return encode(self._registry), content_type.encode("latin-1")


def format_of(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """What makes the text that a client asks for, and its content type."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # it names a version that is none
        return choose_encoder("")


def _build() -> Metric:
    return InfoMetricFamily("zpipeline_build", "What is running.", {"version": __version__})


def _counter(name: str, about: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, about, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    up_to = accumulate(histogram.counts)
    bounds = [*map(repr, histogram.bounds), "+Inf"]
    return HistogramMetricFamily(name, about, list(zip(bounds, up_to, strict=True)), histogram.sum)
