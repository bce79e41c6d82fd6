"""Runs a worker's jobs: what waits, what runs, and when it is too much. No sockets.

Plain handlers run one after the other in the reactor, for `SLICE` seconds at a time; then what they did is
reported and the reactor has its turn. Handlers that return Deferreds or coroutines run up to `concurrency` at
once, and so do those in threads.

An attempt that takes longer than its delivery allows has failed. It is reported so at once, and cancelled if that can
be; what comes of it later is disregarded. It keeps its place among the `concurrency` for as long as it really runs. A
plain handler cannot be interrupted: it has blocked the reactor, and what it has done by then is done.

A job that has waited `PATIENCE` seconds says that this worker is slow now: all jobs beyond concurrency + 1
are given back, the newest, to those who would have kept them waiting (rule 7 of docs/protocol.rst).
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from itertools import chain, compress
from time import monotonic, time
from typing import Any, Protocol, TypeAlias

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline import forks
from zpipeline.calls import DaemonPool, InThread, promised
from zpipeline.handlers import Handler, is_coroutine_function
from zpipeline.histogram import Timings
from zpipeline.job import Job
from zpipeline.outcomes import TimedOut, caught

SLICE = 0.005
PATIENCE = 0.1

_log = Logger()


class Origin(Protocol):
    """Where a job came from, and its outcome goes."""

    #: Whether jobs can be given back to it.
    takes_back: bool

    def done(self, jobs: list[Job], results: list[Any]) -> None:
        """These have been run, and their handler has returned this for each of them."""

    def failed(self, job: Job, failure: Failure) -> None:
        """Its handler failed."""

    def returned(self, jobs: list[Job]) -> None:
        """These have not been begun, and will not be."""

    def report(self, timings: Timings) -> None:
        """Say now what was done, failed or returned.

        :param timings: of what was done or failed since it was last said.
        """


class RunnerOwner(Protocol):
    """The worker, to a runner."""

    def before_slice(self) -> None:
        """Handlers are about to run: drop what must not be begun."""

    def before_giving_back(self) -> None:
        """Jobs are about to be given back: add what has arrived."""

    def concurrency_changed(self) -> None:
        """The runner's `concurrency` is another."""

    def became_idle(self) -> None:
        """There is nothing more to do for now."""


@define(eq=False)
class Delivery:
    """How jobs came to this worker: those of one message have it in common.

    :ivar session: of that origin; 0 where there are none.
    :ivar received_at: by the monotonic clock.
    :ivar timeout: how many seconds an attempt may take; None: any time.
    """

    origin: Origin
    session: int
    received_at: float
    timeout: float | None = None


#: What a job is reported by: its key, delivery, attempt, and time of acceptance.
_Facts: TypeAlias = tuple[tuple[int, int], Delivery, int, float]


@define(eq=False)
class _Attempt:
    """A job whose handler is under way: a Deferred, a coroutine, or in a thread.

    :ivar facts: about the job, that its handler may have changed there.
    :ivar timeout: as its delivery said when it began.
    """

    job: Job
    facts: _Facts
    outcome: Deferred[Any]
    where: Callable[[], str]
    begun_at: float
    timeout: float | None
    deadline: IDelayedCall | None = None

    def its_job(self) -> Job:
        """The job as it came."""
        job = self.job
        job.key, job.delivery, job.attempt, job.accepted_at = self.facts
        return job


