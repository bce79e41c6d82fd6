"""`zpipeline.testing`: what it promises, and that it is as a real pipeline and worker are in all that both promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from tests.peers import a_while, until
from tests.pipeline_kit import PipelineCase
from zpipeline import (
    Draining,
    Full,
    Job,
    JobDead,
    JobStatus,
    JournalError,
    KeyReused,
    NotSettled,
    Pipeline,
    Refused,
    Reject,
    ResultGone,
    RetryLater,
    TooLarge,
    UnknownJob,
    UsageError,
)
from zpipeline.testing import FakePipeline, PushedJob

AT_ONCE = (0.0, 0.0)  # a backoff


class Waits:
    """A handler that ends when it is told to, once for each job."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.ends: list[Deferred[Any]] = []

    def __call__(self, job: Job) -> Deferred[Any]:
        self.jobs.append(job)
        self.ends.append(Deferred())
        return self.ends[-1]


class Promises:
    """What a pipeline with one worker promises, real or not."""

    start_with: Callable[..., Pipeline]  # a pipeline that is started, and whose worker has this handler
    until: Callable[..., Any]
    passes: Callable[[float], Any]
    assertEqual: Any
    assertIn: Any
    assertIs: Any
    assertTrue: Any
    assertFailure: Any

    async def status(self, pipeline: Pipeline, job_id: str) -> JobStatus:
        status = await pipeline.job(job_id)
        assert status is not None
        return status

    async def state(self, pipeline: Pipeline, job_id: str) -> str:
        return (await self.status(pipeline, job_id)).state

    async def settle(self, pipeline: Pipeline) -> None:
        await self.until(lambda: not pipeline.pending)

    async def test_a_job_is_run_as_it_was_pushed(self) -> None:
        ran: list[Job] = []
        pipeline = self.start_with(ran.append)
        job_id = await pipeline.push(b"body", {"X-User": "ada"})
        await self.settle(pipeline)
        [job] = ran
        self.assertEqual((job.id, job.body, job.frames), (job_id, b"body", (b"body",)))
        self.assertEqual((dict(job.headers), job.attempt), ({"x-user": "ada"}, 1))
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts, status.error), ("done", 1, None))
        self.assertEqual(status.accepted_at, job.accepted_at)

    async def test_many_are_run_in_the_order_of_their_ids(self) -> None:
        ran: list[Job] = []
        pipeline = self.start_with(ran.append)
        ids = await pipeline.push_many([b"1", b"2", b"3"])
        await self.settle(pipeline)
        self.assertEqual(([job.id for job in ran], [job.body for job in ran]), (ids, [b"1", b"2", b"3"]))
        self.assertEqual(ids, sorted(ids))

    async def test_one_that_a_handler_pushes_is_run_too(self) -> None:
        ran: list[bytes] = []

        def handle(job: Job) -> None:
            ran.append(job.body)
            if len(ran) < 3:
                pipeline.push(job.body + b"+")

        pipeline = self.start_with(handle)
        await pipeline.push(b"a")
        await self.until(lambda: len(ran) == 3)
        await self.settle(pipeline)
        self.assertEqual(ran, [b"a", b"a+", b"a++"])

    async def test_a_coroutine_is_waited_for(self) -> None:
        gate: Deferred[None] = Deferred()
        began: list[Job] = []

        async def handle(job: Job) -> None:
            began.append(job)
            await gate

        pipeline = self.start_with(handle)
        job_id = await pipeline.push(b"")
        await self.until(lambda: began)
        self.assertEqual(await self.state(pipeline, job_id), "in flight")
        gate.callback(None)
        await self.settle(pipeline)
        self.assertEqual(await self.state(pipeline, job_id), "done")

    async def test_no_more_run_at_once_than_may(self) -> None:
        handler = Waits()
        pipeline = self.start_with(handler, concurrency=2)
        await pipeline.push_many([b"1", b"2", b"3"])
        await self.until(lambda: len(handler.jobs) == 2)
        await self.passes(0.05)
        self.assertEqual(len(handler.jobs), 2)
        handler.ends[1].callback(None)
        await self.until(lambda: len(handler.jobs) == 3)
        handler.ends[0].callback(None)
        handler.ends[2].callback(None)
        await self.settle(pipeline)
        self.assertEqual([job.body for job in handler.jobs], [b"1", b"2", b"3"])

    async def test_one_that_fails_is_tried_as_often_as_it_may_and_then_is_a_dead_letter(self) -> None:
        ran: list[int] = []

        def handle(job: Job) -> None:
            ran.append(job.attempt)
            raise ValueError(f"no {job.attempt}")

        pipeline = self.start_with(handle, attempts=3, backoff=AT_ONCE)
        job_id = await pipeline.push(b"body", {"A": "b"})
        await self.settle(pipeline)
        self.assertEqual(ran, [1, 2, 3])
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts, status.error), ("dead", 3, "ValueError: no 3"))
        letter = await pipeline.dead_letter(job_id)
        assert letter is not None
        self.assertEqual((letter.body, dict(letter.headers)), (b"body", {"a": "b"}))
        self.assertIn("in handle", letter.traceback)
        summary = letter.summary
        self.assertEqual(await pipeline.dead_letters(), [summary])
        self.assertEqual((summary.attempts, summary.strikes, summary.size), (3, 0, 4))
        self.assertTrue(summary.handler.endswith("handle"))

    async def test_one_that_is_rejected_is_dead_at_once(self) -> None:
        def handle(job: Job) -> None:
            raise Reject("spoilt")

        pipeline = self.start_with(handle)
        job_id = await pipeline.push(b"")
        await self.settle(pipeline)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts, status.error), ("dead", 1, "spoilt"))

    async def test_one_that_is_put_off_is_tried_again_when_the_time_has_come(self) -> None:
        ran: list[int] = []

        def handle(job: Job) -> None:
            ran.append(job.attempt)
            if job.attempt == 1:
                raise RetryLater(0.2)

        pipeline = self.start_with(handle)
        job_id = await pipeline.push(b"")
        await self.until(lambda: ran)
        await self.passes(0.05)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts), ("retrying", 2))
        self.assertEqual(ran, [1])
        await self.passes(0.2)
        await self.settle(pipeline)
        self.assertEqual(ran, [1, 2])

    async def test_one_that_takes_too_long_has_failed(self) -> None:
        handler = Waits()
        pipeline = self.start_with(handler, timeout=0.2, attempts=1)
        job_id = await pipeline.push(b"")
        await self.until(lambda: handler.jobs)
        await self.passes(0.2)
        await self.settle(pipeline)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.error), ("dead", "timed out after 0.2 seconds"))

    async def test_dead_letters_are_tried_again_or_dropped(self) -> None:
        ran: list[bytes] = []

        def handle(job: Job) -> None:
            ran.append(job.body)
            if ran.count(job.body) == 1:
                raise Reject(job.body.decode())

        pipeline = self.start_with(handle)
        ids = await pipeline.push_many([b"one", b"two", b"disk full", b"disk broken", b"five"])
        await self.settle(pipeline)
        self.assertEqual([letter.id for letter in await pipeline.dead_letters(after=ids[1], most=2)], ids[2:4])
        self.assertIs(await pipeline.retry_dead(ids[0]), True)
        self.assertIs(await pipeline.retry_dead("unknown"), False)
        self.assertIs(await pipeline.drop_dead(ids[1]), True)
        self.assertIs(await pipeline.drop_dead(ids[1]), False)
        self.assertEqual(await pipeline.retry_all_dead(error="disk"), 2)
        self.assertEqual(await pipeline.retry_all_dead(handler="of nobody"), 0)
        await self.settle(pipeline)
        self.assertEqual([letter.id for letter in await pipeline.dead_letters()], [ids[4]])
        self.assertEqual([await self.state(pipeline, ids[place]) for place in (0, 2, 3)], ["done"] * 3)

    async def test_what_is_too_much_is_refused_until_there_is_room(self) -> None:
        handler = Waits()
        pipeline = self.start_with(handler, max_pending=2)
        ids = await pipeline.push_many([b"1", b"2"])
        self.assertEqual((pipeline.pending, pipeline.accepting), (2, False))
        await self.assertFailure(pipeline.push(b"3"), Full)
        await self.until(lambda: handler.ends)
        handler.ends[0].callback(None)
        await self.until(lambda: pipeline.pending == 1)
        self.assertEqual((pipeline.accepting, await self.state(pipeline, ids[0])), (True, "done"))
        await pipeline.push(b"3")
        for place in (1, 2):
            await self.until(lambda place=place: len(handler.ends) > place)
            handler.ends[place].callback(None)
        await self.settle(pipeline)

    async def test_what_cannot_be_a_job_is_refused(self) -> None:
        pipeline = self.start_with(lambda job: None, max_body=3)
        await self.assertFailure(pipeline.push(b"1234"), TooLarge)
        await self.assertFailure(pipeline.push_many([b"1", b"1234"]), TooLarge)
        await self.assertFailure(pipeline.push("text"), UsageError)  # type: ignore[arg-type]
        await self.assertFailure(pipeline.push(b"", {"a": 1}), UsageError)  # type: ignore[dict-item]
        self.assertEqual(pipeline.pending, 0)

    async def test_a_key_names_one_job(self) -> None:
        ran: list[Job] = []
        pipeline = self.start_with(ran.append)
        first = await pipeline.push(b"a", idempotency_key="k")
        await self.settle(pipeline)
        self.assertEqual(await pipeline.push(b"a", idempotency_key="k"), first)
        await self.assertFailure(pipeline.push(b"b", idempotency_key="k"), KeyReused)
        await self.settle(pipeline)
        self.assertEqual(len(ran), 1)

    async def test_what_a_handler_returns_is_the_result_of_its_job(self) -> None:
        results = {b"bytes": b"\x00\xff", b"text": "text", b"json": {"a": [1, None]}, b"none": None}
        pipeline = self.start_with(lambda job: results[job.body])
        for body, result in results.items():
            self.assertEqual(await pipeline.result(await pipeline.push(body)), result)

    async def test_what_cannot_be_carried_is_no_result_and_says_why(self) -> None:
        pipeline = self.start_with(lambda job: {1, 2})
        job_id = await pipeline.push(b"")
        error = await self.assertFailure(pipeline.result(job_id), ResultGone)
        self.assertIn("set is not JSON serializable", str(error))

    async def test_the_result_of_a_job_that_is_dead_is_its_error(self) -> None:
        def handle(job: Job) -> None:
            raise Reject("spoilt")

        pipeline = self.start_with(handle)
        error = await self.assertFailure(pipeline.result(await pipeline.push(b"")), JobDead)
        self.assertEqual((error.error, error.attempts), ("spoilt", 1))

    async def test_a_result_is_waited_for_as_long_as_it_may_be(self) -> None:
        handler = Waits()
        pipeline = self.start_with(handler)
        job_id = await pipeline.push(b"")
        await self.until(lambda: handler.ends)
        waiting, first = pipeline.result(job_id), pipeline.result(job_id, 0.1)
        await self.passes(0.2)
        await self.assertFailure(first, NotSettled)
        handler.ends[0].callback("at last")
        self.assertEqual(await waiting, "at last")

    async def test_jobs_of_others_are_not_known(self) -> None:
        pipeline = self.start_with(lambda job: None)
        for job_id in ("", "no id", 32 * "f"):
            self.assertIs(await pipeline.job(job_id), None)
            self.assertIs(await pipeline.dead_letter(job_id), None)
            await self.assertFailure(pipeline.result(job_id), UnknownJob)

    async def test_stopping_waits_for_jobs_and_takes_none(self) -> None:
        handler = Waits()
        pipeline = self.start_with(handler, drain=30.0)
        job_id = await pipeline.push(b"")
        await self.until(lambda: handler.ends)
        stopped = pipeline.stopService()
        self.assertEqual((pipeline.draining, pipeline.accepting), (True, False))
        await self.assertFailure(pipeline.push(b""), Draining)
        self.assertEqual(await self.state(pipeline, job_id), "in flight")
        handler.ends[0].callback(None)
        await stopped
        self.assertEqual(await self.state(pipeline, job_id), "done")
        self.assertEqual((pipeline.left_undone, pipeline.ready_workers), (0, 0))

    async def test_what_was_not_run_when_it_stopped_runs_after_the_next_start(self) -> None:
        ran: list[int] = []

        def handle(job: Job) -> None:
            ran.append(job.attempt)
            if job.attempt == 1:
                raise RetryLater(0.2)

        pipeline = self.start_with(handle)
        await pipeline.push(b"")
        await self.until(lambda: ran)
        await self.passes(0.05)
        await pipeline.stopService()
        self.assertEqual((pipeline.left_undone, pipeline.ready_workers), (1, 0))
        await self.passes(0.2)
        self.assertEqual(ran, [1])
        pipeline.startService()
        await self.until(lambda: pipeline.ready_workers == 1)
        await self.settle(pipeline)
        self.assertEqual(ran, [1, 2])


