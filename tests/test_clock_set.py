"""A pipeline while the system's clock is set: what it keeps goes by a time of its own, what it shows by the clock."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import until
from tests.pipeline_kit import HOUR, LONG, JournalCase, MemoryCase
from zpipeline import protocol, times
from zpipeline.errors import JournalError
from zpipeline.journal import opening, writer
from zpipeline.pipeline import Pipeline, sessions
from zpipeline.pipeline.setting import ClockWatch
from zpipeline.protocol import Done

#: How much a time may differ from what it should be, in seconds: a test may take so long.
NEAR = 60.0


class _Set:
    """Has a system's clock for all pipelines."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.ahead = 0.0
        self.suspended = 0.0
        self.boot = times.since_boot
        clocks = SimpleNamespace(time=lambda: time.time() + self.ahead + self.suspended, monotonic=time.monotonic)
        self.patch(times, "time", clocks)  # type: ignore[attr-defined]
        self.patch(times, "since_boot", lambda: self.boot() + self.suspended)  # type: ignore[attr-defined]

    def is_set(self, pipeline: Pipeline, ahead: float) -> None:
        """The clock is, so many seconds ahead of what it was; the pipeline looks, as it does each second."""
        self.ahead = ahead
        pipeline._clock_watch.look()

    def assert_near(self, at: float | None, expected: float) -> None:
        assert at is not None
        self.assertLess(abs(at - expected), NEAR)  # type: ignore[attr-defined]


class SetTests(_Set, JournalCase):
    """On a journal."""

    async def test_a_key_and_what_has_come_of_its_job_are_kept_for_as_long_as_it_is_said(self) -> None:
        pipeline, worker, session = await self.pair(keep=LONG)
        for ahead in (HOUR, -HOUR):
            job_id = await pipeline.push(b"a", idempotency_key=f"{ahead}")
            number = (await worker.has(1 + (ahead < 0)))[-1]
            worker.say(Done(session, [number]))
            await self.settles(pipeline)
            self.is_set(pipeline, ahead)
            self.assertEqual(await pipeline.push(b"a", idempotency_key=f"{ahead}"), job_id)
            self.assertEqual(await self.state(pipeline, job_id), "done")
            self.assertIsNone(await pipeline.result(job_id))

    async def test_a_retry_is_due_when_it_was_due(self) -> None:
        for ahead in (-HOUR, HOUR):
            pipeline, worker, session = await self.pair()
            await pipeline.push(b"a")
            (number,) = await worker.has(1)
            self.fails(worker, session, number, delay=0.5)
            await until(lambda pipeline=pipeline: not pipeline._dispatcher.in_flight)
            began = time.monotonic()
            self.is_set(pipeline, ahead)
            await worker.has(2)
            self.assertGreater(time.monotonic() - began, 0.3)
            worker.say(Done(session, [number]))
            await self.settles(pipeline)
            await pipeline.stopService()

    async def test_times_that_are_shown_follow_the_clock(self) -> None:
        pipeline, worker, session = await self.pair(attempts=1)
        alive, dying = await pipeline.push(b"a"), await pipeline.push(b"b")
        numbers = await worker.has(2)
        before = await self.status(pipeline, alive)
        self.assert_near(before.accepted_at, time.time())
        self.fails(worker, session, numbers[1])
        worker.say(Done(session, [numbers[0]]))
        await self.settles(pipeline)
        self.is_set(pipeline, HOUR)
        for job_id in (alive, dying):
            status = await self.status(pipeline, job_id)
            self.assert_near(status.accepted_at, time.time() + HOUR)
            self.assert_near(status.settled_at, time.time() + HOUR)
        letter = await pipeline.dead_letter(dying)
        assert letter is not None
        for summary in (letter.summary, *await pipeline.dead_letters()):
            self.assert_near(summary.accepted_at, time.time() + HOUR)
            self.assert_near(summary.settled_at, time.time() + HOUR)
        self.assert_near(pipeline.stats().time, time.time() + HOUR)

    async def test_workers_are_told_by_their_clock_when_a_job_was_accepted(self) -> None:
        pipeline = self.start("tcp://127.0.0.1:1")
        await pipeline.push(b"a")
        self.is_set(pipeline, HOUR)
        worker = self.by_hand()
        pipeline = await self.again(pipeline, worker)
        await worker.takes_part()
        await pipeline.push(b"b")
        await worker.has(2)
        accepted = [at for jobs in worker.have(protocol.Jobs) for at in jobs.accepted_at]
        for at in accepted:
            self.assert_near(at, time.time() + HOUR)

    async def test_the_time_goes_on_after_a_restart(self) -> None:
        """Neither a key nor a retry knows that the clock was set."""
        for ahead in (HOUR, -HOUR):
            pipeline, worker, session = await self.pair(keep=LONG)
            done_id = await pipeline.push(b"done", idempotency_key=f"{ahead}")
            await pipeline.push(b"later")
            done, later = await worker.has(2)
            worker.say(Done(session, [done]))
            self.fails(worker, session, later, delay=2.0)
            failed = time.monotonic()
            await until(lambda pipeline=pipeline: not pipeline._dispatcher.in_flight)
            self.ahead = ahead  # nobody looks any more, but in the end
            worker = self.by_hand()
            pipeline = await self.again(pipeline, worker, keep=LONG)
            self.assertEqual(self.read("SELECT round(value / 10000.0) FROM meta WHERE name = 'skew'"), [(ahead / 10,)])
            self.assertEqual(await pipeline.push(b"done", idempotency_key=f"{ahead}"), done_id)
            session = await worker.takes_part()
            self.assertEqual(await worker.has(1), [later])
            self.assertGreater(time.monotonic(), failed + 1.9)
            self.assert_near((await self.status(pipeline, done_id)).settled_at, time.time() + ahead)
            worker.say(Done(session, [later]))
            await self.settles(pipeline)
            await pipeline.stopService()

    async def test_a_clock_that_is_set_back_while_nothing_runs_holds_nothing_up(self) -> None:
        pipeline, worker, session = await self.pair()
        await pipeline.push(b"a")
        (number,) = await worker.has(1)
        self.fails(worker, session, number, delay=0.5)
        await until(lambda: not pipeline._dispatcher.in_flight)
        await pipeline.stopService()
        self.ahead = -HOUR
        worker = self.by_hand()
        pipeline = self.start(worker)
        self.assertEqual(len(self.log_lines("seconds back: jobs, retries and timeouts go on")), 1)
        await worker.takes_part()
        await worker.has(1)

    async def test_without_a_step_nothing_is_said_or_kept(self) -> None:
        pipeline = self.start()
        await pipeline.push(b"a")
        pipeline._clock_watch.look()
        await pipeline.stopService()
        self.assertEqual(self.read("SELECT value FROM meta WHERE name = 'skew'"), [])
        self.assertEqual(self.log_lines("clock"), [])

    async def test_a_step_is_noticed_within_a_second_or_so_and_said_once(self) -> None:
        pipeline = self.start()
        self.ahead = HOUR
        said = "the system's clock was set 3600 seconds forward: jobs, retries and timeouts go on as before"
        await until(lambda: self.log_lines(said))
        pipeline._clock_watch.look()
        self.assertEqual(len(self.log_lines("clock")), 1)

    async def test_a_skew_that_cannot_be_written_is_written_when_it_can(self) -> None:
        self.patch(opening, "PATIENCE", 0.05)
        self.patch(writer, "RETRY_SECONDS", 0.05)
        pipeline = self.start()
        other = self.hold_up()
        self.is_set(pipeline, HOUR)
        await until(lambda: pipeline.trouble)
        other.execute("COMMIT")
        await until(lambda: self.read("SELECT value FROM meta WHERE name = 'skew'"))

    async def test_a_job_that_is_put_off_for_ever_is_no_trouble(self) -> None:
        pipeline, worker, session = await self.pair()
        await pipeline.push(b"never")
        (number,) = await worker.has(1)
        self.fails(worker, session, number, delay=1.7e308)
        await until(lambda: not pipeline._dispatcher.in_flight)
        worker = self.by_hand()
        pipeline = await self.again(pipeline, worker)
        session = await worker.takes_part()
        await pipeline.push(b"now")
        (now,) = await worker.has(1)
        self.assertNotEqual(now, number)
        worker.say(Done(session, [now]))
        await until(lambda: pipeline.pending == 1)
        self.assertEqual(self.read("SELECT due FROM jobs WHERE due IS NOT NULL"), [(1.7e308,)])

    async def test_a_retry_that_is_due_after_a_suspension_is_found(self) -> None:
        """The reactor's clock stood still meanwhile."""
        self.patch(sessions, "_LONGEST_WAIT", 0.1)
        pipeline, worker, session = await self.pair()
        await pipeline.push(b"a")
        (number,) = await worker.has(1)
        self.fails(worker, session, number, delay=HOUR)
        await until(lambda: not pipeline._dispatcher.in_flight)
        self.suspended = HOUR
        await worker.has(2)
        self.assertEqual(self.log_lines("clock"), [])


