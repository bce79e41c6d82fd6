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

import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import takewhile
from threading import Thread, get_ident
from time import monotonic
from traceback import StackSummary, walk_stack
from types import FrameType
from typing import Any, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from zpipeline.errors import ZpipelineError
from zpipeline.handlers import Handler
from zpipeline.job import Job

SLICE = 0.005
PATIENCE = 0.1

_log = Logger()


class Origin(Protocol):
    """Where a job came from, and its outcome goes."""

    #: Whether jobs can be given back to it.
    takes_back: bool

    def done(self, delivery: Delivery, result: Any) -> None:
        """The job has been run."""

    def failed(self, delivery: Delivery, failure: Failure) -> None:
        """Its handler failed."""

    def returned(self, deliveries: list[Delivery]) -> None:
        """These have not been begun, and will not be."""

    def report(self) -> None:
        """Say now what was done, failed or returned."""


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
    """One job at this worker.

    :ivar timeout: how many seconds its attempt may take; None: any time.
    """

    origin: Origin
    session: int
    sequence: int
    job: Job
    received_at: float
    timeout: float | None = None


class TimedOut(ZpipelineError):
    """Why an attempt failed that took longer than its delivery allows. It is a reason; nobody raises it.

    :param seconds: that it was allowed.
    :ivar where: where its handler was then, as a traceback has it; empty where that is not known.
    """

    def __init__(self, seconds: float, where: str) -> None:
        super().__init__(f"timed out after {seconds:g} seconds")
        self.where = where


@define(eq=False)
class _Attempt:
    """A delivery whose handler is under way: a Deferred, a coroutine, or in a thread."""

    delivery: Delivery
    outcome: Deferred[Any]
    where: Callable[[], str]
    deadline: IDelayedCall | None = None

    @property
    def key(self) -> tuple[Origin, int]:
        return self.delivery.origin, self.delivery.sequence


