"""Runner: in which order, how many at once, and when it is too much."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial import unittest

from tests.peers import until
from zpipeline import runner as module
from zpipeline.job import Job
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

    def __init__(self, log: list[Any], takes_back: bool = True) -> None:
        self.log = log
        self.takes_back = takes_back
        self.results: dict[int, Any] = {}
        self.failures: dict[int, Failure] = {}
        self.given_back: list[int] = []

    def done(self, delivery: Delivery, result: Any) -> None:
        assert delivery.sequence not in self.results, "done twice"
        self.results[delivery.sequence] = result
        self.log.append(("done", delivery.sequence))

    def failed(self, delivery: Delivery, failure: Failure) -> None:
        assert delivery.sequence not in self.failures, "failed twice"
        self.failures[delivery.sequence] = failure
        self.log.append(("failed", delivery.sequence))

    def returned(self, deliveries: list[Delivery]) -> None:
        self.given_back += [delivery.sequence for delivery in deliveries]
        self.log.append(("returned", [delivery.sequence for delivery in deliveries]))

    def report(self) -> None:
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

    def deliveries(self, numbers: Any, origin: Origin | None = None, session: int = 1) -> list[Delivery]:
        now = module.monotonic()
        return [Delivery(origin or self.origin, session, n, Job((1, n), b"%d" % n), now) for n in numbers]

    def add(self, *numbers: int, origin: Origin | None = None) -> list[Delivery]:
        made = self.deliveries(numbers, origin)
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
        rig.owner.late = lambda: rig.runner.add(rig.deliveries([6, 7]))
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
    def test_a_delivery_of_a_job_that_runs_is_not_run_beside_itself(self) -> None:
        handler = AwaitedHeld()
        rig = self.rig(handler)
        (first,) = rig.add(1)
        self.clock.advance(0)
        rig.runner.add(rig.deliveries([1, 2], session=9))
        self.clock.advance(0)
        self.assertEqual(handler.begun, [1, 2])
        self.assertEqual(first.session, 9, "its outcome counts for the newest delivery")
        handler.end(1, "once")
        self.clock.advance(0)
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
