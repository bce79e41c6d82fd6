"""What Pipeline promises with a journal and without: of jobs that fail, kill their workers, or come twice."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from tests.peers import HandWorker, a_while, turns, until
from tests.pipeline_kit import HOUR, LONG, JournalCase, MemoryCase
from zpipeline import dispatch, inquest, journal, protocol
from zpipeline.errors import JournalError, KeyReused, KeysFull
from zpipeline.job import DeadLetterSummary
from zpipeline.journal import opening, writer
from zpipeline.pipeline import Pipeline, service
from zpipeline.protocol import Bye, Close, Done, Hello, Ready


class RetryTests(MemoryCase):
    """A handler fails. Without a journal."""

    async def test_a_job_that_failed_is_tried_again_when_it_is_due(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"a")
        (number,) = await worker.has(1)
        self.fails(worker, session, number, delay=0.3)
        began = reactor.seconds()
        await until(lambda: not pipeline._dispatcher.in_flight)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts, status.error), ("retrying", 2, "ValueError: no"))
        await worker.has(2)
        self.assertGreaterEqual(reactor.seconds() - began, 0.25)
        self.assertEqual([list(m.attempts) for m in worker.have(protocol.Jobs)], [[1], [2]])
        worker.say(Done(session, [number]))
        await self.settles(pipeline)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts, status.error), ("done", 2, None))

    async def test_without_a_delay_of_its_own_it_waits_for_the_backoff(self) -> None:
        pipeline, worker, session = await self.pair(attempts=4, backoff=(0.01, 0.02))
        job_id = await pipeline.push(b"a")
        for attempt in range(1, 5):
            (number,) = {*(await worker.has(attempt))}
            self.fails(worker, session, number, delay=protocol.NO_DELAY)
        await self.settles(pipeline)
        self.assertEqual([list(m.attempts) for m in worker.have(protocol.Jobs)], [[1], [2], [3], [4]])
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts, status.error), ("dead", 4, "ValueError: no"))

    async def test_the_delay_that_is_asked_for_takes_the_place_of_the_backoff(self) -> None:
        pipeline, worker, session = await self.pair(backoff=(0.0, 0.0))
        job_id = await pipeline.push(b"a")
        (number,) = await worker.has(1)
        self.fails(worker, session, number, delay=HOUR)
        await until(lambda: not pipeline._dispatcher.in_flight)
        await a_while(0.1)
        self.assertEqual((await self.state(pipeline, job_id), len(worker.sequences())), ("retrying", 1))

    async def test_a_job_that_is_rejected_is_dead_at_once(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"a")
        (number,) = await worker.has(1)
        self.rejects(worker, session, number, "spoilt")
        await self.settles(pipeline)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.attempts, status.error), ("dead", 1, "spoilt"))
        self.assertTrue(status.settled_at)

    async def test_a_retry_waits_for_a_worker_as_others_do_and_goes_before_them(self) -> None:
        pipeline, worker, session = await self.pair(window=1)
        await pipeline.push_many([b"1", b"2", b"3"])
        (first,) = await worker.has(1)
        self.fails(worker, session, first, delay=0.05)
        second = (await worker.has(2))[1]
        await a_while(0.1)
        worker.say(Done(session, [second]))
        self.assertEqual((await worker.has(3))[2], first)


class JournalRetryTests(RetryTests):
    """A handler fails. With a journal."""

    def setUp(self) -> None:
        JournalCase.setUp(self)

    async def test_what_waits_for_its_next_attempt_does_so_across_a_restart(self) -> None:
        pipeline, worker, session = await self.pair(window=2, attempts=3)
        soon, late = await pipeline.push_many([b"soon", b"late"])
        await worker.has(2)
        self.fails(worker, session, self.number(soon), delay=1.0)
        self.fails(worker, session, self.number(late), delay=HOUR)
        await until(lambda: not pipeline._dispatcher.in_flight)
        began = reactor.seconds()
        pipeline = await self.again(pipeline, worker, window=2, attempts=3)
        session = await worker.takes_part(2)
        self.assertEqual(await worker.has(1, session), [self.number(soon)])
        self.assertGreaterEqual(reactor.seconds() - began, 0.5)
        self.assertEqual(list(worker.have(protocol.Jobs)[-1].attempts), [2])
        status = await self.status(pipeline, late)
        self.assertEqual((status.state, status.attempts, status.error), ("retrying", 2, "ValueError: no"))
        self.fails(worker, session, self.number(soon))
        await worker.has(2, session)
        self.fails(worker, session, self.number(soon))
        await until(lambda: pipeline.pending == 1)
        self.assertEqual(await self.state(pipeline, soon), "dead", "three attempts, before and after")


class DeadLetterTests(MemoryCase):
    """Jobs that are dead, and what can be done about them. Without a journal."""

    async def dead(self, pipeline: Pipeline, worker: HandWorker, session: int, **errors: str) -> dict[str, str]:
        """Push jobs with these names for bodies, and have them die of these errors: their ids by name."""
        ids = await pipeline.push_many([name.encode() for name in errors], {"A": "b"})
        numbers = [self.number(job_id) for job_id in ids]
        await until(lambda: set(numbers) <= set(worker.sequences(session)))
        for number, error in zip(numbers, errors.values(), strict=True):
            self.rejects(worker, session, number, error)
        await self.settles(pipeline)
        return dict(zip(errors, ids, strict=True))

    async def again_alive(self, worker: HandWorker, session: int, before: int, *job_ids: str) -> None:
        """These go out again, all of them, as if for the first time."""
        numbers = [self.number(job_id) for job_id in job_ids]
        came = (await worker.has(before + len(numbers), session))[before:]
        self.assertEqual(sorted(came), sorted(numbers))
        attempts = [attempt for m in worker.have(protocol.Jobs) if m.session == session for attempt in m.attempts]
        self.assertEqual(attempts[before:], [1] * len(numbers))

    async def names(self, pipeline: Pipeline) -> list[str]:
        return [letter.id for letter in await pipeline.dead_letters()]

    async def test_they_are_listed_in_order_by_the_page(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = list((await self.dead(pipeline, worker, session, a="1", b="2", c="3")).values())
        self.assertEqual(await self.names(pipeline), ids)
        page = await pipeline.dead_letters(most=2)
        self.assertEqual([letter.id for letter in page], ids[:2])
        page = await pipeline.dead_letters(after=ids[1], most=2)
        self.assertEqual([letter.id for letter in page], ids[2:])

    async def test_one_tells_all_about_it(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, body="spoilt")
        letter = await pipeline.dead_letter(ids["body"])
        assert letter is not None
        status = await self.status(pipeline, ids["body"])
        assert status.settled_at is not None
        summary = DeadLetterSummary(
            ids["body"], status.accepted_at, status.settled_at, 1, 0, "by hand", "spoilt", len(b"body")
        )
        self.assertEqual(letter.summary, summary)
        self.assertEqual(await pipeline.dead_letters(), [summary])
        self.assertEqual((letter.body, dict(letter.headers)), (b"body", {"a": "b"}))
        self.assertEqual(letter.traceback, "Traceback of it")

    async def test_one_is_tried_again(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="1", b="2")
        self.assertIs(await pipeline.retry_dead(ids["a"]), True)
        await self.again_alive(worker, session, 2, ids["a"])
        self.assertEqual((pipeline.pending, await self.names(pipeline)), (1, [ids["b"]]))
        status = await self.status(pipeline, ids["a"])
        self.assertEqual((status.state, status.attempts, status.error), ("in flight", 1, None))
        worker.say(Done(session, [self.number(ids["a"])]))
        await self.settles(pipeline)
        self.assertEqual(await self.state(pipeline, ids["a"]), "done")

    async def test_all_are_tried_again(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="1", b="2", c="3")
        self.assertEqual(await pipeline.retry_all_dead(), 3)
        await self.again_alive(worker, session, 3, *ids.values())
        self.assertEqual((pipeline.pending, await self.names(pipeline)), (3, []))

    async def test_those_of_one_handler_are_tried_again(self) -> None:
        one, two = self.by_hand(), self.by_hand()
        pipeline = self.start(one, two, window=1)
        sessions = [await one.takes_part(), (await two.gets(Hello)).session]
        two.say(Ready(sessions[1], 1, 1, "here", 1, "resize", "0"))
        await until(lambda: pipeline.ready_workers == 2)
        await pipeline.push_many([b"1", b"2"])
        (mine,), (theirs,) = await one.has(1), await two.has(1)
        self.rejects(one, sessions[0], mine)
        self.rejects(two, sessions[1], theirs)
        await self.settles(pipeline)
        self.assertEqual({letter.handler for letter in await pipeline.dead_letters()}, {"by hand", "resize"})
        self.assertEqual(await pipeline.retry_all_dead(handler="nobody"), 0)
        self.assertEqual(await pipeline.retry_all_dead(handler="resize"), 1)
        (left,) = await self.names(pipeline)
        self.assertEqual(self.number(left), mine)

    async def test_those_of_one_error_are_tried_again(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="disk full", b="no route", c="the disk is full")
        self.assertEqual(await pipeline.retry_all_dead(error="disk"), 2)
        await self.again_alive(worker, session, 3, ids["a"], ids["c"])
        self.assertEqual(await self.names(pipeline), [ids["b"]])

    async def test_one_is_dropped(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="1", b="2")
        self.assertIs(await pipeline.drop_dead(ids["a"]), True)
        self.assertIs(await pipeline.drop_dead(ids["a"]), False)
        self.assertEqual(await self.names(pipeline), [ids["b"]])
        self.assertIsNone(await pipeline.dead_letter(ids["a"]))
        self.assertIs(await pipeline.retry_dead(ids["a"]), False)

    async def test_one_that_dies_again_is_a_dead_letter_again(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="1")
        await pipeline.retry_dead(ids["a"])
        await worker.has(2)
        self.rejects(worker, session, self.number(ids["a"]), "2")
        await self.settles(pipeline)
        self.assertEqual([letter.error for letter in await pipeline.dead_letters()], ["2"])

    async def test_what_is_no_dead_letter_is_none(self) -> None:
        pipeline = self.start()
        alive = await pipeline.push(b"a")
        foreign = f"{int(alive[:16], 16) ^ 1:016x}{alive[16:]}"
        for wrong in (alive, foreign, "", "g" * 32, f"{alive[:16]}{'f' * 16}"):
            self.assertIsNone(await pipeline.dead_letter(wrong), wrong)
            self.assertIs(await pipeline.retry_dead(wrong), False, wrong)
            self.assertIs(await pipeline.drop_dead(wrong), False, wrong)
        self.assertEqual(pipeline.pending, 1)


class JournalDeadLetterTests(DeadLetterTests):
    """Jobs that are dead, and what can be done about them. With a journal."""

    def setUp(self) -> None:
        JournalCase.setUp(self)

    async def test_they_are_there_after_a_restart_and_for_ever(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="1", b="2")
        before = [await pipeline.dead_letter(job_id) for job_id in ids.values()]
        pipeline = await self.again(pipeline, worker, keep=0.0)
        self.assertEqual([await pipeline.dead_letter(job_id) for job_id in ids.values()], before)
        self.assertEqual(await self.state(pipeline, ids["a"]), "dead")
        await pipeline.retry_dead(ids["b"])
        session = await worker.takes_part(2)
        await self.again_alive(worker, session, 0, ids["b"])

    async def test_more_than_go_into_one_transaction_are_tried_again(self) -> None:
        self.patch(journal, "_REVIVED", 2)
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="1", b="2", c="1", d="1", e="1")
        self.assertEqual(await pipeline.retry_all_dead(error="1"), 4)
        await self.again_alive(worker, session, 5, *(ids[name] for name in "acde"))
        self.assertEqual((pipeline.pending, await self.names(pipeline)), (4, [ids["b"]]))

    async def test_one_that_is_to_be_tried_again_is_so_after_a_restart(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        ids = await self.dead(pipeline, worker, session, a="1")
        worker.say(Bye(session))
        await worker.gets(Close)
        await pipeline.retry_dead(ids["a"])
        pipeline = await self.again(pipeline, worker)
        self.assertEqual((pipeline.pending, await self.names(pipeline)), (1, []))
        session = await worker.takes_part(2)
        await self.again_alive(worker, session, 0, ids["a"])


class KeyTests(MemoryCase):
    """The same key is the same job. Without a journal."""

    async def test_the_same_request_is_the_same_job(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        job_id = await pipeline.push(b"a", {"x": "1"}, idempotency_key="k")
        self.assertEqual(await pipeline.push(b"a", {"x": "2"}, idempotency_key="k"), job_id)
        self.assertEqual(pipeline.pending, 1)
        worker.say(Done(session, await worker.has(1)))
        await self.settles(pipeline)
        self.assertEqual(await pipeline.push(b"a", idempotency_key="k"), job_id, "settled or not")
        self.assertNotEqual(await pipeline.push(b"a", idempotency_key="other"), job_id)
        self.assertNotEqual(await pipeline.push(b"a"), job_id)
        self.assertEqual(len(await worker.has(3)), 3)

    async def test_two_requests_at_once_are_one_job(self) -> None:
        pipeline, worker, _ = await self.pair(window=10)
        both = [pipeline.push(b"a", idempotency_key="k") for _ in range(2)]
        one, other = await gatherResults(both)
        self.assertEqual((one, pipeline.pending), (other, 1))
        await worker.has(1)
        await turns()
        self.assertEqual(worker.sequences(), [self.number(one)])

    async def test_another_request_with_the_same_key_is_refused(self) -> None:
        pipeline = self.start()
        about = {"content-type": "text/plain", "zpipe-path": "/"}
        await pipeline.push(b"a", about, idempotency_key="k")
        for body, headers in (
            (b"b", about),
            (b"a", {**about, "content-type": "x"}),
            (b"a", {**about, "zpipe-path": "x"}),
        ):
            await self.fails_with(
                pipeline.push(body, headers, idempotency_key="k"), KeyReused, "'k' was that of another"
            )
        self.assertEqual(pipeline.pending, 1)

    async def test_a_full_store_takes_no_new_key_and_forgets_none(self) -> None:
        self.patch(service, "_KEPT", 2)
        self.patch(service, "_KEPT_IN_MEMORY", 2)
        pipeline = self.start()
        ids = [await pipeline.push(b"a", idempotency_key=key) for key in ("1", "2")]
        await self.fails_with(pipeline.push(b"a", idempotency_key="3"), KeysFull, "2 idempotency keys are kept")
        self.assertEqual([await pipeline.push(b"a", idempotency_key=key) for key in ("1", "2")], ids)
        self.assertEqual(pipeline.pending, 2)

    async def test_a_key_is_forgotten_some_time_after_its_job_was_settled(self) -> None:
        pipeline, worker, session = await self.pair(keep=0.0)
        job_id = await pipeline.push(b"a", idempotency_key="k")
        await a_while(0.05)
        self.assertEqual(await pipeline.push(b"a", idempotency_key="k"), job_id, "not before it is settled")
        worker.say(Done(session, await worker.has(1)))
        await self.settles(pipeline)
        await a_while(0.01)
        self.assertNotEqual(await pipeline.push(b"b", idempotency_key="k"), job_id)


class JournalKeyTests(KeyTests):
    """The same key is the same job. With a journal."""

    def setUp(self) -> None:
        JournalCase.setUp(self)

    async def test_it_is_so_after_a_restart(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        done = await pipeline.push(b"done", idempotency_key="done")
        worker.say(Done(session, await worker.has(1)))
        await self.settles(pipeline)
        waiting = await pipeline.push(b"waiting", idempotency_key="waiting")
        pipeline = await self.again(pipeline)
        self.assertEqual(await pipeline.push(b"done", idempotency_key="done"), done)
        self.assertEqual(await pipeline.push(b"waiting", idempotency_key="waiting"), waiting)
        await self.fails_with(pipeline.push(b"x", idempotency_key="done"), KeyReused, "'done' was that of another")
        self.assertEqual(pipeline.pending, 1)

    async def test_a_key_whose_job_could_not_be_written_is_free(self) -> None:
        self.patch(opening, "PATIENCE", 0.05)
        self.patch(writer, "RETRY_SECONDS", 0.05)
        pipeline = self.start()
        other = self.hold_up()
        await self.fails_with(pipeline.push(b"a", idempotency_key="k"), JournalError, "")
        other.execute("COMMIT")
        await until(lambda: pipeline.accepting)
        job_id = await pipeline.push(b"b", idempotency_key="k")
        self.assertEqual(self.read("SELECT sequence FROM jobs"), [(self.number(job_id),)])


class DeathTests(MemoryCase):
    """Workers whose processes die. Without a journal."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(dispatch, "STRIKE_REST", 0.0)
        self.patch(inquest, "PATIENCE", LONG)

    async def dies(self, worker: HandWorker) -> None:
        """Its process is gone, and its port is closed; then there is another process."""
        lost = len(self.log_lines("go to other workers"))
        worker.unbind()
        await until(lambda: len(self.log_lines("go to other workers")) > lost)
        await until(lambda: not self.awaits_verdict, "there is a verdict")
        await worker.bind_again()
        worker.incarnation += 1

    @property
    def awaits_verdict(self) -> bool:
        return bool(self.pipeline._sessions._inquests)

    async def begin(self, **options: Any) -> tuple[HandWorker, int]:
        self.pipeline, worker, session = await self.pair(**options)
        return worker, session

    async def killed(self, **options: Any) -> tuple[HandWorker, str, str]:
        """A worker has died with two jobs, and then twice with the first alone: the worker, and the two."""
        worker, _ = await self.begin(window=10, **options)
        poison, beside = await self.pipeline.push_many([b"poison", b"beside"])
        await worker.has(2)
        await self.dies(worker)
        self.assertIsNone((await self.status(self.pipeline, poison)).error, "it was not alone")
        for strike in (1, 2):
            session = await worker.takes_part(1 + strike)
            self.assertEqual(await worker.has(1, session), [self.number(poison)])
            await turns()
            self.assertEqual(len(worker.sequences(session)), 1, "it is alone")
            await self.dies(worker)
            status = await self.status(self.pipeline, poison)
            self.assertEqual(status.error, f"worker processes that died while it was there alone: {strike}")
        return worker, poison, beside

    async def dies_at_last(self, worker: HandWorker, poison: str, beside: str) -> None:
        session = await worker.takes_part(len(worker.have(Hello)) + 1)
        self.assertEqual(await worker.has(1, session), [self.number(poison)])
        await self.dies(worker)
        letter = await self.pipeline.dead_letter(poison)
        assert letter is not None
        self.assertEqual((letter.summary.strikes, letter.summary.attempts, letter.summary.handler), (3, 1, "by hand"))
        self.assertEqual(letter.summary.error, "worker processes that died while it was there alone: 3")
        session = await worker.takes_part(len(worker.have(Hello)) + 1)
        self.assertEqual(await worker.has(1, session), [self.number(beside)])
        entry = self.pipeline._dispatcher.entry(self.number(beside))
        assert entry is not None
        self.assertEqual((entry.strikes, entry.attempt, entry.error), (0, 1, None))
        worker.say(Done(session, [self.number(beside)]))
        await self.settles(self.pipeline)
        self.assertEqual(await self.state(self.pipeline, beside), "done")

    async def test_a_job_that_kills_three_processes_is_a_dead_letter_and_the_one_beside_it_runs(self) -> None:
        await self.dies_at_last(*await self.killed())

    async def test_another_process_that_says_ready_is_proof_as_well(self) -> None:
        worker, session = await self.begin()
        job_id = await self.pipeline.push(b"1")
        await worker.has(1)
        self.pipeline._sessions._open[session].give_up("the network is down")
        worker.incarnation += 1
        again = await worker.takes_part(2)
        await worker.has(1, again)
        error = (await self.status(self.pipeline, job_id)).error
        self.assertEqual(error, "worker processes that died while it was there alone: 1")

    async def test_the_same_process_that_says_ready_again_has_not_died(self) -> None:
        worker, session = await self.begin(window=10)
        ids = await self.pipeline.push_many([b"1", b"2"])
        await worker.has(2)
        self.pipeline._sessions._open[session].give_up("the network is down")
        again = await worker.takes_part(2)
        self.assertEqual(await worker.has(2, again), [self.number(job_id) for job_id in ids])
        self.assertEqual(len([m for m in worker.have(protocol.Jobs) if m.session == again]), 1, "both at once")

    async def test_a_worker_that_was_leaving_is_not_suspected(self) -> None:
        worker, session = await self.begin(window=10)
        job_id = await self.pipeline.push(b"1")
        await worker.has(1)
        worker.say(Bye(session))
        await until(lambda: not self.pipeline.ready_workers)
        await self.dies(worker)
        again = await worker.takes_part(2)
        await worker.has(1, again)
        self.assertIsNone((await self.status(self.pipeline, job_id)).error)

    async def test_while_it_is_found_out_jobs_flow_on_the_other_workers(self) -> None:
        one, two, three = (self.by_hand() for _ in range(3))
        self.pipeline = pipeline = self.start(one, two, three, window=2)
        await one.takes_part()
        sessions = [await two.takes_part(), await three.takes_part()]
        await until(lambda: pipeline.ready_workers == 3)
        await pipeline.push_many([b""] * 6)
        suspects = await one.has(2)
        for worker, session in zip((two, three), sessions, strict=True):
            worker.say(Done(session, await worker.has(2)))
        await until(lambda: pipeline.pending == 2)
        await self.dies(one)
        await until(lambda: len(two.sequences()) + len(three.sequences()) == 5)
        with_suspect, other = (two, three) if len(two.sequences()) == 3 else (three, two)
        self.assertEqual(with_suspect.sequences()[2:], suspects[:1], "one alone on one of two workers")
        ordinary = [self.number(job_id) for job_id in await pipeline.push_many([b""] * 4)]
        self.assertEqual((await other.has(4))[2:], ordinary[:2])
        other.say(Done(sessions[(two, three).index(other)], ordinary[:2]))
        self.assertEqual((await other.has(6))[4:], ordinary[2:])
        self.assertEqual(len(with_suspect.sequences()), 3)


