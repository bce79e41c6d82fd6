"""What handlers have returned, for those who ask or wait for it: from a journal and from memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, gatherResults

from tests.peers import turns, until
from tests.pipeline_kit import HOUR, LONG, JournalCase, MemoryCase
from zpipeline import errors
from zpipeline.errors import JobDead, JournalError, NoResult, NotSettled, ResultGone, UnknownJob
from zpipeline.job import make_id
from zpipeline.pipeline import service
from zpipeline.protocol import MAX_RESULT, Done, Json


class ResultTests(JournalCase):
    """A job that is done has a result."""

    async def test_what_a_handler_returns_comes_back(self) -> None:
        values = [b"\0bytes", b"", "t\xebxt", "", {"a": [1, None, 2.5]}, [], 0, False, None]
        pipeline = self.start(self.worker(lambda job: values[int(job.body)]))
        ids = [await pipeline.push(b"%d" % number) for number in range(len(values))]
        self.assertEqual([await pipeline.result(job_id) for job_id in ids], values)
        again = [await pipeline.result(job_id, 0) for job_id in ids]
        self.assertEqual(again, values)
        self.assertEqual([type(value) for value in again], [type(value) for value in values])

    async def test_a_result_of_a_mebibyte_comes_back(self) -> None:
        pipeline = self.start(self.worker(lambda job: b"x" * MAX_RESULT))
        self.assertEqual(await pipeline.result(await pipeline.push(b"")), b"x" * MAX_RESULT)

    async def test_each_gets_the_result_of_its_own_job(self) -> None:
        pipeline = self.start(self.worker(lambda job: job.body), self.worker(lambda job: job.body))
        ids = await pipeline.push_many([b"%d" % number for number in range(300)])
        results = await gatherResults([pipeline.result(job_id) for job_id in ids])
        self.assertEqual(results, [b"%d" % number for number in range(300)])

    async def test_all_who_wait_for_a_job_get_its_result(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        waiting = [pipeline.result(job_id) for _ in range(3)]
        (number,) = await worker.has(1)
        worker.say(Done(session, [number], ["x"]))
        self.assertEqual(await gatherResults(waiting), ["x"] * 3)

    async def test_a_result_that_could_not_be_carried_says_why(self) -> None:
        pipeline = self.start(self.worker(lambda job: object() if job.body else b"x" * (MAX_RESULT + 1)))
        what = await pipeline.push(b"what")
        await self.fails_with(pipeline.result(what), ResultGone, "it is not bytes, text or JSON: Object of type object")
        large = await pipeline.push(b"")
        await self.fails_with(pipeline.result(large), ResultGone, f"{MAX_RESULT + 1} bytes are over {MAX_RESULT}")

    async def test_a_result_that_is_too_long_for_the_protocol_is_not_kept(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        (number,) = await worker.has(1)
        worker.say(Done(session, [number], [b"x" * (MAX_RESULT + 1)]))
        await self.fails_with(pipeline.result(job_id), ResultGone, f"{MAX_RESULT + 1} bytes are over {MAX_RESULT}")

    async def test_results_of_which_there_are_too_many_bytes_say_so(self) -> None:
        self.patch(service, "_RESULT_BYTES", 100)
        self.patch(service, "_RESULT_BYTES_IN_MEMORY", 100)
        pipeline = self.start(self.worker(lambda job: b"x" * 40))
        ids = [await pipeline.push(b"") for _ in range(4)]
        await self.settles(pipeline)
        for job_id in ids[2:]:
            self.assertEqual(await pipeline.result(job_id), b"x" * 40)
        for job_id in ids[:2]:
            await self.fails_with(pipeline.result(job_id), ResultGone, "newer ones took its room")
            self.assertEqual(await self.state(pipeline, job_id), "done")

    async def test_a_job_that_is_forgotten_has_had_a_result(self) -> None:
        pipeline = self.start(self.worker(lambda job: "x"), keep=0.0)
        job_id = await pipeline.push(b"")
        self.assertEqual(await pipeline.result(job_id), "x", "who waits gets it")
        await self.settles(pipeline)
        await self.fails_with(pipeline.result(job_id), ResultGone, "nothing is kept of it")

    async def test_ids_that_are_unknown_foreign_or_none_are_unknown(self) -> None:
        pipeline = self.start()
        job_id = await pipeline.push(b"")
        next_id = make_id(int(job_id[:16], 16), self.number(job_id) + 1)
        for unknown in (next_id, make_id(1, 1), job_id[:-1], "", "\N{DUCK}"):
            error = await self.assertFailure(pipeline.result(unknown), UnknownJob)
            self.assertEqual(error.job_id, unknown)

    # Waiting

    async def test_a_job_that_is_not_settled_in_time_says_what_it_is_at(self) -> None:
        pipeline, worker, _ = await self.pair(window=1)
        first, second = await pipeline.push_many([b"", b""])
        await worker.has(1)
        for timeout in (0, -1, 0.05):
            error = await self.assertFailure(pipeline.result(first, timeout), NotSettled)
            self.assertEqual(error.state, "in flight")
            self.assertIsInstance(error, TimeoutError)
            error = await self.assertFailure(pipeline.result(second, timeout), NotSettled)
            self.assertEqual((error.state, error.job_id), ("waiting", second))
        self.assertFalse(pipeline._jobs.waiting)

    async def test_a_failed_attempt_does_not_end_the_wait(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        result = pipeline.result(job_id)
        (number,) = await worker.has(1)
        self.fails(worker, session, number)
        await worker.has(2)
        self.assertNoResult(result)
        worker.say(Done(session, [number], [Json.of([2])]))
        self.assertEqual(await result, [2])

    async def test_a_job_that_dies_says_why(self) -> None:
        pipeline, worker, session = await self.pair(attempts=2)
        job_id = await pipeline.push(b"")
        result = pipeline.result(job_id)
        (number,) = await worker.has(1)
        self.fails(worker, session, number)
        await worker.has(2)
        self.fails(worker, session, number)
        for outcome in (lambda: result, lambda: pipeline.result(job_id), lambda: pipeline.result(job_id, 0)):
            error: Any = await self.assertFailure(outcome(), JobDead)
            self.assertEqual((error.error, error.attempts, error.job_id), ("ValueError: no", 2, job_id))

    async def test_a_dead_job_that_is_tried_again_has_the_result_of_its_new_life(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        (number,) = await worker.has(1)
        self.rejects(worker, session, number)
        await self.assertFailure(pipeline.result(job_id), JobDead)
        await pipeline.retry_dead(job_id)
        result = pipeline.result(job_id)
        await worker.has(2)
        self.assertNoResult(result)
        worker.say(Done(session, [number], [b"at last"]))
        self.assertEqual(await result, b"at last")

    async def test_a_dead_letter_that_was_dropped_still_says_why(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        (number,) = await worker.has(1)
        self.rejects(worker, session, number)
        await self.assertFailure(pipeline.result(job_id), JobDead)
        await pipeline.drop_dead(job_id)
        error: Any = await self.assertFailure(pipeline.result(job_id), JobDead)
        self.assertEqual(error.error, "no")

    async def test_the_first_of_two_results_of_a_job_stays(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        (number,) = await worker.has(1)
        worker.say(Done(session, [number], [b"first"]))
        worker.say(Done(session, [number], [b"second"]))
        self.assertEqual(await pipeline.result(job_id), b"first")
        await turns()
        self.assertEqual(await pipeline.result(job_id), b"first")

    async def test_the_result_of_a_worker_whose_session_was_lost_is_kept(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        (number,) = await worker.has(1)
        result = pipeline.result(job_id)
        worker.ready(session)  # it gives up the session
        later = await worker.takes_part(2)
        await worker.has(1, later)
        worker.say(Done(session, [number], ["late"]))
        self.assertEqual(await result, "late")

    async def test_a_wait_that_is_cancelled_leaves_nothing_behind(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        given_up, other = pipeline.result(job_id, LONG), pipeline.result(job_id)
        (number,) = await worker.has(1)
        given_up.cancel()
        await self.assertFailure(given_up, CancelledError)
        worker.say(Done(session, [number], ["x"]))
        self.assertEqual(await other, "x")
        self.assertFalse(pipeline._jobs.waiting)
        alone = pipeline.result(await pipeline.push(b""))
        alone.cancel()
        await self.assertFailure(alone, CancelledError)
        self.assertFalse(pipeline._jobs.waiting)

    async def test_the_same_request_again_gets_the_same_result(self) -> None:
        pipeline = self.start(self.worker(lambda job: job.id))
        first = await pipeline.push(b"body", idempotency_key="key")
        result = await pipeline.result(first)
        second = await pipeline.push(b"body", idempotency_key="key")
        self.assertEqual((await pipeline.result(second), result), (first, first))

    # The end

    async def test_who_waits_for_a_job_that_outlives_the_pipeline_is_told_so(self) -> None:
        pipeline, worker, _ = await self.pair(drain=0.05)
        job_id = await pipeline.push(b"")
        await worker.has(1)
        results = [pipeline.result(job_id), pipeline.result(job_id, LONG)]
        await pipeline.stopService()
        for result in results:
            error: Any = await self.assertFailure(result, NotSettled)
            self.assertIn(error.state, ("in flight", "waiting"))

    async def test_who_waits_while_it_drains_gets_the_result_of_what_settles(self) -> None:
        pipeline, worker, session = await self.pair(drain=LONG)
        job_id = await pipeline.push(b"")
        (number,) = await worker.has(1)
        result = pipeline.result(job_id)
        stopped = pipeline.stopService()
        worker.say(Done(session, [number], ["x"]))
        self.assertEqual(await result, "x")
        await stopped

    # What it costs

    async def test_without_anybody_who_waits_nothing_is_asked(self) -> None:
        pipeline, worker, session = await self.pair(window=100)
        asked: list[int] = []
        ask = pipeline._jobs.waiting._ask
        pipeline._jobs.waiting._ask = lambda sequence, since: asked.append(sequence) or ask(sequence, since)
        job_id, *_ = await pipeline.push_many([b""] * 100)
        result = pipeline.result(job_id)
        numbers = await worker.has(100)
        worker.say(Done(session, numbers[1:]))
        await until(lambda: pipeline.pending == 1)
        self.assertEqual(asked, [])
        worker.say(Done(session, numbers[:1]))
        self.assertIsNone(await result)
        self.assertEqual(asked, numbers[:1])


class MemoryResultTests(MemoryCase, ResultTests):
    """The same without a journal."""


class JournalResultTests(JournalCase):
    """What only a journal has to see to."""

    async def test_a_result_outlives_the_process(self) -> None:
        pipeline = self.start(self.worker(lambda job: {"of": job.body.decode()}))
        job_id = await pipeline.push(b"it")
        await pipeline.result(job_id)
        pipeline = await self.again(pipeline)
        self.assertEqual(await pipeline.result(job_id), {"of": "it"})

    async def test_a_job_of_an_earlier_start_can_be_waited_for(self) -> None:
        pipeline = self.start()
        job_id = await pipeline.push(b"it")
        pipeline = await self.again(pipeline, self.worker(lambda job: job.body))
        self.assertEqual(await pipeline.result(job_id), b"it")

    async def test_a_job_of_an_earlier_start_that_is_forgotten_has_had_a_result(self) -> None:
        pipeline = self.start(self.worker(lambda job: "x"), keep=0.0)
        job_id = await pipeline.push(b"")
        await pipeline.result(job_id)
        pipeline = await self.again(pipeline, keep=0.0)
        await self.fails_with(pipeline.result(job_id), ResultGone, "nothing is kept of it")

    async def test_nobody_is_told_before_it_is_written(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"")
        (number,) = await worker.has(1)
        result = pipeline.result(job_id)
        other = self.hold_up()
        worker.say(Done(session, [number], ["x"]))
        await until(lambda: pipeline.trouble)
        self.assertNoResult(result)
        error: Any = await self.assertFailure(pipeline.result(job_id, 0.05), NotSettled)
        self.assertEqual(error.state, "waiting", "as the file has it")
        other.execute("COMMIT")
        self.assertEqual(await result, "x")

    async def test_who_waits_for_a_job_in_the_journal_alone_gets_the_result_it_has_there(self) -> None:
        pipeline, worker, session = await self.pair(window=40)
        ids = await pipeline.push_many([b""] * 40)
        numbers = await worker.has(40)
        for number in numbers:
            self.fails(worker, session, number, delay=HOUR)
        await until(lambda: not pipeline._dispatcher.in_flight)
        results = [pipeline.result(job_id) for job_id in ids]
        worker.say(Done(session, numbers, [b"%d" % number for number in numbers]))
        self.assertEqual(await gatherResults(results), [b"%d" % number for number in numbers])

    async def test_before_it_is_open_it_says_so(self) -> None:
        pipeline = self.start(self.worker(lambda job: "x"))
        job_id = await pipeline.push(b"")
        await pipeline.result(job_id)
        await pipeline.stopService()
        await self.fails_with(pipeline.result(job_id), JournalError, "is closed")
        self.assertFalse(pipeline._jobs.waiting)


class PlainTests(MemoryCase):
    """Plain PULL sockets report nothing."""

    async def test_there_are_no_results(self) -> None:
        pull = self.by_hand()
        pipeline = self.start(pull.address, plain=True)
        self.assertTrue(pipeline.plain)
        job_id = await pipeline.push(b"x")
        await self.settles(pipeline)
        await self.fails_with(pipeline.result(job_id), ResultGone, "the workers are plain sockets here")


class ErrorTests(JournalCase):
    def test_they_are_one_tree(self) -> None:
        for kind in (UnknownJob, NotSettled, JobDead, ResultGone):
            self.assertTrue(issubclass(kind, NoResult))
        self.assertTrue(issubclass(NoResult, errors.ZpipelineError))

    def test_each_says_of_which_job(self) -> None:
        for error in (
            UnknownJob("5c2a"),
            NotSettled("5c2a", "waiting"),
            JobDead("5c2a", "KeyError", 5),
            ResultGone("5c2a", "no room"),
        ):
            self.assertIn("5c2a", str(error))
            self.assertEqual(error.job_id, "5c2a")