class Runner:
    """Runs jobs with a handler.

    :param handler: plain, ``async``, or returning Deferreds.
    :param concurrency: how many run at once, where the handler is not plain.
    :param threads: run a blocking handler in a pool of that many threads; 0: in the reactor.
    :ivar concurrency: how many run at once, as far as it is known: that a handler returns Deferreds shows when it does.
    """

    def __init__(self, reactor: Any, handler: Handler, owner: RunnerOwner, *, concurrency: int, threads: int) -> None:
        self._reactor = reactor
        self._owner = owner
        self._handler = handler
        self._asynchronous_concurrency = concurrency
        self._threads = threads
        self._pool: _DaemonPool | None = None
        if threads:
            self.concurrency = threads
        else:
            self.concurrency = concurrency if _is_coroutine_function(handler) else 1
        self._backlog: deque[Delivery] = deque()
        self._running: dict[tuple[Origin, int], _Attempt] = {}
        self._overdue: set[_Attempt] = set()  # have timed out, and still run
        self._busy = 0  # how many are in one of these two
        self._reporting: dict[Origin, None] = {}
        self._slice: IDelayedCall | None = None
        self._patience: IDelayedCall | None = None
        self._patient_until = 0.0
        self._in_handler: Delivery | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._backlog and not self._busy and self._in_handler is None

    def start(self) -> None:
        """Make ready to run."""
        if self._threads:
            self._pool = _DaemonPool(0, self._threads, "zpipeline")  # one that was stopped cannot start again
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

    def add(self, deliveries: list[Delivery]) -> None:
        """Run these, after what waits already. One that runs already, for the same origin, is not run beside itself.

        One whose attempt here has timed out is run, beside what still runs of that attempt: this is its next one.
        """
        for delivery in deliveries if self._running else ():
            running = self._running.get((delivery.origin, delivery.sequence))
            if running is not None:
                running.delivery.session = delivery.session
                deliveries = [other for other in deliveries if other is not delivery]
        self._backlog.extend(deliveries)
        self._go_on()

    def drop(self, origin: Origin) -> int:
        """Forget what that origin has waiting here: how many jobs."""
        before = len(self._backlog)
        self._backlog = deque(delivery for delivery in self._backlog if delivery.origin is not origin)
        return before - len(self._backlog)

    # Running

    def _go_on(self) -> None:
        if self._backlog and self._slice is None and self._busy < self.concurrency:
            self._slice = self._reactor.callLater(0, self._run_slice)
        if len(self._backlog) > self._keep() and self._patience is None:
            wait = self._backlog[0].received_at + PATIENCE - monotonic()
            self._patience = self._reactor.callLater(wait if wait > 0 else PATIENCE, self._lose_patience)

    def _run_slice(self) -> None:
        self._owner.before_slice()
        self._give_back()
        self._slice = None
        now = monotonic()
        deadline = now + SLICE
        while self._backlog and self._busy < self.concurrency and now <= deadline:
            self._begin(self._backlog.popleft(), now)
            now = monotonic()
        self._report()
        self._go_on()
        if self.idle:
            self._owner.became_idle()

    def _begin(self, delivery: Delivery, now: float) -> None:
        if self._pool is not None:
            call = _InThread(self._handler, delivery.job)
            self._wait_for(delivery, deferToThreadPool(self._reactor, self._pool, call), call.where, now)
            return
        self._in_handler = delivery
        try:
            result = self._handler(delivery.job)
        except BaseException:  # as for asynchronous handlers and threads; asyncio's CancelledError is no Exception
            self._failed(delivery, Failure())
        else:
            if result is None:
                self._done(delivery, None)
            elif isinstance(result, Deferred):
                self._wait_for(delivery, result, _nowhere, now)
            elif inspect.isawaitable(result):
                self._wait_for(delivery, Deferred.fromCoroutine(_await(result)), partial(_where, result), now)
            else:
                self._done(delivery, result)
        finally:
            self._in_handler = None

    def _wait_for(self, delivery: Delivery, outcome: Deferred[Any], where: Callable[[], str], begun_at: float) -> None:
        attempt = _Attempt(delivery, outcome, where)
        self._running[attempt.key] = attempt
        self._busy += 1
        outcome.addBoth(self._ended, attempt)
        if self._running.get(attempt.key) is not attempt:
            return
        if delivery.timeout is not None:
            left = max(0.0, begun_at + delivery.timeout - monotonic())
            attempt.deadline = self._reactor.callLater(left, self._time_out, attempt)
        if self._pool is None and self.concurrency < self._asynchronous_concurrency:
            self.concurrency = self._asynchronous_concurrency
            self._owner.concurrency_changed()

    def _ended(self, outcome: Any, attempt: _Attempt) -> None:
        self._busy -= 1
        if attempt in self._overdue:
            self._overdue.remove(attempt)
        else:
            del self._running[attempt.key]
            _forget_deadline(attempt)
            if isinstance(outcome, Failure):
                self._failed(attempt.delivery, outcome)
            else:
                self._done(attempt.delivery, outcome)
        self._run_soon()

    def _time_out(self, attempt: _Attempt) -> None:
        delivery = attempt.delivery
        assert delivery.timeout is not None
        del self._running[attempt.key]
        self._overdue.add(attempt)
        self._failed(delivery, Failure(TimedOut(delivery.timeout, attempt.where())))
        if not self._threads:  # cancelling what waits for a thread would only hide when that one ends
            try:
                attempt.outcome.cancel()
            except Exception:
                _log.failure("job {id} timed out, and cancelling it fails", id=delivery.job.id)
        if len(self._overdue) >= self.concurrency:
            _log.warn(
                "nothing more runs here until one of {count} jobs that timed out has ended", count=len(self._overdue)
            )
        self._run_soon()

    def _run_soon(self) -> None:
        if self._slice is None and self._in_handler is None:
            # what other Deferreds of this turn do is reported with it
            self._slice = self._reactor.callLater(0, self._run_slice)

    def _done(self, delivery: Delivery, result: Any) -> None:
        self._reporting[delivery.origin] = None
        delivery.origin.done(delivery, result)

    def _failed(self, delivery: Delivery, failure: Failure) -> None:
        self._reporting[delivery.origin] = None
        delivery.origin.failed(delivery, failure)

    def _report(self) -> None:
        reporting, self._reporting = self._reporting, {}
        for origin in reporting:
            origin.report()

    # Giving back

    def _lose_patience(self) -> None:
        self._patience = None
        self._give_back()
        self._go_on()

    def _keep(self) -> int:
        if len(self._overdue) >= self.concurrency:
            return 0  # nothing will be begun here until one of them ends, if ever
        return max(0, self.concurrency + 1 - self._busy)

    def _give_back(self) -> None:
        if not self._backlog or monotonic() < max(self._backlog[0].received_at + PATIENCE, self._patient_until):
            return
        self._owner.before_giving_back()
        keep = self._keep()
        kept: deque[Delivery] = deque()
        given: dict[Origin, list[Delivery]] = {}
        for delivery in self._backlog:
            if len(kept) < keep or not delivery.origin.takes_back:
                kept.append(delivery)
            else:
                given.setdefault(delivery.origin, []).append(delivery)
        self._backlog = kept
        if len(kept) > keep:
            # they cannot be given back, however many they are: do not go through all of them in each slice
            self._patient_until = monotonic() + PATIENCE
        for origin, deliveries in given.items():
            origin.returned(deliveries)


class _DaemonPool(ThreadPool):
    """A pool whose threads end with the process, whatever they are at."""

    threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]


class _InThread:
    """The call of a handler, to be made in a thread."""

    def __init__(self, handler: Handler, job: Job) -> None:
        self._handler = handler
        self._job = job
        self._thread = 0

    def __call__(self) -> Any:
        self._thread = get_ident()
        return self._handler(self._job)

    def where(self) -> str:
        """Where it is."""
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return ""
        inner = takewhile(lambda pair: pair[0].f_code is not _InThread.__call__.__code__, walk_stack(frame))
        return _stack(reversed(list(inner)))


def _where(awaitable: object) -> str:
    """Where a coroutine is, down to what it waits for."""

    def frames() -> Iterator[tuple[FrameType, int]]:
        inner: Any = awaitable
        while inspect.iscoroutine(inner) and inner.cr_frame is not None:
            yield inner.cr_frame, inner.cr_frame.f_lineno
            inner = inner.cr_await

    return _stack(frames())


def _nowhere() -> str:
    """Of a Deferred nobody knows where it is."""
    return ""


def _stack(frames: Iterator[tuple[FrameType, int]]) -> str:
    lines = StackSummary.extract(frames).format()
    return "".join(["Where it was then (most recent call last):\n", *lines]) if lines else ""


def _forget_deadline(attempt: _Attempt) -> None:
    if attempt.deadline is not None and attempt.deadline.active():
        attempt.deadline.cancel()


def _is_coroutine_function(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
