"""Worker, against a ventilator that a test plays by hand: real sockets, one process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.logger import formatEvent
from twisted.python.failure import Failure

from tests.faults.rig import free_port
from tests.peers import ANY_PORT, LIMIT, Case, HandVentilator, a_while, turns, until
from zpipeline import callers, protocol, upstream
from zpipeline import worker as module
from zpipeline.errors import UsageError
from zpipeline.histogram import SECONDS, Timings
from zpipeline.job import Job, Reject, RetryLater
from zpipeline.protocol import Bye, Done, Dropped, Failed, Json, Ready, Returned, State
from zpipeline.worker import Worker

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "zpp_worker.py"


class Ventilator(HandVentilator):
    """A ventilator by hand whose worker is in this process."""

    def __init__(self, context: Any, worker: Worker, number: int) -> None:
        super().__init__(context, worker.address, number)
        self.worker = worker

    async def opens(
        self, generation: int, session: int, *, window: int | None = None, timeout: float | None = None
    ) -> Ready:
        """HELLO, then wait for READY, and until the worker knows that it has reached the sink, which may be later."""
        ready = await super().opens(generation, session, window=window, timeout=timeout)
        mine = self.worker._upstreams[self.number]
        await until(lambda: not mine.broken_for, "the worker has reached the sink")
        return ready


class WorkerCase(Case):
    """Workers that are stopped in the end, on free ports."""

    def setUp(self) -> None:
        super().setUp()
        self.ran: list[Job] = []
        self.held: dict[bytes, Deferred[Any]] = {}

    def start(self, handler: Callable[[Job], Any] | None = None, **options: Any) -> Worker:
        worker = Worker(reactor, handler or self.ran.append, ANY_PORT, **{"drain": 0.2, **options})
        worker.startService()
        self.addCleanup(self.stop, worker)
        return worker

    async def stop(self, worker: Worker) -> None:
        for held in self.held.values():
            if not held.called:
                held.callback(None)
        if worker.running:
            await worker.stopService()

    def hold(self, job: Job) -> Deferred[Any]:
        """A handler whose jobs end when the test says so."""
        self.ran.append(job)
        self.held[job.body] = Deferred()
        return self.held[job.body]

    async def holds(self, job: Job) -> Any:
        """The same, known to be asynchronous."""
        return await self.hold(job)

    def ventilator(self, worker: Worker, number: int = 7) -> Ventilator:
        return Ventilator(self.context, worker, number)

    def bodies(self) -> list[bytes]:
        return [job.body for job in self.ran]

    async def runs(self, count: int) -> None:
        await until(lambda: len(self.ran) >= count, f"{count} jobs run")

    async def answers(self, ventilator: HandVentilator, session: int, number: int) -> None:
        """A job goes through: so all that was sent before has been read."""
        ventilator.jobs(session, {number: b"probe"})
        await ventilator.has_done(number)


class HelloTests(WorkerCase):
    async def test_hello_is_answered_by_ready_at_the_sink_it_names(self) -> None:
        worker = self.start(self.holds, concurrency=3, name="photos:resize")
        ventilator = self.ventilator(worker)
        ready = await ventilator.opens(1, 11)
        self.assertEqual((ready.session, ready.concurrency, ready.handler), (11, 3, "photos:resize"))
        self.assertEqual(len(ventilator.have(Ready)), 1)

    async def test_each_process_has_one_incarnation(self) -> None:
        worker = self.start()
        one, two = self.ventilator(worker, 1), self.ventilator(worker, 2)
        readies = [await one.opens(1, 11), await two.opens(1, 22)]
        self.assertEqual(readies[0].incarnation, readies[1].incarnation)
        other = self.start()
        self.assertNotEqual((await self.ventilator(other).opens(1, 11)).incarnation, readies[0].incarnation)

    async def test_a_wildcard_sink_is_where_the_hello_came_from(self) -> None:
        worker = self.start()
        port = None
        for host in ("*", "0.0.0.0", "[::]"):
            ventilator = self.ventilator(worker, number=len(host))
            port = ventilator.address.rpartition(":")[2]
            ventilator.hello(1, len(host), sink=f"tcp://{host}:{port}")
            self.assertEqual((await ventilator.gets(Ready)).session, len(host))

    async def test_a_name_of_the_handler_is_found_for_any_callable(self) -> None:
        class Resize:
            def __call__(self, job: Job) -> None:
                pass

        self.assertIn("Resize", (await self.ventilator(self.start(Resize())).opens(1, 11)).handler)
        self.assertIn("discard", (await self.ventilator(self.start(discard)).opens(1, 11)).handler)

    async def test_a_lower_or_equal_generation_is_ignored(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(5, 11)
        ventilator.hello(5, 12)
        ventilator.hello(4, 13)
        await self.answers(ventilator, 11, 1)
        self.assertEqual([ready.session for ready in ventilator.have(Ready)], [11])

    async def test_a_higher_generation_gives_up_the_old_session_and_what_is_not_begun(self) -> None:
        worker = self.start(self.holds, concurrency=1)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, window=100)
        ventilator.jobs(11, {1: b"a", 2: b"b", 3: b"c"})
        await self.runs(1)
        await ventilator.opens(2, 22, window=100)
        await until(lambda: len(ventilator.have(Ready)) == 3)
        self.assertEqual(sorted(ready.session for ready in ventilator.have(Ready)), [11, 11, 22])
        self.held[b"a"].callback(b"late")
        done = await ventilator.gets(Done)
        self.assertEqual((done.session, list(done.sequences), done.results), (22, [1], (b"late",)))
        ventilator.jobs(11, {4: b"too late"})
        ventilator.jobs(22, {5: b"e"})
        await self.runs(2)
        self.assertEqual(self.bodies(), [b"a", b"e"])
        self.assertEqual(worker.dropped_messages, 1)

    async def test_a_failure_of_an_older_session_is_not_reported(self) -> None:
        worker = self.start(self.holds, concurrency=2)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {1: b"a"})
        await self.runs(1)
        await ventilator.opens(2, 22)
        self.held[b"a"].errback(ValueError("no"))
        ventilator.jobs(22, {2: b"b"})
        await self.runs(2)
        self.held[b"b"].callback(None)
        await ventilator.has_done(2)
        self.assertEqual(ventilator.have(Failed), [])

    async def test_a_job_that_runs_and_comes_again_in_a_new_session_runs_once_and_is_reported_there(self) -> None:
        worker = self.start(self.holds, concurrency=2)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {1: b"a"})
        await self.runs(1)
        await ventilator.opens(2, 22)
        ventilator.jobs(22, {1: b"a", 2: b"b"})
        await self.runs(2)
        self.assertEqual(self.bodies(), [b"a", b"b"])
        self.held[b"a"].errback(ValueError("no"))
        self.assertEqual((await ventilator.gets(Failed)).session, 22)

    async def test_more_ventilators_than_there_may_be_are_dropped_while_all_are_reached(self) -> None:
        self.patch(module, "_MAX_VENTILATORS", 2)
        worker = self.start()
        first, second, third = (self.ventilator(worker, n) for n in (1, 2, 3))
        await first.opens(1, 11)
        await second.opens(1, 22)
        third.hello(1, 33)
        await until(lambda: worker.dropped_messages)
        self.assertTrue(self.log_lines("there are 2 ventilators already"))
        await self.answers(first, 11, 1)
        await self.answers(second, 22, 1)
        self.assertEqual(third.have(Ready), [])

    async def test_the_ventilator_that_was_out_of_reach_the_longest_makes_room_for_a_new_one(self) -> None:
        self.patch(module, "_MAX_VENTILATORS", 2)
        worker = self.start()
        first, second, third = (self.ventilator(worker, n) for n in (1, 2, 3))
        await first.opens(1, 11)
        await second.opens(1, 22)
        first.unbind()
        await until(lambda: worker._upstreams[1].broken_for)
        await third.opens(1, 33)
        await self.answers(second, 22, 1)
        await self.answers(third, 33, 1)
        self.assertEqual(set(worker._upstreams), {2, 3})


def discard(job: Job) -> None:
    """A handler."""


class JobsTests(WorkerCase):
    async def test_jobs_are_run_in_order_and_reported_done(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {5: b"a", 3: b"b"}, headers={"x-size": "7"})
        await ventilator.has_done(5, 3)
        self.assertEqual(ventilator.done, [5, 3])
        job = self.ran[0]
        self.assertEqual((job.body, job.frames, dict(job.headers)), (b"a", (b"a",), {"x-size": "7"}))
        self.assertEqual((job.attempt, job.accepted_at), (1, 1.5))
        self.assertEqual(job.id, f"{7:016x}{5:016x}")

    async def test_jobs_of_a_session_that_is_not_known_are_dropped_and_counted(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        ventilator.jobs(99, {1: b"a"})
        await ventilator.opens(1, 11)
        ventilator.jobs(98, {2: b"b"})
        await self.answers(ventilator, 11, 3)
        self.assertEqual(self.bodies(), [b"probe"])
        self.assertEqual(worker.dropped_messages, 2)

    async def test_results_of_all_kinds_travel(self) -> None:
        results = [b"\0bytes", "t\xebxt", {"a": [1, None]}, None, 3.5, False, ""]
        worker = self.start(lambda job: results[int(job.body)])
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {n: b"%d" % n for n in range(len(results))})
        await ventilator.has_done(*range(len(results)))
        got = [result for done in ventilator.have(Done) for result in done.results]
        expected = [b"\0bytes", "t\xebxt", Json.of({"a": [1, None]}), None, Json.of(3.5), Json.of(False), ""]
        self.assertEqual(got, expected)

    async def test_done_without_results_names_none(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {1: b"a", 2: b"b"})
        await ventilator.has_done(1, 2)
        self.assertEqual([done.results for done in ventilator.have(Done)], [()] * len(ventilator.have(Done)))

    async def test_a_result_that_cannot_be_carried_is_dropped_and_logged_and_the_job_is_done(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        results = [object(), math.nan, math.inf, loop, b"x" * (protocol.MAX_RESULT + 1), ["x" * protocol.MAX_RESULT]]
        worker = self.start(lambda job: results[int(job.body)])
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {n: b"%d" % n for n in range(len(results))})
        await ventilator.has_done(*range(len(results)))
        results = [result for done in ventilator.have(Done) for result in done.results]
        self.assertEqual([type(result) for result in results], [Dropped] * 6)
        self.assertEqual(results[-1], Dropped(f"{protocol.MAX_RESULT + 4} bytes are over {protocol.MAX_RESULT}"))
        self.assertEqual(len(self.log_lines("its result is dropped: it is not bytes, text or JSON")), 4)
        self.assertEqual(len(self.log_lines(f"bytes are over {protocol.MAX_RESULT}")), 2)

    async def test_the_largest_result_travels(self) -> None:
        worker = self.start(lambda job: b"x" * protocol.MAX_RESULT)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, dict.fromkeys(range(3), b""))
        await ventilator.has_done(0, 1, 2)
        self.assertEqual({len(r) for done in ventilator.have(Done) for r in done.results}, {protocol.MAX_RESULT})
        self.assertEqual(len(ventilator.have(Done)), 3, "one message holds 1 MiB of results")

    async def test_a_result_is_what_the_handler_returned_whatever_it_does_with_it_later(self) -> None:
        shared: list[Any] = []

        async def handler(job: Job) -> Any:
            shared.append(int(job.body))
            return shared

        worker = self.start(handler)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {1: b"1", 2: b"2"})
        await ventilator.has_done(1, 2)
        results = [result for done in ventilator.have(Done) for result in done.results]
        self.assertEqual(results, [Json.of([1]), Json.of([1, 2])])

    async def test_done_names_no_more_jobs_than_a_message_may_hold(self) -> None:
        worker = self.start(self.hold, concurrency=2500)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, window=5000)
        for start in (0, 1000, 2000):
            ventilator.jobs(11, {n: b"%d" % n for n in range(start, min(start + 1000, 2500))})
        await self.runs(2500)
        for held in self.held.values():
            held.callback(None)
        await ventilator.has_done(*range(2500))
        self.assertLessEqual(max(len(done.sequences) for done in ventilator.have(Done)), protocol.MAX_JOBS_IN_MESSAGE)
        self.assertEqual(len(ventilator.done), 2500)

    async def test_failed_says_why_and_where(self) -> None:
        def crop_picture(job: Job) -> None:
            raise ValueError("too\nsmall")

        worker = self.start(crop_picture)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {3: b"a"})
        failed = await ventilator.gets(Failed)
        self.assertEqual((failed.session, failed.sequence, failed.kind), (11, 3, protocol.RETRY))
        self.assertEqual((failed.reason, failed.delay), ("ValueError: too small", protocol.NO_DELAY))
        self.assertIn("crop_picture", failed.traceback)
        await self.answers_after_failure(ventilator)

    async def answers_after_failure(self, ventilator: HandVentilator) -> None:
        ventilator.jobs(11, {4: b"a"})
        await ventilator.gets(Failed, 2)
        self.assertEqual([failed.sequence for failed in ventilator.have(Failed)], [3, 4])

    async def test_an_error_that_says_nothing_or_cannot_even_say_that_still_fails_the_job(self) -> None:
        class Mute(Exception):
            pass

        class Broken(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        def handler(job: Job) -> None:
            raise {b"1": Mute, b"2": Broken}[job.body]

        worker = self.start(handler)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {1: b"1", 2: b"2"})
        await ventilator.gets(Failed, 2)
        reasons = [failed.reason for failed in ventilator.have(Failed)]
        self.assertEqual(reasons[0], "Mute")
        self.assertIn("Broken", reasons[1])

    async def test_a_slow_worker_gives_back_what_would_wait_too_long(self) -> None:
        worker = self.start(self.holds, concurrency=1)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {n: b"%d" % n for n in range(1, 6)})
        returned = await ventilator.gets(Returned)
        self.assertEqual((returned.session, list(returned.sequences)), (11, [3, 4, 5]))
        self.held[b"1"].callback(None)
        await self.runs(2)
        self.held[b"2"].callback(None)
        await ventilator.has_done(1, 2)
        self.assertEqual(self.bodies(), [b"1", b"2"])

    async def test_what_has_not_even_been_read_is_given_back_too(self) -> None:
        begun: list[bytes] = []

        def handler(job: Job) -> None:
            begun.append(job.body)
            if job.body == b"1":
                for n in range(6, 9):
                    ventilator.jobs(11, {n: b"%d" % n})
                time.sleep(0.3)

        worker = self.start(handler)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {n: b"%d" % n for n in range(1, 6)})
        returned = await ventilator.gets(Returned)
        self.assertEqual(list(returned.sequences), [4, 5, 6, 7, 8])
        await ventilator.has_done(1, 2, 3)
        self.assertEqual(begun, [b"1", b"2", b"3"])

    async def test_with_a_fixed_window_nothing_is_given_back(self) -> None:
        worker = self.start(self.holds, concurrency=1)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, window=10)
        ventilator.jobs(11, {n: b"%d" % n for n in range(1, 6)})
        await self.runs(1)
        await a_while(0.35)
        self.assertEqual(ventilator.have(Returned), [])

    async def test_threads_run_blocking_handlers(self) -> None:
        worker = self.start(lambda job: time.sleep(0.01), threads=4)
        ventilator = self.ventilator(worker)
        self.assertEqual((await ventilator.opens(1, 11, window=50)).concurrency, 4)
        ventilator.jobs(11, dict.fromkeys(range(20), b""))
        await ventilator.has_done(*range(20))
        self.assertEqual(sorted(ventilator.done), list(range(20)))


class FailureTests(WorkerCase):
    """What a handler raises, and what takes too long."""

    def ways(self, error: BaseException) -> list[tuple[Callable[[Job], Any], int]]:
        """Handlers that raise this in each way that there is, and in how many threads they are run."""

        def plain(job: Job) -> None:
            raise error

        async def coroutine(job: Job) -> None:
            raise error

        def deferred(job: Job) -> Deferred[None]:
            return fail(error)

        return [(plain, 0), (coroutine, 0), (deferred, 0), (plain, 1)]

    async def failures_of(self, error: BaseException) -> list[Failed]:
        """What is reported when a handler raises this in each way that there is."""
        found = []
        for handler, threads in self.ways(error):
            ventilator = self.ventilator(self.start(handler, threads=threads))
            await ventilator.opens(1, 11)
            ventilator.jobs(11, {1: b"a"})
            found.append(await ventilator.gets(Failed))
        return found

    def logged_at(self, part: str) -> set[str]:
        """At which levels lines with this in them were logged."""
        return {event["log_level"].name for event in self.events if part in formatEvent(event)}

    async def test_reject_is_reported_so_with_its_reason(self) -> None:
        class NoSuchPhoto(Reject):
            pass

        for error in (Reject("there is no\nsuch photo"), NoSuchPhoto("there is no such photo")):
            for failed in await self.failures_of(error):
                self.assertEqual((failed.session, failed.sequence, failed.kind), (11, 1, protocol.REJECT))
                self.assertEqual((failed.delay, failed.reason), (protocol.NO_DELAY, "there is no such photo"))
        lines = self.log_lines("is rejected: there is no such photo")
        self.assertEqual(lines, [f"job {7:016x}{1:016x} is rejected: there is no such photo"] * 8)
        self.assertEqual(self.logged_at("is rejected"), {"info"})
        self.assertEqual(self.log_lines("failed"), [])

    async def test_reject_without_a_reason_still_names_one(self) -> None:
        self.assertEqual({failed.reason for failed in await self.failures_of(Reject())}, {"Reject"})

    async def test_retry_later_is_reported_with_its_delay(self) -> None:
        for failed in await self.failures_of(RetryLater(90, "the bank is closed")):
            self.assertEqual((failed.kind, failed.delay), (protocol.RETRY, 90.0))
            self.assertEqual(failed.reason, "the bank is closed")
        lines = self.log_lines("is put off")
        self.assertEqual(lines, [f"job {7:016x}{1:016x} is put off for 90.0 seconds: the bank is closed"] * 4)
        self.assertEqual(self.logged_at("is put off"), {"info"})
        self.assertEqual(self.log_lines("failed"), [])

    async def test_retry_later_without_a_delay_is_at_once(self) -> None:
        self.assertEqual({failed.delay for failed in await self.failures_of(RetryLater(0))}, {0.0})

    async def test_anything_else_is_reported_to_be_tried_again_when_the_ventilator_likes(self) -> None:
        for failed in await self.failures_of(ValueError("no")):
            self.assertEqual((failed.kind, failed.delay), (protocol.RETRY, protocol.NO_DELAY))
            self.assertEqual(failed.reason, "ValueError: no")
            self.assertIn("ValueError: no", failed.traceback)
        self.assertEqual(self.logged_at("failed: ValueError: no"), {"warn"})

    async def test_an_attempt_that_takes_longer_than_the_session_allows_has_failed(self) -> None:
        worker = self.start(self.holds, concurrency=3)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, timeout=0.2)
        ventilator.jobs(11, {1: b"a"})
        failed = await ventilator.gets(Failed)
        self.assertEqual((failed.session, failed.sequence), (11, 1))
        self.assertEqual((failed.kind, failed.delay), (protocol.RETRY, protocol.NO_DELAY))
        self.assertEqual(failed.reason, "timed out after 0.2 seconds")
        self.assertIn("in holds", failed.traceback)
        self.assertTrue(self.log_lines("failed: timed out after 0.2 seconds"))

    async def test_the_next_attempt_is_run_and_what_comes_of_the_first_is_disregarded(self) -> None:
        ends = [threading.Event(), threading.Event()]
        for end in ends:
            self.addCleanup(end.set)

        def handler(job: Job) -> int:
            ends[job.attempt - 1].wait(30)
            return job.attempt

        worker = self.start(handler, threads=2)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, timeout=1.0)
        ventilator.jobs(11, {1: b"a"})
        await ventilator.gets(Failed)
        ends[1].set()
        ventilator.jobs(11, {1: b"a"}, attempt=2)
        await ventilator.has_done(1)
        self.assertEqual(ventilator.have(Done)[0].results, (Json.of(2),))
        ends[0].set()
        await until(lambda: worker._runner.idle)
        await turns()
        self.assertEqual((ventilator.done, len(ventilator.have(Failed))), ([1], 1))

    async def test_a_job_keeps_the_timeout_of_the_session_that_it_came_in(self) -> None:
        worker = self.start(self.holds, concurrency=3)
        ventilator, other = self.ventilator(worker, 1), self.ventilator(worker, 2)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {1: b"a"})
        await self.runs(1)
        await ventilator.opens(2, 22, timeout=0.05)
        await other.opens(1, 33)
        ventilator.jobs(22, {2: b"b"})
        other.jobs(33, {1: b"c"})
        self.assertEqual((await ventilator.gets(Failed)).sequence, 2)
        self.held[b"a"].callback(None)
        self.held[b"c"].callback(None)
        await ventilator.has_done(1)
        await other.has_done(1)

    async def test_a_plain_handler_that_blocked_for_longer_is_done(self) -> None:
        worker = self.start(lambda job: time.sleep(0.1))
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, timeout=0.01)
        ventilator.jobs(11, {1: b"a"})
        await ventilator.has_done(1)
        self.assertEqual(ventilator.have(Failed), [])

    async def test_where_all_places_are_taken_by_what_timed_out_it_says_so_and_gives_back_the_rest(self) -> None:
        end = threading.Event()
        self.addCleanup(end.set)
        worker = self.start(lambda job: end.wait(30) if job.body == b"a" else None, threads=1)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, timeout=0.1)
        ventilator.jobs(11, {1: b"a", 2: b"b"})
        self.assertEqual(list((await ventilator.gets(Returned)).sequences), [2])
        self.assertEqual(len(self.log_lines("nothing more runs here until one of 1 jobs that timed out has ended")), 1)
        end.set()
        await until(lambda: worker._runner.idle)
        await self.answers(ventilator, 11, 3)

    async def test_plain_jobs_have_no_timeout_and_are_logged_whatever_they_raise(self) -> None:
        async def handler(job: Job) -> None:
            if job.body == b"reject":
                raise Reject("never")
            if job.body == b"later":
                raise RetryLater(5)
            await self.hold(job)

        worker = self.start(handler)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, timeout=0.05)
        for body in (b"reject", b"later", b"long"):
            ventilator.send([body])
        await self.runs(1)
        ventilator.jobs(11, {1: b"bounded"})
        await ventilator.gets(Failed)
        self.held[b"long"].callback(None)
        await until(lambda: worker._runner.idle)
        lines = self.log_lines("plain job")
        self.assertEqual(len(lines), 2)
        self.assertIn("Reject: never", lines[0])
        self.assertIn("RetryLater: asks to be tried again in 5 seconds", lines[1])
        self.assertEqual([failed.sequence for failed in ventilator.have(Failed)], [1])


class ExampleTests(Case):
    """examples/zpp_worker.py, a process: it knows failures, delays and timeouts too."""

    def start(self, *, seconds: float) -> HandVentilator:
        port = free_port()
        wrapped = [sys.executable, "-m", "tests.faults.example_worker"]
        command = [*wrapped, EXAMPLE, str(port), os.path.abspath(self.mktemp()), str(seconds)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return HandVentilator(self.context, f"tcp://127.0.0.1:{port}")

    async def test_it_reports_how_a_job_failed(self) -> None:
        ventilator = self.start(seconds=0)
        await ventilator.opens(1, 11, window=10)
        ventilator.jobs(11, {1: b"fail 9", 2: b"reject", 3: b"later 2.5", 4: b"fine"})
        await ventilator.has_done(4)
        await ventilator.gets(Failed, 3)
        failed = [(f.session, f.sequence, f.kind, f.delay) for f in ventilator.have(Failed)]
        expected = [(11, 1, protocol.RETRY, -1.0), (11, 2, protocol.REJECT, -1.0), (11, 3, protocol.RETRY, 2.5)]
        self.assertEqual(failed, expected)
        reasons = [f.reason for f in ventilator.have(Failed)]
        fails = "ValueError('attempt 1 fails, as it was told to')"
        self.assertEqual(reasons, [fails, "Rejected('as it was told to')", "Later(2.5)"])
        self.assertIn("in handler", ventilator.have(Failed)[0].traceback)
        self.assertEqual(ventilator.done, [4])

    async def test_it_interrupts_what_takes_longer_than_the_session_allows(self) -> None:
        ventilator = self.start(seconds=LIMIT * 2)
        await ventilator.opens(1, 11, timeout=0.2)
        ventilator.jobs(11, {1: b"a"})
        failed = await ventilator.gets(Failed)
        self.assertEqual((failed.sequence, failed.kind, failed.delay), (1, protocol.RETRY, protocol.NO_DELAY))
        self.assertEqual(failed.reason, "timed out after 0.2 seconds")
        ventilator.jobs(11, {1: b"a"}, attempt=2)
        await ventilator.gets(Failed, 2)
        self.assertEqual(ventilator.done, [])

    async def test_without_a_timeout_it_interrupts_nothing(self) -> None:
        ventilator = self.start(seconds=0.3)
        await ventilator.opens(1, 11, timeout=0.1)
        await ventilator.opens(2, 22)
        ventilator.jobs(22, {1: b"a"})
        await ventilator.has_done(1)
        self.assertEqual(ventilator.have(Failed), [])


class SinkCutTests(WorkerCase):
    async def test_what_is_done_while_the_sink_is_away_arrives_and_then_ready_again(self) -> None:
        worker = self.start(self.holds, concurrency=2)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, window=10)
        ventilator.jobs(11, {1: b"a", 2: b"b", 3: b"c", 4: b"d"})
        await self.runs(2)
        ventilator.unbind()
        await until(lambda: worker._upstreams[7].broken_for)
        self.held[b"a"].callback(b"meanwhile")
        self.held[b"b"].errback(ValueError("nobody's any more"))
        await turns()
        await ventilator.bind_again()
        await until(lambda: len(ventilator.have(Ready)) == 2)
        kinds = [type(m) for m in ventilator.messages if isinstance(m, Ready | Done)]
        self.assertEqual(kinds, [Ready, Done, Ready])
        self.assertEqual((ventilator.done, ventilator.have(Done)[0].results), ([1], (b"meanwhile",)))
        self.assertEqual(ventilator.have(Ready)[1].session, 11, "in the session that this gives up")
        self.assertEqual(self.bodies(), [b"a", b"b"], "what was not begun is left to others")

    async def test_afterwards_a_new_session_serves(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.unbind()
        await until(lambda: worker._upstreams[7].broken_for)
        await ventilator.bind_again()
        await ventilator.gets(Ready, 2)
        await ventilator.opens(2, 22)
        await self.answers(ventilator, 22, 1)

    async def test_what_is_done_between_connecting_and_the_handshake_is_reported_once(self) -> None:
        worker = self.start(self.holds, concurrency=3)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, window=10)
        ventilator.jobs(11, {1: b"a", 2: b"b"})
        await self.runs(2)
        ventilator.unbind()
        mine = worker._upstreams[7]
        await until(lambda: mine.broken_for)
        self.held[b"a"].callback(None)
        opened: list[Any] = []
        link_opened = mine.link_opened

        def opens(link: Any) -> None:
            link_opened(link)
            if not opened:
                self.held[b"b"].callback(None)
            opened.append(link)

        mine.link_opened = opens  # type: ignore[method-assign]
        await until(lambda: opened)
        await ventilator.bind_again()
        await ventilator.has_done(1, 2)
        await a_while(0.1)
        self.assertEqual(sorted(ventilator.done), [1, 2])

    async def test_a_ventilator_that_stays_out_of_reach_is_forgotten(self) -> None:
        self.patch(upstream, "FORGET_AFTER", 0.3)
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.unbind()
        await until(lambda: not worker._upstreams)
        await ventilator.bind_again()
        await ventilator.opens(1, 22)  # of the same generation: it is unknown
        await self.answers(ventilator, 22, 1)


class StateTests(WorkerCase):
    async def test_state_counts_what_came_and_what_was_reported(self) -> None:
        self.patch(module, "_STATE_INTERVAL", 0.05)

        def handler(job: Job) -> None:
            if job.body == b"bad":
                raise ValueError("no")

        worker = self.start(handler)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        state = await ventilator.gets(State)
        self.assertEqual((state.session, state.concurrency, state.received, state.sent), (11, 1, 0, 0))
        ventilator.jobs(11, {1: b"a", 2: b"bad", 3: b"c"})
        await until(lambda: [s for s in ventilator.have(State) if s.received == 3])
        await ventilator.has_done(1, 3)
        count = len(ventilator.have(State))
        await ventilator.gets(State, count + 2)
        reports = len(ventilator.have(Done)) + len(ventilator.have(Failed))
        self.assertEqual(ventilator.have(State)[-1].sent, reports)

    async def test_state_says_how_long_the_jobs_of_the_session_took(self) -> None:
        self.patch(module, "_STATE_INTERVAL", 0.05)
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.jobs(11, {1: b"a", 2: b"b"})
        ventilator.jobs(11, {3: b"c"}, attempt=2)
        await until(lambda: [s for s in ventilator.have(State) if s.timings and s.timings.run.total == 3])
        timings = ventilator.have(State)[-1].timings
        assert timings is not None
        self.assertEqual(timings.start.counts, [*[0] * len(SECONDS), 2], "they were accepted in 1970")
        ventilator.hello(2, 12)
        await until(lambda: [s for s in ventilator.have(State) if s.session == 12])
        self.assertEqual(ventilator.have(State)[-1].timings, Timings())
        self.assertEqual(worker.timings.run.total, 3)

    async def test_at_no_time_does_state_claim_a_report_that_has_not_gone_before(self) -> None:
        self.patch(module, "_STATE_INTERVAL", 0.005)
        worker = self.start(self.holds, concurrency=1)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        for number in range(1, 8):
            ventilator.jobs(11, {number: b"%d" % number, 100 + number: b"more", 200 + number: b"most"})
            await until(lambda: self.held)
            while self.held:
                self.held.popitem()[1].callback(None)
                await turns(3)
        await ventilator.gets(State, 5)
        sent = 0
        for message in ventilator.messages:
            if isinstance(message, State):
                self.assertEqual(message.sent, sent)
            elif not isinstance(message, Ready):
                sent += 1

    async def test_the_counts_begin_anew_with_each_session(self) -> None:
        self.patch(module, "_STATE_INTERVAL", 0.05)
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        await self.answers(ventilator, 11, 1)
        await ventilator.opens(2, 22)
        await until(lambda: [s for s in ventilator.have(State) if s.session == 22])
        state = next(s for s in ventilator.have(State) if s.session == 22)
        self.assertEqual((state.received, state.sent), (0, 0))

    async def test_state_comes_each_second(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        began = time.monotonic()
        await ventilator.gets(State, 2)
        self.assertGreater(time.monotonic() - began, 0.9)

    async def test_a_handler_that_turns_out_to_be_asynchronous_is_said_at_once(self) -> None:
        self.patch(module, "_STATE_INTERVAL", 3600)
        worker = self.start(self.hold, concurrency=6)
        ventilator = self.ventilator(worker)
        self.assertEqual((await ventilator.opens(1, 11)).concurrency, 1)
        ventilator.jobs(11, {1: b"a"})
        self.assertEqual((await ventilator.gets(State)).concurrency, 6)


class FreezeTests(WorkerCase):
    async def test_after_a_freeze_it_gives_up_its_sessions_and_begins_nothing_of_them(self) -> None:
        worker = self.start(self.holds, concurrency=1)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, window=10)
        ventilator.jobs(11, {1: b"a", 2: b"b"})
        await self.runs(1)
        assert worker._watch is not None
        self.patch(worker._watch, "has_thawed", lambda: True)
        self.held[b"a"].callback(None)
        await until(lambda: len(ventilator.have(Ready)) == 2)
        self.assertEqual(ventilator.done, [1])
        ventilator.jobs(11, {3: b"c"})
        await until(lambda: worker.dropped_messages)
        self.assertEqual(self.bodies(), [b"a"])
        self.assertTrue(self.log_lines("this process was stopped for a while"))

    async def test_a_session_that_begins_after_a_freeze_is_not_given_up_for_it(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        assert worker._watch is not None
        thawed = [True]
        self.patch(worker._watch, "has_thawed", lambda: bool(thawed and thawed.pop()))
        await ventilator.opens(2, 12)
        self.assertEqual([ready.session for ready in ventilator.have(Ready)], [11, 11, 12])
        await self.answers(ventilator, 12, 1)

    async def test_a_session_that_is_given_up_before_its_sink_is_known_to_be_reached_is_said_to_be(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        ventilator.hello(1, 11)
        await until(lambda: worker._upstreams)
        worker._upstreams[ventilator.number].give_up_session()
        await until(lambda: len(ventilator.have(Ready)) == 2)


class CallerTests(WorkerCase):
    """With a second for the minute."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(callers, "PATIENCE", 1.0)

    def said(self) -> list[str]:
        return self.log_lines("no web side has called")

    async def test_that_nobody_calls_is_said_once_with_the_address(self) -> None:
        worker = self.start()
        await until(self.said)
        await a_while(1.5)
        (line,) = self.said()
        self.assertIn(f"at {worker.address} for 1 seconds: does one run that has it as --worker", line)

    async def test_a_web_side_that_has_called_is_there_until_it_goes(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        await a_while(1.5)
        self.assertEqual(self.said(), [])
        ventilator.close(11)
        await until(self.said)

    async def test_plain_messages_are_calls(self) -> None:
        worker = self.start()
        push = self.context.socket(zmq.PUSH)
        push.connect(worker.address)
        push.send(b"plain")
        await self.runs(1)
        await a_while(1.5)
        self.assertEqual(self.said(), [])

    async def test_a_worker_that_leaves_or_has_left_waits_for_nobody(self) -> None:
        worker = self.start()
        await worker.stopService()
        other = self.start()
        ventilator = self.ventilator(other)
        await ventilator.opens(1, 11)
        stopped = other.stopService()
        await ventilator.gets(Bye)
        ventilator.close(11)
        await stopped
        await a_while(1.5)
        self.assertEqual(self.said(), [])


class LeavingTests(WorkerCase):
    async def test_it_says_bye_runs_what_arrives_and_ends_at_close(self) -> None:
        worker = self.start(drain=60)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        stopped = worker.stopService()
        await ventilator.gets(Bye)
        ventilator.jobs(11, {1: b"a", 2: b"b"})
        await ventilator.has_done(1, 2)
        await turns()
        self.assertNoResult(stopped)
        ventilator.close(11)
        await stopped
        self.assertEqual(self.bodies(), [b"a", b"b"])
        self.assertEqual(self.log_lines("leaving with work undone"), [])

    async def test_what_runs_at_close_is_ended_and_reported_before_the_end(self) -> None:
        worker = self.start(self.holds, drain=60)
        one, two = self.ventilator(worker, 1), self.ventilator(worker, 2)
        await one.opens(1, 11)
        await two.opens(1, 22)
        two.jobs(22, {1: b"a"})
        await self.runs(1)
        stopped = worker.stopService()
        await two.gets(Bye)
        one.close(11)
        await until(lambda: 1 not in worker._upstreams)
        self.assertNoResult(stopped)
        self.held[b"a"].callback(None)
        await two.has_done(1)
        two.close(22)
        await stopped

    async def test_without_close_it_ends_after_drain(self) -> None:
        worker = self.start(drain=0.3)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        began = time.monotonic()
        await worker.stopService()
        self.assertGreaterEqual(time.monotonic() - began, 0.29)
        self.assertEqual(len(self.log_lines("leaving with work undone, 0.3 seconds")), 1)

    async def test_without_a_ventilator_it_ends_at_once(self) -> None:
        worker = self.start(drain=60)
        await worker.stopService()
        self.assertEqual(self.log_lines("leaving with work undone"), [])

    async def test_a_ventilator_out_of_reach_does_not_hold_it_up(self) -> None:
        worker = self.start(drain=60)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.unbind()
        await until(lambda: worker._upstreams[7].broken_for)
        await worker.stopService()

    async def test_a_ventilator_that_goes_while_it_leaves_does_not_hold_it_up(self) -> None:
        worker = self.start(drain=60)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        stopped = worker.stopService()
        await ventilator.gets(Bye)
        ventilator.unbind()
        await stopped

    async def test_a_ventilator_that_comes_back_while_it_leaves_has_given_up_the_session(self) -> None:
        worker = self.start(drain=60)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        stopped = worker.stopService()
        await ventilator.gets(Bye)
        ventilator.hello(1, 22)  # not newer: nothing follows from it
        ventilator.jobs(11, {1: b"a"})
        await ventilator.has_done(1)
        self.assertNoResult(stopped)
        ventilator.hello(2, 33)
        await stopped

    async def test_a_new_ventilator_is_not_taken_on_while_it_leaves(self) -> None:
        worker = self.start(drain=60)
        ventilator, late = self.ventilator(worker, 1), self.ventilator(worker, 2)
        await ventilator.opens(1, 11)
        stopped = worker.stopService()
        late.hello(1, 22)
        late.send([b"plain"])
        await self.runs(1)  # HELLO came before it on the same connection
        ventilator.close(11)
        await stopped
        self.assertEqual(late.have(Ready), [])

    async def test_plain_jobs_that_are_here_are_run_before_the_end(self) -> None:
        gone = 50

        def handler(job: Job) -> None:
            self.ran.append(job)
            if len(self.ran) == 1:
                for n in range(gone):
                    ventilator.send([b"%d" % n])
                time.sleep(0.1)
                self.stopped = worker.stopService()

        worker = self.start(handler, drain=60)
        ventilator = self.ventilator(worker)
        ventilator.send([b"first"])
        await self.runs(1)
        await self.stopped
        self.assertEqual(len(self.ran), 1 + gone)

    async def test_a_close_that_is_read_in_the_very_last_look_is_no_trouble(self) -> None:
        def handler(job: Job) -> None:
            self.ran.append(job)
            ventilator.close(11)
            time.sleep(0.1)  # CLOSE is here, unread, when this job was the last

        worker = self.start(handler, drain=60)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        stopped = worker.stopService()
        await ventilator.gets(Bye)
        ventilator.send([b"plain"])
        await stopped
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_stopping_twice_is_stopping_once(self) -> None:
        worker = self.start()
        first, second = worker.stopService(), worker.stopService()
        self.assertIs(first, second)
        await first

    async def test_it_can_be_started_again(self) -> None:
        for threads in (0, 2):
            worker = self.start(threads=threads)
            ventilator = self.ventilator(worker)
            await ventilator.opens(1, 11)
            await self.answers(ventilator, 11, 1)
            ventilator.close(11)
            await worker.stopService()
            worker.startService()
            again = self.ventilator(worker)
            await again.opens(1, 22)
            await self.answers(again, 22, 2)

    async def test_results_that_are_on_their_way_still_arrive(self) -> None:
        worker = self.start(lambda job: b"x" * 100_000, drain=60)
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11, window=200)
        ventilator.jobs(11, dict.fromkeys(range(100), b""))
        await until(lambda: len(worker._upstreams[7]._done) == 0 and worker._upstreams[7]._sent)
        stopped = worker.stopService()
        await ventilator.has_done(*range(100))
        ventilator.close(11)
        await stopped


