"""Runner: in which order, how many at once, and when it is too much."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred, fail, inlineCallbacks, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial import unittest

from tests.oddities import HasNoClass
from tests.peers import until
from zpipeline import runner as module
from zpipeline.histogram import Timings
from zpipeline.job import Job
from zpipeline.outcomes import TimedOut
from zpipeline.runner import PATIENCE, SLICE, Delivery, Runner


class CountingClock(Clock):
    """A clock that counts what is scheduled."""

    scheduled = 0

    def callLater(self, *args: Any, **kwargs: Any) -> Any:
        self.scheduled += 1
        assert self.scheduled < 100_000, "a busy loop"  # which would hold up the tests for ever
        return super().callLater(*args, **kwargs)


class Origin:
    """Records what it is told; `log` is shared by all that one test watches."""

    _numbers = count(1)

    def __init__(self, log: list[Any], takes_back: bool = True) -> None:
        self.number = next(self._numbers)
        self.log = log
        self.takes_back = takes_back
        self.results: dict[int, Any] = {}
        self.failures: dict[int, Failure] = {}
        self.given_back: list[int] = []

    def done(self, jobs: list[Job], results: list[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            _, number = job.key
            assert number not in self.results, "done twice"
            self.results[number] = result
            self.log.append(("done", number))

    def failed(self, job: Job, failure: Failure) -> None:
        _, number = job.key
        assert number not in self.failures, "failed twice"
        assert number not in self.results, "failed after it was done"
        self.failures[number] = failure
        self.log.append(("failed", number))

    def returned(self, jobs: list[Job]) -> None:
        numbers = [job.key[1] for job in jobs]
        self.given_back += numbers
        self.log.append(("returned", numbers))

    def report(self, timings: Timings) -> None:
        self.log.append("report")


class Owner:
    """Records what it is told."""

    def __init__(self) -> None:
        self.slices = 0
        self.idle = 0
        self.changes: list[int] = []
        self.late: Callable[[], None] | None = None
        self.runner: Runner | None = None

    def before_slice(self) -> None:
        self.slices += 1

    def before_giving_back(self) -> None:
        if self.late is not None:
            late, self.late = self.late, None
            late()

    def concurrency_changed(self) -> None:
        assert self.runner is not None
        self.changes.append(self.runner.concurrency)

    def became_idle(self) -> None:
        self.idle += 1


class Rig:
    """A runner with what it needs."""

    def __init__(
        self,
        reactor: Any,
        handler: Callable[[Job], Any],
        *,
        concurrency: int = 10,
        threads: int = 0,
        takes_back: bool = True,
    ) -> None:
        self.reactor = reactor
        self.log: list[Any] = []
        self.origin = Origin(self.log, takes_back)
        self.owner = Owner()
        self.runner = Runner(reactor, handler, self.owner, concurrency=concurrency, threads=threads)
        self.owner.runner = self.runner
        self.runner.start()

    def jobs(
        self, numbers: Any, origin: Origin | None = None, session: int = 1, timeout: float | None = None
    ) -> list[Job]:
        now = module.monotonic()
        origin = origin or self.origin
        delivery = Delivery(origin, session, now, timeout)
        return [Job((origin.number, n), b"%d" % n, delivery=delivery) for n in numbers]

    def add(self, *numbers: int, origin: Origin | None = None, timeout: float | None = None) -> list[Job]:
        made = self.jobs(numbers, origin, timeout=timeout)
        self.runner.add(made)
        return made


class Case(unittest.TestCase):
    """On a clock that only tests turn."""

    timeout = 60

    def setUp(self) -> None:
        self.clock = CountingClock()
        self.patch(module, "monotonic", self.clock.seconds)

    def rig(self, handler: Callable[[Job], Any], **options: Any) -> Rig:
        return Rig(self.clock, handler, **options)

    def pass_time(self, seconds: float) -> None:
        """Time goes by inside a handler: the reactor does not turn."""
        self.clock.rightNow += seconds


class Held:
    """An asynchronous handler whose jobs end when a test says so."""

    def __init__(self) -> None:
        self.running: dict[int, Deferred[Any]] = {}
        self.begun: list[int] = []
        self.most = 0

    def __call__(self, job: Job) -> Deferred[Any]:
        number = int(job.body)
        self.begun.append(number)
        self.running[number] = Deferred()
        self.most = max(self.most, len(self.running))
        return self.running[number]

    def end(self, number: int, result: Any = None) -> None:
        self.running.pop(number).callback(result)


class AwaitedHeld(Held):
    """The same, so that it shows that it is asynchronous."""

    async def __call__(self, job: Job) -> Any:  # type: ignore[override]
        return await super().__call__(job)


class PlainHandlerTests(Case):
    def test_jobs_run_in_the_order_in_which_they_came(self) -> None:
        ran: list[bytes] = []
        rig = self.rig(lambda job: ran.append(job.body))
        rig.add(3, 1)
        rig.add(2)
        self.clock.advance(0)
        self.assertEqual(ran, [b"3", b"1", b"2"])
        self.assertEqual(rig.log[:3], [("done", 3), ("done", 1), ("done", 2)])

    def test_nothing_runs_within_add(self) -> None:
        ran: list[bytes] = []
        rig = self.rig(lambda job: ran.append(job.body))
        rig.add(1)
        self.assertEqual(ran, [])
        self.assertFalse(rig.runner.idle)

    def test_the_concurrency_of_a_plain_handler_is_one(self) -> None:
        self.assertEqual(self.rig(lambda job: None, concurrency=10).runner.concurrency, 1)

    def test_the_result_is_passed_on(self) -> None:
        rig = self.rig(lambda job: {b"1": b"bytes", b"2": None, b"3": ["a", 1]}[job.body])
        rig.add(1, 2, 3)
        self.clock.advance(0)
        self.assertEqual(rig.origin.results, {1: b"bytes", 2: None, 3: ["a", 1]})

    def test_a_callable_object_is_a_handler(self) -> None:
        class Resize:
            def __call__(self, job: Job) -> int:
                return len(job.body)

        rig = self.rig(Resize())
        rig.add(1)
        self.clock.advance(0)
        self.assertEqual(rig.origin.results, {1: 1})

    def test_what_a_handler_raises_fails_that_job_once_and_the_others_go_on(self) -> None:
        for kind in (ValueError, SystemExit, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):

            def handler(job: Job, kind: type[BaseException] = kind) -> str:
                if job.body == b"2":
                    raise kind("no")
                return "ran"

            rig = self.rig(handler)
            rig.add(1, 2, 3)
            self.clock.advance(0)
            self.assertEqual(rig.origin.results, {1: "ran", 3: "ran"}, kind)
            self.assertEqual(list(rig.origin.failures), [2], kind)
            self.assertIsInstance(rig.origin.failures[2].value, kind)
            self.assertTrue(rig.runner.idle)

    def test_one_report_covers_what_one_slice_did(self) -> None:
        rig = self.rig(lambda job: None)
        rig.add(1, 2, 3)
        self.clock.advance(0)
        self.assertEqual(rig.log, [("done", 1), ("done", 2), ("done", 3), "report"])

    def test_only_origins_with_something_to_report_are_asked_to(self) -> None:
        rig = self.rig(lambda job: None)
        other = Origin([])
        rig.add(1)
        self.clock.advance(0)
        rig.add(1, origin=other)
        self.clock.advance(0)
        self.assertEqual(rig.log.count("report"), 1)
        self.assertEqual(other.log.count("report"), 1)

    def test_it_says_when_it_is_idle(self) -> None:
        rig = self.rig(lambda job: None)
        self.assertTrue(rig.runner.idle)
        rig.add(1, 2)
        self.clock.advance(0)
        self.assertTrue(rig.runner.idle)
        self.assertEqual(rig.owner.idle, 1)

    def test_it_is_not_idle_while_a_handler_runs(self) -> None:
        seen: list[bool] = []
        rig = self.rig(lambda job: seen.append(rig.runner.idle))
        rig.add(1)
        self.clock.advance(0)
        self.assertEqual(seen, [False])


class NeverRunTests(unittest.TestCase):
    """A handler that returns what was to do its work, where nothing does that, has failed."""

    timeout = 60

    def setUp(self) -> None:
        self.ran: list[Job] = []

    def generator(self, job: Job) -> Iterator[int]:
        """It has to be asked for each of its values."""
        self.ran.append(job)
        yield 1

    async def asynchronous(self, job: Job) -> None:
        """It has to be awaited."""
        self.ran.append(job)

    async def asynchronous_generator(self, job: Job) -> AsyncIterator[int]:
        """It has to be asked for each of its values, each of which is to be awaited."""
        self.ran.append(job)
        yield 1

    async def failure_of(self, handler: Any, **options: Any) -> str:
        """Why one job fails, beside others that do not."""
        rig = Rig(real_reactor, lambda job: handler(job) if job.key[1] == 5 else b"good", takes_back=False, **options)
        self.addCleanup(rig.runner.stop)
        rig.add(*range(10))
        await until(lambda: rig.runner.idle)
        self.assertEqual(rig.origin.results, {number: b"good" for number in range(10) if number != 5})
        self.assertEqual(self.ran, [])
        [failure] = rig.origin.failures.values()
        return failure.getErrorMessage()

    async def test_generators(self) -> None:
        async def returns_one(job: Job) -> Any:
            return self.generator(job)

        for options in ({}, {"threads": 2}):
            said = await self.failure_of(self.generator, **options)
            self.assertEqual(said, "the handler returned a generator, and nothing has run of it: it must not `yield`")
            said = await self.failure_of(self.asynchronous_generator, **options)
            self.assertIn("the handler returned an async generator, and nothing has run of it", said)
        for handler in (returns_one, lambda job: succeed(self.generator(job))):
            self.assertIn("returned a generator", await self.failure_of(handler))

    async def test_what_would_have_to_be_awaited(self) -> None:
        async def forgets_to(job: Job) -> Any:
            return self.asynchronous(job)

        async def returns_a_deferred(job: Job) -> Any:
            return Deferred()

        for handler, name, options in (
            (self.asynchronous, "a coroutine", {"threads": 2}),
            (lambda job: Deferred(), "a Deferred", {"threads": 2}),
            (forgets_to, "a coroutine", {}),
            (returns_a_deferred, "a Deferred", {}),
            (lambda job: succeed(self.asynchronous(job)), "a coroutine", {}),
        ):
            said = await self.failure_of(handler, **options)
            self.assertEqual(
                said,
                f"the handler returned {name} where nothing waits for one: `await` it; with --threads, leave that out",
            )

    async def test_a_failure_that_is_returned_is_one(self) -> None:
        def handler(job: Job) -> Failure:
            return Failure(ValueError("no"))

        async def asynchronous(job: Job) -> Failure:
            return handler(job)

        for each, options in ((handler, {}), (handler, {"threads": 2}), (asynchronous, {}), (fail_later, {})):
            self.assertEqual(await self.failure_of(each, **options), "no")

    async def test_an_exception_that_cannot_be_looked_at_is_one(self) -> None:
        def handler(job: Job) -> None:
            raise HasNoClass

        async def asynchronous(job: Job) -> None:
            raise HasNoClass

        for each, options in ((handler, {}), (handler, {"threads": 2}), (asynchronous, {})):
            self.assertEqual(await self.failure_of(each, **options), "what it is")

    async def test_a_result_that_cannot_be_looked_at_is_a_failure(self) -> None:
        for options in ({}, {"threads": 2}):
            self.assertEqual(await self.failure_of(lambda job: HasNoClass(), **options), "what it is")


def fail_later(job: Job) -> Deferred[None]:
    """A Deferred whose value turns out to be a Failure."""
    later: Deferred[Any] = Deferred()
    real_reactor.callLater(0, later.callback, Failure(ValueError("no")))
    return later


class TimingTests(Case):
    """How long jobs waited, and took."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(module, "time", lambda: 1000.0 + self.clock.seconds())

    def add(self, rig: Rig, number: int, *, attempt: int = 1, timeout: float | None = None) -> None:
        """A job that was accepted two seconds before this clock began."""
        delivery = Delivery(rig.origin, 1, module.monotonic(), timeout)
        rig.runner.add([Job((1, number), b"%d" % number, attempt=attempt, accepted_at=998.0, delivery=delivery)])

    def test_a_job_waits_from_its_acceptance_and_runs_to_its_end(self) -> None:
        rig = self.rig(lambda job: self.pass_time(0.2))
        self.add(rig, 1)
        self.add(rig, 2)
        self.clock.advance(1.0)
        self.clock.advance(0)
        start, run = rig.runner.timings.start, rig.runner.timings.run
        self.assertEqual((start.total, run.total), (2, 2))
        self.assertAlmostEqual(start.sum, 3.0 + 3.2)
        self.assertAlmostEqual(run.sum, 0.4)

    def test_an_attempt_that_fails_counts_as_long_as_it_ran(self) -> None:
        def fails(job: Job) -> None:
            self.pass_time(0.3)
            raise ValueError("no")

        rig = self.rig(fails)
        self.add(rig, 1)
        self.clock.advance(0)
        self.assertAlmostEqual(rig.runner.timings.run.sum, 0.3)
        self.assertEqual((rig.runner.done, rig.runner.failed), (0, 1))

    def test_of_later_attempts_it_does_not_count_how_long_they_waited(self) -> None:
        rig = self.rig(lambda job: None)
        self.add(rig, 1, attempt=2)
        self.add(rig, 2)
        self.clock.advance(0)
        self.assertEqual((rig.runner.timings.start.total, rig.runner.timings.run.total), (1, 2))
        self.assertEqual(rig.runner.done, 2)

    def test_an_asynchronous_job_runs_until_its_deferred_fires(self) -> None:
        held = Held()
        rig = self.rig(held)
        self.add(rig, 1)
        self.clock.advance(0)
        self.assertEqual((rig.runner.running, rig.runner.done), (1, 0))
        self.clock.advance(5.0)
        held.end(1)
        self.clock.advance(0)
        self.assertAlmostEqual(rig.runner.timings.run.sum, 5.0)
        self.assertEqual((rig.runner.running, rig.runner.done), (0, 1))

    def test_a_job_that_times_out_ran_for_as_long_as_it_was_allowed(self) -> None:
        rig = self.rig(Held())
        self.add(rig, 1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(2.0)
        self.clock.advance(0)
        self.assertAlmostEqual(rig.runner.timings.run.sum, 2.0)

    def test_a_clock_that_is_behind_makes_no_time_negative(self) -> None:
        self.patch(module, "time", lambda: 0.0)
        rig = self.rig(lambda job: None)
        self.add(rig, 1)
        self.clock.advance(0)
        self.assertEqual(rig.runner.timings.start.sum, 0.0)

    def test_an_origin_is_told_of_its_own_jobs(self) -> None:
        rig = self.rig(lambda job: self.pass_time(0.001))
        told = []
        other = Origin([])
        other.report = told.append  # type: ignore[method-assign]
        rig.add(1, 2)
        rig.add(3, origin=other)
        self.clock.advance(0)
        self.assertEqual([timings.run.total for timings in told], [1])

    def test_what_waits_and_what_was_given_back_is_counted(self) -> None:
        held = Held()
        rig = self.rig(held, concurrency=1)
        rig.add(*range(5))
        self.clock.advance(0)
        self.assertEqual((rig.runner.waiting, rig.runner.running), (4, 1))
        self.clock.advance(PATIENCE)
        self.clock.advance(PATIENCE)
        self.assertEqual(rig.runner.returned, len(rig.origin.given_back))
        self.assertEqual(rig.runner.waiting, 4 - rig.runner.returned)
        self.assertGreater(rig.runner.returned, 0)


class SliceTests(Case):
    def test_after_five_milliseconds_of_handlers_it_reports_and_the_reactor_has_a_turn(self) -> None:
        rig = self.rig(lambda job: self.pass_time(0.002))
        rig.add(*range(1, 10))

        def tick() -> None:
            rig.log.append("tick")
            if not rig.runner.idle:
                self.clock.callLater(0, tick)

        self.clock.callLater(0, tick)
        self.clock.advance(0)
        # 2, 4 and 6 ms: the third job is over the 5 ms
        slices: list[Any] = []
        for first in (1, 4, 7):
            slices += [*(("done", n) for n in range(first, first + 3)), "report", "tick"]
        self.assertEqual(rig.log, slices)

    def test_a_single_long_job_ends_its_slice(self) -> None:
        rig = self.rig(lambda job: self.pass_time(SLICE * 2))
        rig.add(1, 2)
        self.clock.advance(0)
        self.assertEqual(rig.log, [("done", 1), "report", ("done", 2), "report"])

    def test_before_each_slice_the_owner_may_drop_what_must_not_be_begun(self) -> None:
        ran: list[bytes] = []
        rig = self.rig(lambda job: ran.append(job.body))
        rig.add(1, 2)
        self.patch(rig.owner, "before_slice", lambda: rig.runner.drop(rig.origin))
        self.clock.advance(0)
        self.assertEqual(ran, [])
        self.assertTrue(rig.runner.idle)
        self.assertEqual(rig.owner.idle, 1)

    async def test_on_the_real_reactor_a_chain_of_calls_is_served_between_slices(self) -> None:
        self.patch(module, "monotonic", time.monotonic)
        between: list[int] = [0]

        def handler(job: Job) -> None:
            time.sleep(0.001)
            between[-1] += 1

        rig = Rig(real_reactor, handler, takes_back=False)
        rig.add(*range(40))

        def tick() -> None:
            between.append(0)
            if not rig.runner.idle:
                real_reactor.callLater(0, tick)

        real_reactor.callLater(0, tick)
        await until(lambda: rig.runner.idle)
        self.assertEqual(sum(between), 40)
        self.assertLessEqual(max(between), 6)
        rig.runner.stop()
        await until(lambda: not real_reactor.getDelayedCalls() or rig.runner.idle)


class AsynchronousHandlerTests(Case):
    def test_exactly_concurrency_jobs_run_while_there_is_work(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler, concurrency=3, takes_back=False)
        rig.add(*range(10))
        self.clock.advance(0)
        for number in range(10):
            self.assertEqual(len(handler.running), min(3, 10 - number))
            handler.end(number)
            self.clock.advance(0)
        self.assertEqual(handler.begun, list(range(10)))
        self.assertEqual(handler.most, 3)
        self.assertEqual(list(rig.origin.results), list(range(10)))
        self.assertTrue(rig.runner.idle)

    def test_the_concurrency_of_an_async_function_is_known_from_the_start(self) -> None:
        async def handler(job: Job) -> None:
            pass

        for kind in (handler, AwaitedHeld()):
            rig = self.rig(kind, concurrency=7)
            self.assertEqual(rig.runner.concurrency, 7)
            rig.add(1)
            self.clock.advance(0)
            self.assertEqual(rig.owner.changes, [])

    def test_what_a_coroutine_or_a_deferred_brings_is_the_result(self) -> None:
        async def coroutine(job: Job) -> bytes:
            return await succeed(job.body)

        @inlineCallbacks
        def generator(job: Job) -> Iterator[Any]:
            body = yield succeed(job.body)
            return body

        class Awaitable:
            def __init__(self, job: Job) -> None:
                self.job = job

            def __await__(self) -> Iterator[Any]:
                yield from ()
                return self.job.body

        for handler in (coroutine, generator, Awaitable, lambda job: succeed(job.body)):
            rig = self.rig(handler)
            rig.add(1, 2)
            self.clock.advance(0)
            self.assertEqual(rig.origin.results, {1: b"1", 2: b"2"}, handler)
            self.assertTrue(rig.runner.idle)
            self.assertEqual(rig.log[-1], "report")

    def test_an_asynchronous_failure_fails_that_job_once_and_the_others_go_on(self) -> None:
        async def coroutine(job: Job) -> None:
            await succeed(None)
            if job.body == b"2":
                raise SystemExit("no")

        def deferred(job: Job) -> Deferred[None]:
            return fail(ValueError("no")) if job.body == b"2" else succeed(None)

        for handler in (coroutine, deferred):
            rig = self.rig(handler)
            rig.add(1, 2, 3)
            self.clock.advance(0)
            self.assertEqual(list(rig.origin.results), [1, 3])
            self.assertEqual(list(rig.origin.failures), [2])
            self.assertTrue(rig.runner.idle)

    def test_a_job_that_fails_later_is_reported_and_makes_room_for_the_next(self) -> None:
        handler = Held()
        rig = self.rig(handler, concurrency=1)
        rig.add(1, 2)
        self.clock.advance(0)
        handler.running.pop(1).errback(ValueError("no"))
        self.clock.advance(0)
        self.assertEqual(rig.log, [("failed", 1), "report"])
        self.assertEqual(handler.begun, [1, 2])

    def test_what_ends_in_one_turn_is_reported_together(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler, concurrency=3)
        rig.add(1, 2, 3)
        self.clock.advance(0)
        for number in (1, 2, 3):
            handler.end(number)
        self.clock.advance(0)
        self.assertEqual(rig.log, [("done", 1), ("done", 2), ("done", 3), "report"])

    def test_a_plain_function_that_returns_deferreds_raises_the_concurrency_once_and_tells(self) -> None:
        handler = Held()
        rig = self.rig(handler, concurrency=4, takes_back=False)
        self.assertEqual(rig.runner.concurrency, 1)
        rig.add(*range(6))
        self.clock.advance(0)
        self.assertEqual(len(handler.running), 4)
        self.assertEqual(rig.owner.changes, [4])
        handler.end(0)
        self.clock.advance(0)
        self.assertEqual(rig.owner.changes, [4])

    def test_deferreds_that_have_fired_already_change_nothing(self) -> None:
        rig = self.rig(lambda job: succeed(None), concurrency=4)
        rig.add(1, 2)
        self.clock.advance(0)
        self.assertEqual(rig.owner.changes, [])
        self.assertEqual(rig.runner.concurrency, 1)

    def test_a_job_that_ends_inside_another_ones_handler_is_reported_in_that_slice(self) -> None:
        held = Held()

        def handler(job: Job) -> Any:
            if job.body == b"2":
                held.end(1)
                return None
            return held(job)

        rig = self.rig(handler, concurrency=2)
        rig.add(1, 2)
        self.clock.advance(0)
        self.assertEqual(rig.log, [("done", 1), ("done", 2), "report"])
        self.assertTrue(rig.runner.idle)


class ThreadTests(unittest.TestCase):
    timeout = 60

    def rig(self, handler: Callable[[Job], Any], threads: int) -> Rig:
        rig = Rig(real_reactor, handler, threads=threads, takes_back=False)
        self.addCleanup(rig.runner.stop)
        return rig

    async def test_so_many_run_at_once_in_threads(self) -> None:
        meet = threading.Barrier(3)
        names: set[str] = set()
        lock = threading.Lock()
        now = 0
        most = 0

        def handler(job: Job) -> str:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
                names.add(threading.current_thread().name)
            meet.wait(30)  # breaks unless three are here at once
            with lock:
                now -= 1
            return "met"

        rig = self.rig(handler, 3)
        self.assertEqual(rig.runner.concurrency, 3)
        rig.add(*range(9))
        await until(lambda: rig.runner.idle)
        self.assertEqual(rig.origin.results, dict.fromkeys(range(9), "met"))
        self.assertEqual(most, 3)
        self.assertNotIn(threading.current_thread().name, names)
        self.assertEqual(rig.owner.changes, [])

    async def test_a_failure_in_a_thread_fails_that_job_once_and_the_others_go_on(self) -> None:
        def handler(job: Job) -> None:
            if job.body == b"1":
                raise ValueError("no")
            if job.body == b"2":
                raise SystemExit("no")

        rig = self.rig(handler, 2)
        rig.add(0, 1, 2, 3)
        await until(lambda: rig.runner.idle)
        self.assertEqual(sorted(rig.origin.results), [0, 3])
        self.assertEqual(sorted(rig.origin.failures), [1, 2])
        await until(lambda: rig.log[-1] == "report")

    async def test_stopping_leaves_a_running_thread_alone_and_does_not_wait_for_it(self) -> None:
        go_on = threading.Event()
        rig = self.rig(lambda job: go_on.wait(30), 1)
        rig.add(1, 2)
        await until(lambda: rig.runner._running)
        rig.runner.stop()
        self.assertEqual(rig.origin.results, {})
        daemons = [thread for thread in threading.enumerate() if thread.name.startswith("PoolThread-zpipeline")]
        self.assertTrue(daemons)
        self.assertTrue(all(thread.daemon for thread in daemons))
        go_on.set()
        await until(lambda: rig.origin.results)
        await until(lambda: rig.runner._slice is None)
        self.assertEqual(rig.origin.results, {1: True})

    async def test_it_runs_again_after_it_was_stopped(self) -> None:
        rig = self.rig(lambda job: "ran", 2)
        rig.add(1)
        await until(lambda: rig.runner.idle)
        rig.runner.stop()
        rig.runner.start()
        rig.add(2)
        await until(lambda: rig.runner.idle)
        self.assertEqual(rig.origin.results, {1: "ran", 2: "ran"})


class Stubborn:
    """An asynchronous handler that takes no notice of being cancelled: its jobs end when a test says so."""

    def __init__(self) -> None:
        self.running: list[Deferred[Any]] = []
        self.cancelled = 0

    async def __call__(self, job: Job) -> Any:
        end: Deferred[Any] = Deferred()
        self.running.append(end)
        while True:
            attention: Deferred[None] = Deferred()
            end.addBoth(lambda _, attention=attention: None if attention.called else attention.callback(None))
            try:
                await attention
            except CancelledError:
                self.cancelled += 1
            else:
                return "ended"

    def end(self, which: int = 0) -> None:
        self.running.pop(which).callback(None)


class TimeoutTests(Case):
    def assert_timed_out(self, rig: Rig, *numbers: int, seconds: str = "2") -> None:
        self.assertEqual(sorted(rig.origin.failures), sorted(numbers))
        for failure in rig.origin.failures.values():
            self.assertIsInstance(failure.value, TimedOut)
            self.assertEqual(failure.getErrorMessage(), f"timed out after {seconds} seconds")

    def test_a_coroutine_that_takes_longer_is_cancelled_and_has_failed(self) -> None:
        cleaned: list[bytes] = []

        async def handler(job: Job) -> None:
            try:
                await Deferred()
            finally:
                cleaned.append(job.body)

        rig = self.rig(handler)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(1.9)
        self.assertEqual((rig.log, cleaned), ([], []))
        self.clock.advance(0.2)
        self.assert_timed_out(rig, 1)
        self.assertEqual(cleaned, [b"1"])
        self.clock.advance(0)
        self.assertEqual(rig.log, [("failed", 1), "report"])
        self.assertTrue(rig.runner.idle)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_deferred_that_takes_longer_is_cancelled_and_has_failed(self) -> None:
        cancelled: list[Any] = []
        rig = self.rig(lambda job: Deferred(cancelled.append))
        rig.add(1, timeout=0.5)
        self.clock.advance(0)
        self.clock.advance(0.5)
        self.clock.advance(0)
        self.assertEqual(len(cancelled), 1)
        self.assert_timed_out(rig, 1, seconds="0.5")
        self.assertTrue(rig.runner.idle)

    def test_what_ends_in_time_is_done_and_leaves_no_timer(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(1.9)
        handler.end(1, "in time")
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(5)
        self.assertEqual((rig.origin.results, rig.origin.failures), ({1: "in time"}, {}))

    def test_without_a_timeout_it_may_take_any_time(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler)
        rig.add(1)
        rig.add(2, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(1e9)
        self.assert_timed_out(rig, 2)
        handler.end(1, "at last")
        self.assertEqual(rig.origin.results, {1: "at last"})

    def test_the_time_that_a_handler_blocks_before_it_waits_counts(self) -> None:
        def handler(job: Job) -> Deferred[None]:
            self.pass_time(1.5)
            return Deferred()

        rig = self.rig(handler)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(0.5)
        self.assert_timed_out(rig, 1)

    def test_a_plain_handler_that_took_longer_is_done(self) -> None:
        rig = self.rig(lambda job: self.pass_time(10))
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.assertEqual((list(rig.origin.results), rig.origin.failures), ([1], {}))

    def test_the_failure_says_where_the_coroutine_was(self) -> None:
        async def reads_the_answer() -> None:
            await Deferred()

        async def handler(job: Job) -> None:
            await reads_the_answer()

        rig = self.rig(handler)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(2)
        where = rig.origin.failures[1].value.where
        self.assertRegex(where, "^Where it was then .*:\n")
        self.assertRegex(
            where, r"(?s)in handler\b.*await reads_the_answer\(\).*in reads_the_answer\b.*await Deferred\(\)"
        )
        self.assertNotIn(os.path.dirname(module.__file__), where)

    def test_where_a_deferred_was_is_not_known(self) -> None:
        rig = self.rig(Held())
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(2)
        self.assertEqual(rig.origin.failures[1].value.where, "")

    def test_what_swallows_its_cancellation_has_failed_at_once_and_keeps_its_place_until_it_ends(self) -> None:
        handler = Stubborn()
        rig = self.rig(handler, concurrency=2)
        rig.add(1, timeout=2.0)
        rig.add(2, 3)
        self.clock.advance(0)
        self.clock.advance(2)
        self.clock.advance(0)
        self.assertEqual(handler.cancelled, 1)
        self.assert_timed_out(rig, 1)
        self.assertEqual(rig.log, [("failed", 1), "report"])
        self.assertEqual(len(handler.running), 2, "3 has no place yet")
        self.assertFalse(rig.runner.idle)
        handler.end()
        self.clock.advance(0)
        self.assertEqual(len(handler.running), 2)
        self.assertEqual(rig.log, [("failed", 1), "report"], "what it returned is disregarded")

    def test_the_next_attempt_runs_while_the_one_that_timed_out_still_does(self) -> None:
        for first_to_end, second_to_end in ((0, 0), (1, 0)):
            handler = Stubborn()
            rig = self.rig(handler, concurrency=3)
            rig.add(1, timeout=2.0)
            self.clock.advance(0)
            self.clock.advance(2)
            self.clock.advance(0)
            rig.add(1, timeout=60.0)
            self.clock.advance(0)
            self.assertEqual(len(handler.running), 2)
            handler.end(first_to_end)
            self.clock.advance(0)
            handler.end(second_to_end)
            self.clock.advance(0)
            self.assertEqual(rig.origin.results, {1: "ended"}, "once, and not by the first attempt")
            self.assertEqual(rig.log.count(("done", 1)), 1)
            self.assertTrue(rig.runner.idle)

    def test_the_first_attempt_does_not_answer_for_the_next_one(self) -> None:
        handler = Stubborn()
        rig = self.rig(handler, concurrency=3)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(2)
        self.clock.advance(0)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        handler.end(0)
        self.clock.advance(0)
        self.assertEqual(rig.origin.results, {})
        rig.origin.failures.clear()
        self.clock.advance(2)
        self.assert_timed_out(rig, 1)
        self.assertEqual(handler.cancelled, 2)

    def test_an_attempt_that_comes_again_in_another_session_keeps_its_timeout(self) -> None:
        rig = self.rig(AwaitedHeld())
        (first,) = rig.add(1, timeout=2.0)
        self.clock.advance(0)
        rig.runner.add(rig.jobs([1], session=9, timeout=60.0))
        self.clock.advance(2)
        self.assert_timed_out(rig, 1)
        self.assertEqual(first.delivery.session, 9, "it counts for the newest delivery")

    def test_a_failure_after_the_timeout_is_disregarded(self) -> None:
        async def handler(job: Job) -> None:
            try:
                await Deferred()
            except CancelledError:
                raise ValueError("in cleaning up") from None

        rig = self.rig(handler)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(2)
        self.clock.advance(0)
        self.assert_timed_out(rig, 1)
        self.assertTrue(rig.runner.idle)

    def test_a_cancellation_that_fails_is_logged_and_the_others_go_on(self) -> None:
        def canceller(deferred: Deferred[Any]) -> None:
            raise RuntimeError("no")

        rig = self.rig(lambda job: Deferred(canceller) if job.body == b"1" else succeed(None), concurrency=2)
        rig.add(1, 2, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(2)
        self.assert_timed_out(rig, 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        rig.add(3)
        self.clock.advance(0)
        self.assertEqual(list(rig.origin.results), [2, 3])

    def test_where_all_places_are_taken_by_what_timed_out_nothing_is_kept_waiting(self) -> None:
        handler = Stubborn()
        rig = self.rig(handler, concurrency=1)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        rig.add(2)
        self.clock.advance(1)
        self.assertEqual(rig.origin.given_back, [], "it may be begun soon")
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(rig.origin.given_back, [2])
        rig.add(3)
        self.clock.advance(PATIENCE)
        self.assertEqual(rig.origin.given_back, [2, 3])
        handler.end()
        rig.add(4)
        self.clock.advance(0)
        self.assertEqual(len(handler.running), 1)

    def test_stop_leaves_no_deadline(self) -> None:
        rig = self.rig(AwaitedHeld())
        rig.add(1, 2, timeout=2.0)
        self.clock.advance(0)
        rig.runner.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_a_future_of_asyncio_is_cancelled(self) -> None:
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        futures: list[asyncio.Future[Any]] = []

        def handler(job: Job) -> Deferred[Any]:
            futures.append(loop.create_future())
            return Deferred.fromFuture(futures[-1])

        rig = self.rig(handler)
        rig.add(1, timeout=2.0)
        self.clock.advance(0)
        self.clock.advance(2)
        self.assert_timed_out(rig, 1)
        self.assertTrue(futures[0].cancelled())
        loop.run_until_complete(asyncio.sleep(0, None))
        self.clock.advance(0)
        self.assertTrue(rig.runner.idle)


class ThreadTimeoutTests(unittest.TestCase):
    timeout = 60

    async def test_a_thread_that_takes_longer_has_failed_and_its_late_result_is_disregarded(self) -> None:
        ends = [threading.Event(), threading.Event()]
        attempts: list[int] = []

        def handler(job: Job) -> int:
            attempts.append(len(attempts))
            mine = attempts[-1]
            ends[mine].wait(30)
            return mine

        rig = Rig(real_reactor, handler, threads=2, takes_back=False)
        self.addCleanup(rig.runner.stop)
        for end in ends:
            self.addCleanup(end.set)
        rig.add(1, timeout=1.0)  # the thread has begun by then
        await until(lambda: rig.log[-1:] == ["report"])
        failure = rig.origin.failures[1]
        self.assertEqual(failure.getErrorMessage(), "timed out after 1 seconds")
        self.assertRegex(failure.value.where, r"(?s)in handler\b.*ends\[mine\]\.wait\(30\)")
        self.assertNotIn("threadpool", failure.value.where)
        self.assertFalse(rig.runner.idle, "the thread is busy")

        rig.add(1, timeout=60.0)  # the next attempt
        await until(lambda: len(attempts) == 2)
        ends[0].set()
        await until(lambda: not rig.runner._overdue)
        self.assertEqual(rig.origin.results, {})
        ends[1].set()
        await until(lambda: rig.runner.idle)
        self.assertEqual(rig.origin.results, {1: 1}, "of the second attempt")

    async def test_a_thread_that_timed_out_keeps_its_place(self) -> None:
        end = threading.Event()
        self.addCleanup(end.set)
        rig = Rig(real_reactor, lambda job: end.wait(30) if job.body == b"1" else "ran", threads=1)
        self.addCleanup(rig.runner.stop)
        rig.add(1, timeout=0.05)
        await until(lambda: rig.origin.failures)
        rig.add(2)
        await until(lambda: rig.origin.given_back)
        self.assertEqual((rig.origin.given_back, rig.origin.results), ([2], {}))
        end.set()
        await until(lambda: rig.runner.idle)
        rig.add(3)
        await until(lambda: rig.origin.results)
        self.assertEqual(rig.origin.results, {3: "ran"})

    async def test_stopping_does_not_wait_for_a_thread_that_timed_out(self) -> None:
        end = threading.Event()
        self.addCleanup(end.set)
        rig = Rig(real_reactor, lambda job: end.wait(30), threads=1)
        rig.add(1, timeout=0.05)
        await until(lambda: rig.origin.failures)
        began = time.monotonic()
        rig.runner.stop()
        self.assertLess(time.monotonic() - began, 20)
        end.set()
        await until(lambda: rig.runner.idle)
        await until(lambda: rig.runner._slice is None or not rig.runner._slice.active())


class GivingBackTests(Case):
    def test_all_beyond_concurrency_and_one_are_given_back_the_newest_once(self) -> None:
        rig = self.rig(AwaitedHeld(), concurrency=2)
        rig.add(*range(1, 11))
        self.clock.advance(0)
        self.clock.advance(PATIENCE * 0.9)
        self.assertEqual(rig.origin.given_back, [])
        self.clock.advance(PATIENCE * 0.2)
        # two run, one more is kept
        self.assertEqual(rig.origin.given_back, [4, 5, 6, 7, 8, 9, 10])
        self.clock.pump([PATIENCE / 2] * 20)
        self.assertEqual(rig.origin.given_back, [4, 5, 6, 7, 8, 9, 10])

    def test_a_plain_handler_gives_back_as_soon_as_it_lets_go(self) -> None:
        rig = self.rig(lambda job: self.pass_time(0.2))
        rig.add(*range(1, 6))
        self.clock.advance(0)
        # 1 blocked for longer than 2's patience; concurrency is 1 and nothing runs: 2 and 3 are kept
        self.assertEqual(rig.log[:3], [("done", 1), "report", ("returned", [4, 5])])
        self.assertEqual(list(rig.origin.results), [1, 2, 3])
        self.assertEqual(rig.origin.given_back, [4, 5])

    def test_what_came_while_a_plain_handler_blocked_is_given_back_unread_as_it_is(self) -> None:
        rig = self.rig(lambda job: self.pass_time(0.2))
        rig.owner.late = lambda: rig.runner.add(rig.jobs([2, 3, 4, 5]))  # its socket had these
        rig.add(1)
        self.clock.advance(0)
        self.assertEqual(rig.log[:3], [("done", 1), "report", ("returned", [4, 5])])

    def test_what_is_given_back_is_not_run(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler, concurrency=1)
        rig.add(*range(1, 6))
        self.clock.advance(0)
        self.clock.advance(PATIENCE)
        for number in (1, 2):
            handler.end(number)
            self.clock.advance(0)
        self.assertEqual(handler.begun, [1, 2])
        self.assertEqual(rig.origin.given_back, [3, 4, 5])

    def test_quick_jobs_are_never_given_back_however_many(self) -> None:
        rig = self.rig(lambda job: self.pass_time(0.00001))
        rig.add(*range(5000))
        self.clock.advance(0)
        self.assertEqual(len(rig.origin.results), 5000)
        self.assertEqual(rig.origin.given_back, [])

    def test_what_has_arrived_by_then_is_given_back_with_the_rest(self) -> None:
        rig = self.rig(AwaitedHeld(), concurrency=1)
        rig.add(*range(1, 6))
        self.clock.advance(0)
        rig.owner.late = lambda: rig.runner.add(rig.jobs([6, 7]))
        self.clock.advance(PATIENCE)
        self.assertIn(("returned", [3, 4, 5, 6, 7]), rig.log)

    def test_an_origin_that_takes_nothing_back_keeps_its_jobs_here(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler, concurrency=1)
        plain = Origin(rig.log, takes_back=False)
        rig.add(1, 2, 3, origin=plain)
        rig.add(4, 5)
        rig.add(6, origin=plain)
        self.clock.advance(0)
        self.clock.advance(PATIENCE)
        self.assertEqual(plain.given_back, [])
        self.assertEqual(rig.origin.given_back, [4, 5])
        for number in (1, 2, 3, 6):
            handler.end(number)
            self.clock.advance(0)
        self.assertEqual(list(plain.results), [1, 2, 3, 6])

    def test_each_origin_is_given_back_its_own(self) -> None:
        rig = self.rig(AwaitedHeld(), concurrency=1)
        other = Origin(rig.log)
        rig.add(1, 2, 3)
        rig.add(1, 2, origin=other)
        self.clock.advance(0)
        self.clock.advance(PATIENCE)
        self.assertEqual(rig.origin.given_back, [3])
        self.assertEqual(other.given_back, [1, 2])

    def test_fewer_than_that_are_never_given_back(self) -> None:
        rig = self.rig(AwaitedHeld(), concurrency=2)
        rig.add(1, 2, 3)
        self.clock.advance(0)
        self.clock.pump([PATIENCE] * 10)
        self.assertEqual(rig.origin.given_back, [])

    def test_waiting_costs_next_to_nothing(self) -> None:
        for takes_back in (True, False):
            rig = self.rig(AwaitedHeld(), concurrency=2, takes_back=takes_back)
            rig.add(*range(1000))
            self.clock.advance(0)
            before = self.clock.scheduled
            self.clock.pump([0.001] * 2000)
            self.assertLessEqual(self.clock.scheduled - before, 2 / PATIENCE + 1)
            self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)
            rig.runner.stop()

    def test_no_timer_runs_where_nothing_can_be_too_much(self) -> None:
        rig = self.rig(AwaitedHeld(), concurrency=2)
        rig.add(1, 2, 3)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BookkeepingTests(Case):
    def test_what_is_held_is_counted_by_session(self) -> None:
        waiting: list[Deferred[None]] = []

        def handler(job: Job) -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        rig = Rig(self.clock, handler, concurrency=2)
        rig.runner.add(rig.jobs(range(3), session=1) + rig.jobs(range(3, 5), session=2))
        self.assertEqual(rig.runner.held(), {1: 3, 2: 2})
        self.clock.advance(0)
        self.assertEqual(rig.runner.held(), {1: 3, 2: 2}, "two of which run")
        waiting[0].callback(None)
        waiting[1].errback(ValueError())
        self.clock.advance(0)
        self.assertEqual(rig.runner.held(), {1: 1, 2: 2})
        rig.runner.drop(rig.origin)
        self.assertEqual(sum((rig.runner.held() or {}).values()), 2, "those that run")

    def test_what_has_timed_out_is_held_no_longer(self) -> None:
        rig = Rig(self.clock, lambda job: Deferred(lambda _: None), concurrency=2)
        rig.add(1, 2, timeout=5.0)
        self.clock.advance(0)
        self.assertEqual(rig.runner.held(), {1: 2})
        self.clock.advance(5)
        self.assertEqual(rig.runner.held(), {})

    async def test_a_job_whose_handler_has_broken_it_is_reported_as_any(self) -> None:
        def breaks(job: Job) -> None:
            number = job.key[1]
            for name, value in (("key", None), ("delivery", None), ("attempt", "one"), ("accepted_at", None)):
                if number % 2:
                    delattr(job, name)
                else:
                    setattr(job, name, value)
            if number % 3 == 0:
                raise ValueError

        async def breaks_later(job: Job) -> None:
            breaks(job)
            await task.deferLater(real_reactor, 0.01)

        for handler, options in ((breaks, {}), (breaks, {"threads": 2}), (breaks_later, {"concurrency": 4})):
            rig = Rig(real_reactor, handler, takes_back=False, **options)
            self.addCleanup(rig.runner.stop)
            rig.add(*range(12))
            await until(lambda rig=rig: rig.runner.idle)
            self.assertEqual(sorted(rig.origin.failures), [0, 3, 6, 9])
            self.assertEqual(sorted(rig.origin.results), [1, 2, 4, 5, 7, 8, 10, 11])
            self.assertEqual(rig.runner.held(), {})

    def test_a_thread_may_change_its_job_before_it_is_waited_for(self) -> None:
        def breaks(job: Job) -> None:
            del job.key, job.delivery, job.attempt, job.accepted_at

        def at_once(reactor: Any, pool: Any, call: Callable[[], Any]) -> Deferred[Any]:
            return succeed(call())

        self.patch(module, "deferToThreadPool", at_once)
        rig = self.rig(breaks, threads=1)
        self.addCleanup(rig.runner.stop)
        rig.add(1, 2)
        self.clock.advance(0)
        self.assertEqual(sorted(rig.origin.results), [1, 2])

    def test_what_goes_wrong_in_a_report_holds_up_no_other_slice(self) -> None:
        rig = self.rig(lambda job: None)
        rig.origin.report = lambda timings: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        rig.add(1)
        self.assertRaises(ZeroDivisionError, self.clock.advance, 0)
        rig.add(2)
        self.assertRaises(ZeroDivisionError, self.clock.advance, 0)
        self.assertEqual(sorted(rig.origin.results), [1, 2])

    def test_a_delivery_of_a_job_that_runs_is_not_run_beside_itself(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler)
        (first,) = rig.add(1)
        self.clock.advance(0)
        rig.runner.add(rig.jobs([1, 2], session=9))
        self.clock.advance(0)
        self.assertEqual(handler.begun, [1, 2])
        self.assertEqual(rig.runner.held(), {9: 2})
        handler.end(1, "once")
        self.clock.advance(0)
        self.assertEqual(first.delivery.session, 9, "its outcome counts for the newest delivery")
        self.assertEqual(rig.origin.results, {1: "once"})

    def test_the_same_number_of_another_origin_is_another_job(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler)
        rig.add(1)
        self.clock.advance(0)
        rig.add(1, origin=Origin([]))
        self.clock.advance(0)
        self.assertEqual(handler.begun, [1, 1])

    def test_drop_forgets_what_that_origin_has_waiting_and_nothing_else(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler, concurrency=1)
        other = Origin([])
        rig.add(1, 2, 3)
        rig.add(4, origin=other)
        self.clock.advance(0)
        self.assertEqual(rig.runner.drop(rig.origin), 2)
        handler.end(1)
        self.clock.advance(0)
        self.assertEqual(handler.begun, [1, 4])
        self.assertEqual(list(rig.origin.results), [1], "what runs is reported")

    def test_stop_begins_nothing_more_and_leaves_no_timer(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler, concurrency=1)
        rig.add(*range(5))
        self.clock.advance(0)
        rig.runner.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        handler.end(0)
        self.clock.advance(1)
        self.assertEqual(handler.begun, [0])

    def test_stop_before_the_first_slice_cancels_it(self) -> None:
        ran: list[Job] = []
        rig = self.rig(ran.append)
        rig.add(1)
        rig.runner.stop()
        self.clock.advance(1)
        self.assertEqual(ran, [])