class Runner:
    """Runs jobs with a handler.

    :param handler: plain, ``async``, or returning Deferreds.
    :param concurrency: how many run at once, where the handler is not plain.
    :param threads: run a blocking handler in a pool of that many threads; 0: in the reactor.
    :ivar concurrency: how many run at once, as far as it is known: that a handler returns Deferreds shows when it does.
    :ivar timings: of all attempts.
    :ivar failed: how many of them failed.
    :ivar returned: how many jobs were given back.
    """

    def __init__(self, reactor: Any, handler: Handler, owner: RunnerOwner, *, concurrency: int, threads: int) -> None:
        self._reactor = reactor
        self._owner = owner
        self._handler = handler
        self._asynchronous_concurrency = concurrency
        self._threads = threads
        self._pool: DaemonPool | None = None
        if threads:
            self.concurrency = threads
        else:
            self.concurrency = concurrency if is_coroutine_function(handler) else 1
        self.timings = Timings()
        self.failed = 0
        self.returned = 0
        self._failing = 0  # that have failed, and are not reported yet
        self._backlog: deque[Job] = deque()
        self._running: dict[tuple[int, int], _Attempt] = {}  # by the keys of their jobs
        self._overdue: set[_Attempt] = set()  # have timed out, and still run
        self._busy = 0  # how many are in one of these two
        self._reporting: defaultdict[Origin, Timings] = defaultdict(Timings)
        self._slice: IDelayedCall | None = None
        self._patience: IDelayedCall | None = None
        self._patient_until = 0.0
        self._in_slice = False

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._backlog and not self._busy and not self._in_slice

    @property
    def done(self) -> int:
        """How many attempts did not fail."""
        return self.timings.run.total - self.failed

    @property
    def waiting(self) -> int:
        """How many jobs are here that are not begun."""
        return len(self._backlog)

    @property
    def running(self) -> int:
        """How many are under way between two turns, those that have timed out and still run included."""
        return self._busy

    def held(self) -> Counter[int] | None:
        """How many jobs of each session are here of which nothing was reported; None while some are being run."""
        if self._in_slice:
            return None
        waiting = [job.delivery for job in self._backlog]
        running = [delivery for _, delivery, _, _ in (attempt.facts for attempt in self._running.values())]
        return Counter([delivery.session for delivery in chain(waiting, running)])

    def start(self) -> None:
        """Make ready to run."""
        if self._threads:
            self._pool = DaemonPool(0, self._threads, "zpipeline")  # one that was stopped cannot start again
            self._pool.start()

    def stop(self) -> None:
        """Begin nothing more. What runs in threads is left alone; it does not hold up the end of the process."""
        self._backlog.clear()
        for call in (self._slice, self._patience):
            if call is not None and call.active():
                call.cancel()
        self._slice = self._patience = None
        for attempt in self._running.values():
            _forget_deadline(attempt)
        if self._pool is not None and not self._busy:
            self._pool.stop()

    def add(self, jobs: list[Job]) -> None:
        """Run these, after what waits already. One that runs already is not run beside itself.

        One whose attempt here has timed out is run, beside what still runs of that attempt: this is its next one.

        :param jobs: each with its `delivery`.
        """
        for job in jobs if self._running else ():
            running = self._running.get(job.key)
            if running is not None:
                running.facts = _facts(job)  # it is reported in that session
                jobs = [other for other in jobs if other is not job]
        self._backlog.extend(jobs)
        self._go_on()

    def drop(self, origin: Origin) -> int:
        """Forget what that origin has waiting here: how many jobs."""
        before = len(self._backlog)
        self._backlog = deque(job for job in self._backlog if job.delivery.origin is not origin)
        return before - len(self._backlog)

    # Running

    def _go_on(self) -> None:
        if self._backlog and self._slice is None and self._busy < self.concurrency:
            self._slice = self._reactor.callLater(0, self._run_slice)
        if len(self._backlog) > self._keep() and self._patience is None:
            wait = self._backlog[0].delivery.received_at + PATIENCE - monotonic()
            self._patience = self._reactor.callLater(wait if wait > 0 else PATIENCE, self._lose_patience)

    def _run_slice(self) -> None:
        try:
            self._run_some()
        finally:
            self._go_on()  # whatever one job has come to
        if self.idle:
            self._owner.became_idle()

    def _run_some(self) -> None:
        self._owner.before_slice()
        self._give_back()
        self._slice = None
        self._in_slice = True
        done: list[Job] = []
        results: list[Any] = []
        begun_at: list[float] = []
        took: list[float] = []
        now = slice_began_at = monotonic()
        deadline = now + SLICE
        try:
            while self._backlog and self._busy < self.concurrency and now <= deadline:
                job = self._backlog.popleft()
                facts = _facts(job)
                begun = now
                promise = failure = None
                if self._pool is not None:
                    call = InThread(self._handler, job)
                    promise = deferToThreadPool(self._reactor, self._pool, call), call.where
                else:
                    try:
                        result = self._handler(job)
                        if result is not None:
                            promise = promised(result)
                    except BaseException:  # as of Deferreds and threads; asyncio's CancelledError is no Exception
                        failure = caught()
                    if forks.in_child and promise is None:
                        forks.leave(None if failure is None else failure.value)
                    job.key, job.delivery, job.attempt, job.accepted_at = facts  # whatever the handler has made of them
                if promise is not None:
                    self._wait_for(job, facts, *promise, begun)
                elif failure is not None:
                    self._failed(job, failure, begun)
                else:
                    done.append(job)
                    results.append(result)
                    begun_at.append(begun)
                    now = monotonic()
                    took.append(now - begun)
                    continue
                now = monotonic()
        finally:
            self._in_slice = False
            self._done(done, results, begun_at, took)
        self._report()
        if now >= slice_began_at + PATIENCE:
            self._give_back(at_once=True)  # what has come meanwhile is not read yet, and has waited all the same

    def _wait_for(
        self, job: Job, facts: _Facts, outcome: Deferred[Any], where: Callable[[], str], begun_at: float
    ) -> None:
        key, delivery, _, _ = facts  # a thread may have changed its job already
        attempt = _Attempt(job, facts, outcome, where, begun_at, delivery.timeout)
        self._running[key] = attempt
        self._busy += 1
        outcome.addBoth(self._ended, attempt)
        if forks.in_child:
            forks.cannot_wait()
        if self._running.get(key) is not attempt:
            return
        if attempt.timeout is not None:
            left = max(0.0, begun_at + attempt.timeout - monotonic())
            attempt.deadline = self._reactor.callLater(left, self._time_out, attempt)
        if self._pool is None and self.concurrency < self._asynchronous_concurrency:
            self.concurrency = self._asynchronous_concurrency
            self._owner.concurrency_changed()

    def _ended(self, outcome: Any, attempt: _Attempt) -> None:
        if forks.in_child:
            forks.leave(outcome.value if isinstance(outcome, Failure) else None)
        self._busy -= 1
        if attempt in self._overdue:
            self._overdue.remove(attempt)
        else:
            job = attempt.its_job()
            del self._running[job.key]
            _forget_deadline(attempt)
            if isinstance(outcome, Failure):
                self._failed(job, outcome, attempt.begun_at)
            else:
                self._done([job], [outcome], [attempt.begun_at], [monotonic() - attempt.begun_at])
        self._run_soon()

    def _time_out(self, attempt: _Attempt) -> None:
        job = attempt.its_job()
        assert attempt.timeout is not None
        del self._running[job.key]
        self._overdue.add(attempt)
        self._failed(job, Failure(TimedOut(attempt.timeout, attempt.where())), attempt.begun_at)
        if not self._threads:  # cancelling what waits for a thread would only hide when that one ends
            try:
                attempt.outcome.cancel()
            except BaseException:  # it is the handler's
                _log.failure("job {id} timed out, and cancelling it fails", id=job.id)
        if len(self._overdue) >= self.concurrency:
            _log.warn(
                "nothing more runs here until one of {count} jobs that timed out has ended", count=len(self._overdue)
            )
        self._run_soon()

    def _run_soon(self) -> None:
        if self._slice is None and not self._in_slice:
            # what other Deferreds of this turn do is reported with it
            self._slice = self._reactor.callLater(0, self._run_slice)

    def _done(self, jobs: list[Job], results: list[Any], begun_at: list[float], took: list[float]) -> None:
        origins = dict.fromkeys([job.delivery.origin for job in jobs])
        for origin in origins:
            if len(origins) == 1:
                self._measure(origin, jobs, begun_at, took)
                origin.done(jobs, results)
            else:
                its_own = [job.delivery.origin is origin for job in jobs]
                its_jobs = list(compress(jobs, its_own))
                self._measure(origin, its_jobs, list(compress(begun_at, its_own)), list(compress(took, its_own)))
                origin.done(its_jobs, list(compress(results, its_own)))

    def _failed(self, job: Job, failure: Failure, begun_at: float) -> None:
        origin = job.delivery.origin
        self._failing += 1
        self._measure(origin, [job], [begun_at], [monotonic() - begun_at])
        origin.failed(job, failure)

    def _measure(self, origin: Origin, jobs: list[Job], begun_at: list[float], took: list[float]) -> None:
        timings = self._reporting[origin]
        timings.run.observe(took)
        since_epoch = time() - monotonic()  # acceptance is told by the clock on the wall
        waited = zip(begun_at, jobs, strict=True)
        # what a later attempt has waited for is not the pipeline
        timings.start.observe([at + since_epoch - job.accepted_at for at, job in waited if job.attempt == 1])

    def _report(self) -> None:
        reporting, self._reporting = self._reporting, defaultdict(Timings)
        for origin, timings in reporting.items():
            self.timings.add(timings)
            origin.report(timings)
        self.failed += self._failing
        self._failing = 0

    # Giving back

    def _lose_patience(self) -> None:
        self._patience = None
        self._give_back()
        self._go_on()

    def _keep(self) -> int:
        if len(self._overdue) >= self.concurrency:
            return 0  # nothing will be begun here until one of them ends, if ever
        return max(0, self.concurrency + 1 - self._busy)

    def _give_back(self, *, at_once: bool = False) -> None:
        """Give back what is too much, if the first that waits has no patience left, or at once."""
        if not at_once:
            if not self._backlog:
                return
            if monotonic() < max(self._backlog[0].delivery.received_at + PATIENCE, self._patient_until):
                return
        self._owner.before_giving_back()
        keep = self._keep()
        kept: deque[Job] = deque()
        given: dict[Origin, list[Job]] = {}
        for job in self._backlog:
            origin = job.delivery.origin
            if len(kept) < keep or not origin.takes_back:
                kept.append(job)
            else:
                given.setdefault(origin, []).append(job)
        self._backlog = kept
        if len(kept) > keep:
            # they cannot be given back, however many they are: do not go through all of them in each slice
            self._patient_until = monotonic() + PATIENCE
        for origin, jobs in given.items():
            self.returned += len(jobs)
            origin.returned(jobs)


def _facts(job: Job) -> _Facts:
    return job.key, job.delivery, job.attempt, job.accepted_at


def _forget_deadline(attempt: _Attempt) -> None:
    if attempt.deadline is not None and attempt.deadline.active():
        attempt.deadline.cancel()