class RealTests(Promises, PipelineCase):
    """A real pipeline, and a real worker: what the other has to be like."""

    def start_with(self, handler: Any, *, concurrency: int = 10, **options: Any) -> Pipeline:
        return self.start(self.worker(handler, concurrency=concurrency), **options)

    async def until(self, condition: Callable[[], Any]) -> None:
        await until(condition)

    async def passes(self, seconds: float) -> None:
        await a_while(seconds)


class AlikeTests(Promises, TestCase):
    """The one that is for tests: all of it happens at once."""

    def start_with(self, handler: Any, **options: Any) -> Pipeline:
        self.clock = Clock()
        pipeline = FakePipeline(handler, clock=self.clock, **options)
        pipeline.startService()
        return pipeline

    async def until(self, condition: Callable[[], Any]) -> None:
        self.assertTrue(condition())

    async def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)


class FakePipelineTests(SynchronousTestCase):
    """What it has that a real one has not."""

    def setUp(self) -> None:
        self.ran: list[Job] = []

    def handle(self, job: Job) -> None:
        self.ran.append(job)

    def push(self, pipeline: Pipeline, *bodies: bytes) -> list[str]:
        ids: list[str] = self.successResultOf(pipeline.push_many(bodies))
        return ids

    def status(self, pipeline: Pipeline, job_id: str) -> JobStatus:
        status: JobStatus = self.successResultOf(pipeline.job(job_id))
        return status

    def bodies(self) -> list[bytes]:
        return [job.body for job in self.ran]

    def test_it_has_run_a_job_when_push_returns_and_need_not_be_started(self) -> None:
        pipeline = FakePipeline(self.handle)
        pushed = pipeline.push(b"a")
        self.assertEqual((self.bodies(), pipeline.pending), ([b"a"], 0))
        self.assertEqual(self.successResultOf(pushed), self.ran[0].id)

    def test_it_is_a_pipeline_and_a_service(self) -> None:
        pipeline = FakePipeline(self.handle)
        self.assertIsInstance(pipeline, Pipeline)
        verifyObject(IService, pipeline)
        parent = MultiService()
        pipeline.setServiceParent(parent)
        parent.startService()
        self.assertEqual((pipeline.running, pipeline.ready_workers, pipeline.accepting), (1, 1, True))
        self.successResultOf(parent.stopService())
        self.failureResultOf(pipeline.push(b""), Draining)

    def test_it_leaves_nothing_to_its_clock_but_what_waits_for_it(self) -> None:
        pipeline = FakePipeline(self.handle)
        self.push(pipeline, b"a", b"b")
        self.successResultOf(pipeline.push(b"c"))
        self.assertEqual(pipeline.clock.getDelayedCalls(), [])

    def test_it_remembers_what_was_pushed_and_accepted(self) -> None:
        pipeline = FakePipeline(hold=True, max_body=9)
        first = self.successResultOf(pipeline.push(b'{"a": 1}', {"X-User": "ada"}, idempotency_key="k"))
        self.failureResultOf(pipeline.push(10 * b"x"), TooLarge)
        ids = self.push(pipeline, b"1", b"2")
        self.assertEqual(
            pipeline.pushed,
            [
                PushedJob(first, b'{"a": 1}', {"x-user": "ada"}, "k"),
                PushedJob(ids[0], b"1", {}),
                PushedJob(ids[1], b"2", {}),
            ],
        )
        self.assertEqual(pipeline.pushed[0].json(), {"a": 1})

    def test_without_a_handler_there_is_no_worker(self) -> None:
        pipeline = FakePipeline()
        [job_id] = self.push(pipeline, b"a")
        self.assertEqual((self.status(pipeline, job_id).state, pipeline.ready_workers), ("waiting", 0))
        self.assertEqual(pipeline.run_all(), [])
        self.assertIn("no handler", str(self.assertRaises(LookupError, pipeline.run_next)))

    def test_held_jobs_wait_and_are_run_one_by_one(self) -> None:
        pipeline = FakePipeline(self.handle, hold=True)
        ids = self.push(pipeline, b"1", b"2", b"3")
        self.assertEqual((self.ran, pipeline.pending, pipeline.ready_workers), ([], 3, 1))
        job = pipeline.run_next()
        self.assertEqual((job.id, self.ran), (ids[0], [job]))
        self.assertEqual([self.status(pipeline, job_id).state for job_id in ids], ["done", "waiting", "waiting"])
        self.assertEqual(pipeline.run_next().id, ids[1])
        self.assertEqual(pipeline.pending, 1)

    def test_held_jobs_are_run_all_and_those_that_they_push(self) -> None:
        def handle(job: Job) -> None:
            self.ran.append(job)
            if job.body == b"1":
                pipeline.push(b"3")

        pipeline = FakePipeline(handle, hold=True)
        self.push(pipeline, b"1", b"2")
        self.assertEqual([job.body for job in pipeline.run_all()], [b"1", b"2", b"3"])
        self.assertEqual((self.bodies(), pipeline.run_all()), ([b"1", b"2", b"3"], []))

    def test_held_jobs_run_when_it_holds_no_more_and_it_can_hold_again(self) -> None:
        pipeline = FakePipeline(self.handle, hold=True)
        self.push(pipeline, b"1", b"2")
        pipeline.hold = False
        self.assertEqual(self.bodies(), [b"1", b"2"])
        pipeline.hold = True
        self.push(pipeline, b"3")
        self.assertEqual(self.bodies(), [b"1", b"2"])

    def test_a_held_job_that_fails_waits_for_its_time_and_to_be_run(self) -> None:
        def handle(job: Job) -> None:
            self.ran.append(job)
            raise RetryLater(60)

        pipeline = FakePipeline(handle, hold=True)
        self.push(pipeline, b"a")
        pipeline.run_next()
        self.assertIn("1 wait for their next attempt", str(self.assertRaises(LookupError, pipeline.run_next)))
        pipeline.clock.advance(60)
        self.assertEqual(len(self.ran), 1)
        self.assertEqual(pipeline.run_next().attempt, 2)

    def test_as_many_held_ones_run_at_once_as_may(self) -> None:
        handler = Waits()
        pipeline = FakePipeline(handler, hold=True, concurrency=2)
        self.push(pipeline, b"1", b"2", b"3")
        self.assertEqual([job.body for job in pipeline.run_all()], [b"1", b"2"])
        self.assertIn("2 are running", str(self.assertRaises(LookupError, pipeline.run_next)))
        handler.ends[0].callback(None)
        self.assertEqual(pipeline.run_next().body, b"3")

    def test_the_next_push_fails_as_it_is_told_to_and_the_one_after_does_not(self) -> None:
        pipeline = FakePipeline(self.handle)
        errors: list[Refused] = [Full("no room", retry_after=7), Draining("going"), JournalError("broken")]
        for error in errors:
            pipeline.fail_next_push(error)
        self.assertIs(self.failureResultOf(pipeline.push(b"a"), Full).value, errors[0])
        self.failureResultOf(pipeline.push_many([b"b", b"c"]), Draining)
        self.failureResultOf(pipeline.push(b"d", idempotency_key="k"), JournalError)
        self.assertEqual((self.ran, pipeline.pushed, pipeline.pending), ([], [], 0))
        self.successResultOf(pipeline.push(b"e"))
        self.assertEqual(self.bodies(), [b"e"])

    def test_a_push_that_cannot_be_made_to_fail_so_is_an_error(self) -> None:
        pipeline = FakePipeline(self.handle)
        error = self.assertRaises(UsageError, pipeline.fail_next_push, ValueError("no"))
        self.assertIn("zpipeline.Refused", str(error))
        self.assertRaises(UsageError, pipeline.fail_next_job, "no")

    def test_the_next_job_fails_as_it_is_told_to_and_its_handler_is_not_called(self) -> None:
        pipeline = FakePipeline(self.handle, attempts=2)
        pipeline.fail_next_job(Reject("spoilt"))
        pipeline.fail_next_job(ValueError("no"))
        pipeline.fail_next_job(RetryLater(5))
        ids = self.push(pipeline, b"rejected", b"fails", b"put off", b"fine")
        self.assertEqual(
            [(status.state, status.error) for status in (self.status(pipeline, job_id) for job_id in ids)],
            [
                ("dead", "spoilt"),
                ("retrying", "ValueError: no"),
                ("retrying", "asks to be tried again in 5 seconds"),
                ("done", None),
            ],
        )
        self.assertEqual(self.bodies(), [b"fine"])
        pipeline.clock.advance(5)
        self.assertEqual(self.bodies(), [b"fine", b"fails", b"put off"])

    def test_what_was_settled_is_forgotten_when_it_was_kept_for_long_enough(self) -> None:
        pipeline = FakePipeline(self.handle, keep=60)
        [job_id] = self.push(pipeline, b"a")
        pipeline.clock.advance(60)
        self.assertEqual(self.status(pipeline, job_id).state, "done")
        pipeline.clock.advance(1)
        self.assertIsNone(self.successResultOf(pipeline.job(job_id)))

    def test_stopping_waits_for_as_long_as_the_clock_says(self) -> None:
        pipeline = FakePipeline(Waits(), drain=30)
        self.push(pipeline, b"a")
        stopped = pipeline.stopService()
        pipeline.clock.advance(29)
        self.assertNoResult(stopped)
        pipeline.clock.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(pipeline.left_undone, 1)

    def test_a_clock_of_its_own_begins_now(self) -> None:
        pipeline = FakePipeline(self.handle)
        self.push(pipeline, b"a")
        self.assertEqual(self.ran[0].accepted_at, pipeline.clock.seconds())
        self.assertGreater(self.ran[0].accepted_at, 1_700_000_000)
