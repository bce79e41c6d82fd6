"""What a pipeline knows of itself over time: each second it takes note of what has been counted."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from zpipeline._version import __version__
from zpipeline.dispatch import Dispatcher
from zpipeline.pipeline.jobs import Jobs
from zpipeline.pipeline.roster import Roster
from zpipeline.stats import JournalStats, Latency, Measures, Rates, Recent, Redeliveries, Refusals, Stats
from zpipeline.text import printable
from zpipeline.times import Times

#: Called each second with whether the pipeline has ended: then for the last time.
Watcher: TypeAlias = Callable[[bool], None]

log = Logger()


class Observer:
    """Takes note, from `start` to `stop`.

    :ivar measures: what is counted.
    :ivar roster: the workers.
    """

    def __init__(self, reactor: Any, workers: Iterable[str], times: Times) -> None:
        self._times = times
        self.measures = Measures()
        self.roster = Roster(workers, self._times.wall())
        self._recent = Recent()
        self._watchers: list[Watcher] = []
        self._started_at: float | None = None
        self._call = LoopingCall(self._tick)
        self._call.clock = reactor

    def start(self) -> None:
        """The pipeline has started."""
        self._started_at = self._times.monotonic()
        self._call.start(1.0)

    def stop(self) -> None:
        """The pipeline has ended."""
        if self._call.running:
            self._call.stop()
        self._started_at = None
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            _call(watcher, True)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """See `zpipeline.pipeline.service.Pipeline.watch`."""
        self._watchers.append(watcher)

        def stop() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

        return stop

    def _tick(self) -> None:
        now, measures = self._times.monotonic(), self.measures
        counts = {
            "accepted": (measures.accepted,),
            "settled": (measures.done + measures.dead,),
            "start": measures.timings.start.counts,
            "run": measures.timings.run.counts,
            "settle": measures.settle.counts,
            "commits": measures.commits.seconds.counts,
        }
        self._recent.note(now, {name: tuple(numbers) for name, numbers in counts.items()})
        self.roster.tick(now)
        if (difference := self.roster.new_difference()) is not None:
            log.warn(
                "ready workers have different handlers, and each job goes to any of them: {difference}",
                difference=printable(difference),
            )
        for watcher in list(self._watchers):
            _call(watcher, False)

    def stats(self, jobs: Jobs, dispatcher: Dispatcher, *, accepting: bool, draining: bool) -> Stats:
        """How it is now."""
        measures, recent = self.measures, self._recent
        at = self._times.time()
        in_flight = dispatcher.in_flight
        waiting_since = dispatcher.waiting_since(at)
        commits = recent.percentiles("commits")
        return Stats(
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            time=self._times.wall(),
            uptime=0.0 if self._started_at is None else self._times.monotonic() - self._started_at,
            accepting=accepting,
            draining=draining,
            trouble=jobs.trouble,
            accepted=measures.accepted,
            refused=Refusals(**measures.refused),
            done=measures.done,
            dead=measures.dead,
            failed=measures.failed,
            redelivered=measures.redelivered,
            redeliveries=Redeliveries(**{cause.value: count for cause, count in measures.redeliveries.items()}),
            bad_messages=measures.bad_messages,
            pending=jobs.unsettled,
            waiting=jobs.unsettled - in_flight,
            oldest_waiting=0.0 if waiting_since is None else max(0.0, at - waiting_since),
            in_flight=in_flight,
            dead_letters=jobs.dead_letters,
            ready_workers=dispatcher.ready_workers,
            rates=Rates(recent.rate("accepted"), recent.rate("settled")),
            latency=Latency(*map(recent.percentiles, ("start", "run", "settle"))),
            journal=(
                JournalStats(
                    measures.commits.seconds.total,
                    round(measures.commits.jobs.sum),
                    commits.p50,
                    commits.p99,
                    measures.commits.set_aside,
                )
                if jobs.survive
                else None
            ),
        )


def _call(watcher: Watcher, is_over: bool) -> None:
    try:
        watcher(is_over)
    except Exception:
        log.failure("who watches the pipeline failed")  # the others are told nevertheless
