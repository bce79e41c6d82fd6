"""What runs the jobs of a `zpipeline.testing.FakePipeline`: in place of sessions, and of the workers behind them."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from zpipeline._version import __version__
from zpipeline.dispatch import Dispatcher, Fate
from zpipeline.entry import Entry, Session
from zpipeline.handlers import Handler, name_of
from zpipeline.histogram import Timings
from zpipeline.job import Job
from zpipeline.outcomes import to_failed, to_result
from zpipeline.pipeline.jobs import Jobs
from zpipeline.pipeline.observing import Observer
from zpipeline.pipeline.sessions import Sessions
from zpipeline.protocol import Ready
from zpipeline.runner import Delivery, Runner
from zpipeline.stats import WorkerStatus
from zpipeline.testing.clock import Turns
from zpipeline.times import Times
from zpipeline.window import Window

#: What the one worker goes by in the list of workers; nobody listens there.
ADDRESS = "tcp://127.0.0.1:4444"


class InProcess(Sessions):
    """A worker in this process, in place of those behind sockets: its runner's owner, and the origin of its jobs.

    :ivar holds: whether a job is run only when `run_one` is called.
    :ivar errors: what the next jobs fail with.
    """

    takes_back = False

    def __init__(
        self,
        turns: Turns,
        dispatcher: Dispatcher,
        jobs: Jobs,
        observer: Observer,
        times: Times,
        handler: Handler | None,
        concurrency: int,
    ) -> None:
        super().__init__(turns, dispatcher, jobs, observer, times, sink="", window=None, plain=False)
        self.holds = False
        self.errors: deque[BaseException] = deque()
        self._turns = turns
        self._handler = handler
        self._runner = Runner(turns, self._call, self, concurrency=concurrency, threads=0)
        self._session: Session | None = None
        self._places = _Places()
        self._numbers = 0
        self._begun: list[Job] = []
        self._depth = 0  # of calls that end with handing out
        self._is_wanted = False
        self._is_bound = False
        self._timer: IDelayedCall | None = None

    def _call(self, job: Job) -> Any:
        if self.errors:
            raise self.errors.popleft()
        assert self._handler is not None
        return self._handler(job)

    # Sessions

    def workers(self) -> list[WorkerStatus]:
        """What is known of this one."""
        return self._roster.statuses({ADDRESS: (self._session, None)} if self._handler is not None else {})

    @property
    def bound(self) -> bool:
        """Whether `bind` has been called."""
        return self._is_bound

    def bind(self) -> None:
        """There is nothing to bind."""
        self._is_bound = True

    def start(self, workers: Iterable[str], epoch: int) -> None:
        """Take part, if there is a handler."""
        if self._session is None and self._handler is not None:
            self._numbers += 1
            self._session = self._dispatcher.ready(self._numbers, 1, self._turns.seconds())
            self._session.window = self._places
            about = Ready(self._numbers, 0, 1, socket.gethostname(), os.getpid(), name_of(self._handler), __version__)
            self._roster[ADDRESS].is_ready(about, self._turns.seconds())
        self.arrange()

    def stop(self) -> Deferred[None]:
        """Take part no longer; what is under way waits again, as far as the pipeline knows."""
        self._is_bound = False
        session, self._session = self._session, None
        if session is not None:
            self._roster[ADDRESS].is_lost(self._turns.seconds())
            self._dispatcher.lose(session)
            self._jobs.verdict(session.number, Fate.UNREACHABLE, "")
        self._runner.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        return succeed(None)

    def schedule(self) -> None:
        """Hand out what may be run: now, or when what is going on has ended."""
        self._is_wanted = True
        with self.at_the_end():
            pass

    # Running

    @contextmanager
    def at_the_end(self) -> Iterator[None]:
        """What there is to be handed out meanwhile is, in the end."""
        self._depth += 1
        try:
            yield
            while self._depth == 1 and self._is_wanted:
                self._is_wanted = False
                self._hand_out()
        finally:
            self._depth -= 1

    def arrange(self) -> None:
        """Whether there is room follows from `holds`."""
        if self._session is not None:
            self._dispatcher.pause(self._session, self.holds)
        self.schedule()

    def run_one(self) -> Job | None:
        """Run one job, though they are held: which one; None when there is none for which there is room."""
        session = self._session
        if session is None or len(session.in_flight) >= self._runner.concurrency:
            return None
        self._begun.clear()
        self._dispatcher.pause(session, False)
        self.schedule()
        return self._begun[0] if self._begun else None

    def why_not(self) -> str:
        """Why no job can be run now."""
        if self._session is None:
            return "no job can be run: there is no handler, or the pipeline is stopped"
        running, retrying = len(self._session.in_flight), len(self._dispatcher.retries)
        if running >= self._runner.concurrency:
            return f"no job can be run now: {running} are running, as many as may run at once (concurrency)"
        return f"no job waits to be run: {running} are running, {retrying} wait for their next attempt (see clock)"

    def _hand_out(self) -> None:
        session = self._session
        if session is not None:
            self._places.count = len(session.in_flight) + 1 if self.holds else self._runner.concurrency
        given = self._jobs.hand_out()
        if session is not None and self.holds:
            self._dispatcher.pause(session, True)
        for to, entries in given:
            self._run(to, entries)
        self._turns.run()
        self._watch_clock()

    def _run(self, session: Session, entries: list[Entry]) -> None:
        delivery = Delivery(self, session.number, time.monotonic(), self._dispatcher.policy.timeout)
        jobs = [
            Job(
                (self._jobs.ventilator, entry.sequence),
                entry.body,
                unpacked(entry.headers),
                entry.attempt,
                entry.accepted_at,
                delivery=delivery,
            )
            for entry in entries
        ]
        self._begun += jobs
        self._runner.add(jobs)

    def _watch_clock(self) -> None:
        """Be there when a job is due for its next attempt."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        wait = self._dispatcher.next_deadline(self._turns.seconds(), self._turns.seconds())
        self._timer = None if wait is None or self._session is None else self._turns.callLater(wait, self.schedule)

    # Origin

    def done(self, jobs: list[Job], results: list[Any]) -> None:
        """These have been run."""
        carried = [
            None if result is None else to_result(result, job.id) for job, result in zip(jobs, results, strict=True)
        ]
        self._roster[ADDRESS].done += self._jobs.done(self._session, [job.key[1] for job in jobs], carried)
        self._jobs.wake()

    def failed(self, job: Job, failure: Failure) -> None:
        """Its handler failed."""
        assert self._handler is not None
        failed = self._jobs.failed(self._session, to_failed(job, failure), name_of(self._handler))
        self._roster[ADDRESS].failed += failed
        self._jobs.wake()

    def returned(self, jobs: list[Job]) -> None:
        """Nothing is given back to this origin."""

    def report(self, timings: Timings) -> None:
        """All has been said; how long it took was measured by another clock than the test's."""

    # RunnerOwner

    def before_slice(self) -> None:
        """There is nothing to drop."""

    def before_giving_back(self) -> None:
        """Nothing is given back."""

    def concurrency_changed(self) -> None:
        """There is room for more."""
        self.schedule()

    def became_idle(self) -> None:
        """Nobody waits for that."""


class _Places(Window):
    """A window for as many jobs as it is told to have room for."""

    def __init__(self) -> None:
        super().__init__(1, fixed=1)
        self.count = 1

    def size(self, now: float) -> int:
        """The window, in jobs."""
        return self.count


def unpacked(headers: bytes) -> Mapping[str, str]:
    """Headers, as a job has them."""
    return MappingProxyType(json.loads(headers))