class BadInputTests(WorkerCase):
    async def test_garbage_is_counted_and_logged_once_for_its_host(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        garbage = [
            [protocol.MAGIC],
            [protocol.MAGIC + b"\x01H", b"short", b"{}"],
            [protocol.MAGIC + b"\x02J", b"", b""],
            protocol.encode(Bye(1)),
            [protocol.MAGIC + b"\x01C"],
        ]
        for frames in garbage:
            ventilator.send(frames)
        await ventilator.opens(1, 11)
        self.assertEqual(worker.dropped_messages, len(garbage))
        self.assertEqual(len(self.log_lines("a message from 127.0.0.1 is dropped")), 1)
        self.assertEqual(self.ran, [])

    async def test_close_of_a_session_that_is_not_known_is_counted_and_nothing_else(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.close(12)
        await self.answers(ventilator, 11, 1)
        self.assertEqual(worker.dropped_messages, 1)

    async def test_close_without_bye_ends_that_session_and_a_new_one_may_begin(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        await ventilator.opens(1, 11)
        ventilator.close(11)
        await until(lambda: not worker._upstreams)
        await ventilator.opens(1, 22)
        await self.answers(ventilator, 22, 1)

    async def test_a_sink_that_cannot_be_connected_to_is_a_broken_hello(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        self.assertRaises(module.ProtocolError, module._reachable, "tcp://*:99", None)
        ventilator.hello(1, 11, sink="tcp://127.0.0.1:0")
        await until(lambda: worker.dropped_messages)
        self.assertEqual(worker._upstreams, {})


class PlainTests(WorkerCase):
    async def test_plain_messages_are_jobs(self) -> None:
        worker = self.start()
        ventilator = self.ventilator(worker)
        messages = [[b"single"], [b"a", b"b", b"c"], [b""], [b"", b""], [b"", protocol.MAGIC]]
        before = time.time()
        for frames in messages:
            ventilator.send(frames)
        await self.runs(len(messages))
        self.assertEqual([job.frames for job in self.ran], [tuple(frames) for frames in messages])
        self.assertEqual(self.bodies(), [frames[-1] for frames in messages])
        self.assertEqual(len({job.id for job in self.ran}), len(messages))
        self.assertEqual({len(job.id) for job in self.ran}, {32})
        self.assertTrue(all(before - 1 < job.accepted_at <= time.time() for job in self.ran))
        self.assertEqual({(job.attempt, len(job.headers)) for job in self.ran}, {(1, 0)})
        self.assertEqual(worker.dropped_messages, 0)

    async def test_plain_jobs_are_never_given_back(self) -> None:
        worker = self.start(self.holds, concurrency=1)
        ventilator = self.ventilator(worker)
        for n in range(8):
            ventilator.send([b"%d" % n])
        await self.runs(1)
        await a_while(0.25)
        for n in range(8):
            await self.runs(n + 1)
            self.held[b"%d" % n].callback(None)
        self.assertEqual(self.bodies(), [b"%d" % n for n in range(8)])

    async def test_a_plain_job_that_fails_is_logged_and_the_others_run(self) -> None:
        def handler(job: Job) -> None:
            self.ran.append(job)
            if job.body == b"bad":
                raise ValueError("too small")

        worker = self.start(handler)
        ventilator = self.ventilator(worker)
        ventilator.send([b"bad"])
        ventilator.send([b"good"])
        await self.runs(2)
        (line,) = self.log_lines("plain job")
        self.assertIn(self.ran[0].id, line)
        self.assertIn("ValueError: too small", line)

    async def test_a_flood_of_plain_jobs_is_run_to_the_last(self) -> None:
        count = 5000
        worker = self.start()
        push = self.context.socket(zmq.PUSH)
        push.set(zmq.SNDHWM, 0)
        push.connect(worker.address)
        for n in range(count):
            push.send(b"%d" % n)
        await self.runs(count)
        self.assertEqual(self.bodies(), [b"%d" % n for n in range(count)])


class PlainFloodTests(WorkerCase):
    """Jobs of plain peers that come faster than they are run."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(module, "MOST_PLAIN_JOBS", 50)
        self.patch(module, "MOST_PLAIN_BYTES", 10_000)

    async def flood(self, count: int, size: int) -> tuple[Worker, Ventilator]:
        """A worker that runs one job at a time, when it may, and whoever has sent it so many."""
        worker = self.start(self.holds, concurrency=1)
        ventilator = self.ventilator(worker)
        for n in range(count):
            ventilator.send([b"%d" % n, bytes(size), b"%d" % n])
        await until(lambda: self.log_lines("jobs of plain peers"), "it is said")
        await a_while(0.2)
        return worker, ventilator

    async def run_all(self, count: int) -> None:
        for n in range(count):
            await self.runs(n + 1)
            self.held[b"%d" % n].callback(None)

    async def test_no_more_are_taken_than_may_be_here_and_all_are_run(self) -> None:
        worker, _ = await self.flood(300, 0)
        self.assertEqual(worker.jobs_waiting + worker.jobs_running, 50)
        await self.run_all(300)
        self.assertEqual(self.bodies(), [b"%d" % n for n in range(300)])
        self.assertEqual(len(self.log_lines("jobs of plain peers")), 1)

    async def test_their_bytes_are_bounded_too(self) -> None:
        worker, _ = await self.flood(30, 1000)
        self.assertEqual(worker.jobs_waiting + worker.jobs_running, 10)
        await self.run_all(30)

    async def test_what_a_ventilator_says_meanwhile_waits_and_is_heard_then(self) -> None:
        _, ventilator = await self.flood(60, 0)
        ventilator.hello(1, 11)
        await a_while(0.2)
        self.assertEqual(ventilator.have(Ready), [])
        await self.run_all(60)
        await ventilator.gets(Ready)

    async def test_those_that_fail_make_room_as_well(self) -> None:
        await self.flood(120, 0)
        for n in range(120):
            await self.runs(n + 1)
            self.held[b"%d" % n].errback(ValueError("no"))
        self.assertEqual(len(self.bodies()), 120)

    async def test_a_worker_that_was_stopped_with_too_many_takes_jobs_when_it_is_started_again(self) -> None:
        worker, _ = await self.flood(100, 0)
        await worker.stopService()
        worker.startService()
        ventilator = self.ventilator(worker)
        ventilator.send([b"again"])
        await until(lambda: b"again" in self.held or worker.jobs_waiting, "it is taken")


class ArgumentTests(WorkerCase):
    def test_what_cannot_work_is_said(self) -> None:
        for options in ({"concurrency": 0}, {"threads": -1}):
            error = self.assertRaises(UsageError, Worker, reactor, discard, ANY_PORT, **options)
            self.assertIn("concurrency is 1 or more, threads 0 or more", str(error))
        self.assertRaises(UsageError, Worker, reactor, discard, "127.0.0.1:4444")

    async def test_a_port_that_is_taken_is_said(self) -> None:
        worker = self.start()
        other = Worker(reactor, discard, worker.address)
        error = self.assertRaises(UsageError, other.bind)
        self.assertIn(f"{worker.address} cannot be bound: address already in use", str(error))

    async def test_the_address_tells_the_port_that_was_taken(self) -> None:
        worker = Worker(reactor, discard, ANY_PORT)
        self.assertEqual(worker.address, ANY_PORT)
        worker.bind()
        self.assertRegex(worker.address, r"^tcp://127\.0\.0\.1:\d+$")
        bound = worker.address
        worker.startService()
        self.assertEqual(worker.address, bound)
        await worker.stopService()
        self.assertEqual(worker.address, ANY_PORT)

    def test_a_failure_of_a_job_whose_ventilator_is_gone_reaches_nobody_and_does_no_harm(self) -> None:
        gone = upstream.Upstream(reactor, None, 7, None)  # type: ignore[arg-type]
        job = Job((7, 1), b"", delivery=module.Delivery(gone, 1, 0.0))
        gone.failed(job, Failure(ValueError("no")))
        gone.returned([])
        gone.report(Timings())
        gone.close()
        self.assertTrue(self.log_lines("failed: ValueError: no"))
