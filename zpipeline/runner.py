"""Runs a worker's jobs: what waits, what runs, and when it is too much. No sockets.

Plain handlers run one after the other in the reactor, for `SLICE` seconds at a time; then what they did is
reported and the reactor has its turn. Handlers that return Deferreds or coroutines run up to `concurrency` at
once, and so do those in threads.

A job that has waited `PATIENCE` seconds says that this worker is slow now: all jobs beyond concurrency + 1
are given back, the newest, to those who would have kept them waiting (rule 7 of docs/protocol.rst).
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Iterable
from functools import partial
from threading import Thread
from time import monotonic
from typing import Any, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from zpipeline.handlers import Handler
from zpipeline.job import Job

SLICE = 0.005
PATIENCE = 0.1


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
    """One job at this worker."""

    origin: Origin
    session: int
    sequence: int
    job: Job
    received_at: float


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
        self._running: dict[tuple[Origin, int], Delivery] = {}
        self._reporting: dict[Origin, None] = {}
        self._slice: IDelayedCall | None = None
        self._patience: IDelayedCall | None = None
        self._patient_until = 0.0
        self._in_handler: Delivery | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._backlog and not self._running and self._in_handler is None

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
        if self._pool is not None and not self._running:
            self._pool.stop()

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Run these, after what waits already. One that runs already, for the same origin, is not run beside itself."""
        for delivery in deliveries:
            running = self._running.get((delivery.origin, delivery.sequence))
            if running is None:
                self._backlog.append(delivery)
            else:
                running.session = delivery.session
        self._go_on()

    def drop(self, origin: Origin) -> int:
        """Forget what that origin has waiting here: how many jobs."""
        before = len(self._backlog)
        self._backlog = deque(delivery for delivery in self._backlog if delivery.origin is not origin)
        return before - len(self._backlog)

    # Running

    def _go_on(self) -> None:
        if self._backlog and self._slice is None and len(self._running) < self.concurrency:
            self._slice = self._reactor.callLater(0, self._run_slice)
        if len(self._backlog) > self._keep() and self._patience is None:
            wait = self._backlog[0].received_at + PATIENCE - monotonic()
            self._patience = self._reactor.callLater(wait if wait > 0 else PATIENCE, self._lose_patience)

    def _run_slice(self) -> None:
        self._owner.before_slice()
        self._give_back()
        self._slice = None
        deadline = monotonic() + SLICE
        while self._backlog and len(self._running) < self.concurrency:
            self._begin(self._backlog.popleft())
            if monotonic() > deadline:
                break
        self._report()
        self._go_on()
        if self.idle:
            self._owner.became_idle()

    def _begin(self, delivery: Delivery) -> None:
        if self._pool is not None:
            self._wait_for(delivery, deferToThreadPool(self._reactor, self._pool, self._handler, delivery.job))
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
                self._wait_for(delivery, result)
            elif inspect.isawaitable(result):
                self._wait_for(delivery, Deferred.fromCoroutine(_await(result)))
            else:
                self._done(delivery, result)
        finally:
            self._in_handler = None

    def _wait_for(self, delivery: Delivery, outcome: Deferred[Any]) -> None:
        self._running[delivery.origin, delivery.sequence] = delivery
        outcome.addCallbacks(
            lambda result: self._done(delivery, result), lambda failure: self._failed(delivery, failure)
        )
        outcome.addBoth(self._ended, delivery)
        still_runs = (delivery.origin, delivery.sequence) in self._running
        if still_runs and self._pool is None and self.concurrency < self._asynchronous_concurrency:
            self.concurrency = self._asynchronous_concurrency
            self._owner.concurrency_changed()

    def _ended(self, _: object, delivery: Delivery) -> None:
        del self._running[delivery.origin, delivery.sequence]
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
        return max(0, self.concurrency + 1 - len(self._running))

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


def _is_coroutine_function(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
