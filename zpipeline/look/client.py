"""The requests that ``zpipe status`` and ``zpipe top`` make (docs/http.rst has them)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from zpipeline.client import Web

#: What is shown of /stats, of each of /workers, and of each latency.
_STATS = (
    *("version", "host", "pid", "time", "uptime", "accepting", "draining", "trouble", "accepted", "refused", "done"),
    *("dead", "failed", "redelivered", "redeliveries", "waiting", "oldest_waiting", "in_flight", "dead_letters"),
    *("ready_workers", "rates", "latency"),
)
_WORKER = (
    *("address", "state", "why", "since", "host", "pid", "handler", "window", "in_flight", "done", "failed", "share"),
    *("rate", "latency"),
)
_PERCENTILES = ("p50", "p90", "p99")


@frozen
class Snapshot:
    """What a zpipe-web says of itself at one moment.

    :ivar stats: as ``GET /stats`` has it.
    :ivar workers: as ``GET /workers`` has them.
    """

    stats: Mapping[str, Any]
    workers: list[Mapping[str, Any]]


class Statistics(Web):
    """The statistics of a zpipe-web that runs."""

    subject = "statistics"

    def snapshot(self) -> Snapshot:
        """What it says now.

        :raises WebError: it cannot be had.
        """
        return self._checked(self.ask("GET", "/stats"), self.member(self.ask("GET", "/workers"), "workers"))

    def snapshots(self) -> Iterator[Snapshot]:
        """What it says now, and then each second, until it ends.

        :raises WebError: it cannot be had, or there is silence.
        """
        data: list[bytes] = []
        for line in self.lines("/events"):  # of a stream as the HTML standard has it, "Server-sent events"
            name, _, value = line.rstrip(b"\r\n").partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif not line.strip() and data:
                try:
                    answer = json.loads(b"\n".join(data))
                except ValueError:
                    raise self.stranger("an event that is not JSON") from None
                yield self._checked(self.member(answer, "stats"), self.member(answer, "workers"))
                data = []

    def _checked(self, stats: Any, workers: Any) -> Snapshot:
        for name in _STATS:
            self.member(stats, name)
        for name in ("accepted", "settled"):
            self.member(stats["rates"], name)
        self.member(stats["redeliveries"], "lost")
        self._check_latency(stats, "start", "run", "settle")
        for worker in workers:
            for name in _WORKER:
                self.member(worker, name)
            self._check_latency(worker, "start", "run")
        return Snapshot(stats, workers)

    def _check_latency(self, of: Mapping[str, Any], *names: str) -> None:
        for name in names:
            for percentile in _PERCENTILES:
                self.member(self.member(of["latency"], name), percentile)