class JournalDeathTests(DeathTests):
    """Workers whose processes die. With a journal."""

    def setUp(self) -> None:
        JournalCase.setUp(self)
        self.patch(dispatch, "STRIKE_REST", 0.0)
        self.patch(inquest, "PATIENCE", LONG)

    async def test_strikes_outlive_a_restart(self) -> None:
        worker, poison, beside = await self.killed()
        self.pipeline = await self.again(self.pipeline, worker, window=10)
        await self.dies_at_last(worker, poison, beside)


class TimeoutTests(MemoryCase):
    """Workers that are held up by a handler. Without a journal."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(dispatch, "GRACE", 0.2)

    async def test_hello_tells_the_timeout(self) -> None:
        for timeout in (None, 7.5):
            worker = self.by_hand()
            self.start(worker, timeout=timeout, journal=None)
            self.assertEqual((await worker.gets(Hello)).timeout, timeout)

    async def test_a_worker_that_reports_nothing_in_time_is_given_up_and_its_job_has_failed(self) -> None:
        pipeline, worker, _ = await self.pair(timeout=0.2, attempts=2, backoff=(0.0, 0.0))
        began = reactor.seconds()
        job_id = await pipeline.push(b"1")
        await worker.has(1)
        again = await worker.takes_part(2)
        self.assertGreaterEqual(reactor.seconds() - began, 0.39)
        self.assertTrue(self.log_lines("has reported nothing for 0.2 seconds"))
        await worker.has(1, again)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.attempts, status.error), (2, "timed out: the handler holds up its worker"))
        await self.settles(pipeline)  # the second attempt ends so, too
        self.assertEqual(await self.state(pipeline, job_id), "dead")

    async def test_of_several_jobs_each_is_tried_alone(self) -> None:
        pipeline, worker, session = await self.pair(window=10, timeout=0.5)
        ids = await pipeline.push_many([b"1", b"2", b"3"])
        numbers = await worker.has(3)
        worker.say(Done(session, numbers[:1]))
        session = await worker.takes_part(2)
        for count, number in enumerate(numbers[1:], 1):
            self.assertEqual((await worker.has(count, session))[count - 1 :], [number])
            worker.say(Done(session, [number]))
        await self.settles(pipeline)
        states = [await self.status(pipeline, job_id) for job_id in ids]
        self.assertEqual([(state.state, state.attempts) for state in states], [("done", 1)] * 3)

    async def test_a_worker_that_goes_on_reporting_is_not_given_up(self) -> None:
        self.patch(dispatch, "GRACE", 2.0)
        pipeline, worker, session = await self.pair(window=100, timeout=1.0)
        await pipeline.push_many([b""] * 20)
        numbers = await worker.has(20)
        for number in numbers:
            await a_while(0.2)  # four seconds together, and less than three between two
            worker.say(Done(session, [number]))
        await self.settles(pipeline)
        self.assertEqual(len(worker.have(Hello)), 1)


class JournalTimeoutTests(TimeoutTests):
    """Workers that are held up by a handler. With a journal."""

    def setUp(self) -> None:
        JournalCase.setUp(self)
        self.patch(dispatch, "GRACE", 0.2)