class MemorySetTests(_Set, MemoryCase):
    """Without a journal."""

    test_a_key = SetTests.test_a_key_and_what_has_come_of_its_job_are_kept_for_as_long_as_it_is_said
    test_a_retry = SetTests.test_a_retry_is_due_when_it_was_due
    test_times = SetTests.test_times_that_are_shown_follow_the_clock


class _Store:
    """Keeps what it is told to, unless it has an error."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answers: list[Deferred[None]] = []

    def keep_skew(self, skew: float) -> Deferred[None]:
        self.asked.append(skew)
        return self.answers.pop(0)


class ClockWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.steps: list[float] = []
        self.store = _Store()
        clocks: Any = SimpleNamespace(skew=0.0, look=self.look)
        self.clocks = clocks
        store: Any = self.store
        self.watch = ClockWatch(clocks, store)

    def look(self) -> float:
        step = self.steps.pop(0) if self.steps else 0.0
        self.clocks.skew += step
        return step

    def test_what_could_not_be_kept_is_tried_again_at_the_next_look(self) -> None:
        self.steps = [5.0]
        self.store.answers = [fail(JournalError("the disk is full")), fail(JournalError("still")), succeed(None)]
        for _ in range(5):
            self.watch.look()
        self.assertEqual(self.store.asked, [5.0] * 3)

    def test_one_question_is_open_at_a_time_and_the_last_word_is_kept(self) -> None:
        first: Deferred[None] = Deferred()
        self.steps = [5.0, -2.0]
        self.store.answers = [first, succeed(None)]
        self.watch.look()
        self.watch.look()
        self.assertEqual(self.store.asked, [5.0])
        first.callback(None)
        self.watch.look()
        self.watch.look()
        self.assertEqual(self.store.asked, [5.0, 3.0])
