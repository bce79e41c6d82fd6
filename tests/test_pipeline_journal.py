"""Pipeline on a journal: real files, and workers that a test plays by hand."""

from __future__ import annotations

import os

from twisted.internet.defer import CancelledError, gatherResults

from tests.peers import a_while, turns, until
from tests.pipeline_kit import HOUR, LONG, JournalCase
from zpipeline import protocol, retries
from zpipeline.errors import Full, JournalError, TooLarge, UsageError
from zpipeline.journal import opening, writer
from zpipeline.pipeline import jobs
from zpipeline.protocol import Close, Done, Hello, Returned


class CommitTests(JournalCase):
    """A job is accepted, and handed out, when it is in the journal, and not before."""

    async def test_push_fires_and_the_job_is_handed_out_after_the_commit_only(self) -> None:
        self.patch(opening, "PATIENCE", LONG)
        pipeline, worker, _ = await self.pair()
        other = self.hold_up()
        outcome = pipeline.push(b"a")
        await a_while(0.3)
        self.assertNoResult(outcome)
        self.assertEqual(worker.sequences(), [])
        self.assertEqual(pipeline.pending, 1, "it counts against the bound already")
        other.execute("COMMIT")
        job_id = await outcome
        self.assertEqual(self.read("SELECT sequence, body FROM jobs"), [(self.number(job_id), b"a")])
        self.assertEqual(await worker.has(1), [self.number(job_id)])

    async def test_a_deferred_that_is_cancelled_does_not_withdraw_the_job(self) -> None:
        self.patch(opening, "PATIENCE", LONG)
        pipeline, worker, _ = await self.pair()
        other = self.hold_up()
        outcome = pipeline.push(b"a")
        outcome.cancel()
        self.failureResultOf(outcome, CancelledError)
        self.assertEqual(worker.sequences(), [])
        other.execute("COMMIT")
        await worker.has(1)
        self.assertEqual(pipeline.pending, 1)

    async def test_one_that_is_cancelled_and_then_cannot_be_written_is_no_trouble(self) -> None:
        self.patch(opening, "PATIENCE", 0.05)
        pipeline = self.start()
        self.hold_up()
        outcome = pipeline.push(b"a")
        outcome.cancel()
        self.failureResultOf(outcome, CancelledError)
        await until(lambda: pipeline.trouble)
        await until(lambda: not pipeline.pending)

    async def test_push_many_is_all_or_none(self) -> None:
        self.patch(opening, "PATIENCE", 0.05)
        self.patch(writer, "RETRY_SECONDS", 0.05)
        pipeline = self.start(max_pending=10, max_body=5)
        other = self.hold_up()
        await self.fails_with(pipeline.push_many([b"1", b"2"]), JournalError, "another program holds it")
        other.execute("COMMIT")
        await until(lambda: pipeline.accepting)
        await self.fails_with(pipeline.push_many([b"1"] * 11), Full, "0 jobs are unsettled, and 10 may be")
        await self.fails_with(pipeline.push_many([b"1", b"123456"]), TooLarge, "a body of 6 bytes")
        self.assertEqual(self.read("SELECT count(*) FROM jobs"), [(0,)])
        self.assertEqual(pipeline.pending, 0)
        ids = await pipeline.push_many([b"%d" % n for n in range(10)], {"A": "b"})
        rows = self.read("SELECT sequence, body, headers FROM jobs ORDER BY sequence")
        self.assertEqual(rows, [(self.number(ids[n]), b"%d" % n, b'{"a":"b"}') for n in range(10)])

    async def test_push_many_of_nothing_is_nothing(self) -> None:
        pipeline = self.start()
        self.assertEqual(await pipeline.push_many([]), [])
        self.assertEqual((pipeline.pending, len(await pipeline.push_many([b"1"]))), (0, 1))

    async def test_what_is_pushed_at_once_is_accepted_in_order(self) -> None:
        pipeline, worker, _ = await self.pair(window=50)
        ids = await gatherResults([pipeline.push(b"") for _ in range(20)])
        self.assertEqual(ids, sorted(set(ids)))
        self.assertEqual(await worker.has(20), [self.number(job_id) for job_id in ids])

    async def test_a_bound_on_bytes_counts_what_is_in_the_journal(self) -> None:
        pipeline = self.start(max_pending_bytes=10)
        await pipeline.push(b"1234567")
        pipeline = await self.again(pipeline, max_pending_bytes=10)
        await self.fails_with(pipeline.push(b"1234"), Full, "unsettled jobs hold 7 bytes, and may hold 10")

    async def test_before_it_is_open_nothing_is_accepted(self) -> None:
        await self.fails_with(self.make().push(b""), JournalError, f"the journal {self.path} is closed")


class PagingTests(JournalCase):
    """More jobs than are in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(jobs, "MOST", 10)
        self.patch(retries, "MOST", 10)

    async def test_all_run_in_order_and_no_more_than_a_page_is_in_memory(self) -> None:
        pipeline, worker, session = await self.pair(window=1)
        most = 0
        ids: list[str] = []
        for _ in range(5):
            ids += await pipeline.push_many([b""] * 15)
            ids.append(await pipeline.push(b""))
        for count in range(1, 81):
            number = (await worker.has(count))[-1]
            worker.say(Done(session, [number]))
            most = max(most, len(pipeline._dispatcher._entries))
            if count % 20 == 0 and count < 80:
                ids.append(await pipeline.push(b""))  # they go on coming meanwhile
        for count in range(81, 84):
            worker.say(Done(session, [(await worker.has(count))[-1]]))
        await self.settles(pipeline)
        self.assertEqual(worker.sequences(), [self.number(job_id) for job_id in ids])
        self.assertLessEqual(most, 11, "a page, and what is in flight")
        self.assertEqual([await self.state(pipeline, job_id) for job_id in ids], ["done"] * 83)
        self.assertEqual(self.read("SELECT count(*) FROM jobs"), [(0,)])

    async def test_what_waits_in_the_journal_alone_has_a_status(self) -> None:
        pipeline = self.start()
        ids = await pipeline.push_many([b""] * 30)
        states = [await self.status(pipeline, job_id) for job_id in ids]
        self.assertEqual([state.state for state in states], ["waiting"] * 30)
        self.assertEqual([state.id for state in states], ids)

    async def test_what_was_run_while_nobody_waited_is_settled_though_it_is_not_in_memory(self) -> None:
        pipeline, worker, session = await self.pair(window=40)
        await pipeline.push_many([b""] * 40)
        numbers = await worker.has(40)
        pipeline = await self.again(pipeline, worker, window=1)
        session = await worker.takes_part(2)
        await worker.has(1, session)
        self.assertLessEqual(len(pipeline._dispatcher._entries), 10)
        worker.say(Done(session, numbers[:39]))
        self.assertEqual(await worker.has(2, session), [numbers[0], numbers[39]])
        await until(lambda: pipeline.pending == 1)
        status = await self.status(pipeline, f"{pipeline._jobs.ventilator:016x}{numbers[30]:016x}")
        self.assertEqual(status.state, "done")
        worker.say(Done(session, numbers))
        await self.settles(pipeline)
        pipeline = await self.again(pipeline)
        self.assertEqual(pipeline.pending, 0)

    async def test_retries_beyond_a_page_are_all_made(self) -> None:
        pipeline, worker, session = await self.pair(window=50)
        await pipeline.push_many([b""] * 50)
        numbers = await worker.has(50)
        for number in numbers:
            self.fails(worker, session, number, delay=0.3)
        await until(lambda: not pipeline._dispatcher.in_flight)
        self.assertLessEqual(len(pipeline._dispatcher._entries), 11)
        again = (await worker.has(100))[50:]
        self.assertEqual(sorted(again), numbers)
        worker.say(Done(session, numbers))
        await self.settles(pipeline)
        self.assertEqual(len(worker.sequences()), 100)

    async def test_done_settles_what_waits_for_another_attempt_in_the_journal_alone(self) -> None:
        pipeline, worker, session = await self.pair(window=30)
        ids = await pipeline.push_many([b""] * 30)
        numbers = await worker.has(30)
        for number in numbers:
            self.fails(worker, session, number, delay=HOUR)
        await until(lambda: not pipeline._dispatcher.in_flight)
        self.assertEqual({await self.state(pipeline, job_id) for job_id in ids}, {"retrying"})
        worker.say(Done(session, numbers))
        await self.settles(pipeline)
        self.assertEqual({await self.state(pipeline, job_id) for job_id in ids}, {"done"})

    async def test_a_number_that_no_job_has_breaks_the_protocol_and_wedges_nothing(self) -> None:
        pipeline, worker, session = await self.pair(window=5)
        await pipeline.push_many([b""] * 40)
        await worker.has(5)
        for wrong in ((1 << 63,), (1 << 63, 12345), ((1 << 64) - 1,), (pipeline._jobs._newest + 1,)):
            worker.say(Done(session, wrong))
            worker.say(Returned(session, wrong))
        await until(lambda: pipeline.bad_messages == 8)
        self.assertIn("none of so high a number was accepted here", self.log_lines("the sink drops a message")[0])
        await pipeline.push(b"")
        worker.say(Done(session, worker.sequences()))
        await until(lambda: self.read("SELECT count(*) FROM settled")[0][0] == 5)
        self.assertEqual((pipeline.trouble, pipeline.pending), (None, 36))


class RestartTests(JournalCase):
    """Another pipeline on the same journal."""

    async def test_what_was_unsettled_runs_and_what_was_settled_does_not(self) -> None:
        pipeline, worker, session = await self.pair(window=4)
        ids = await pipeline.push_many([b"%d" % n for n in range(6)], {"a": "b"})
        numbers = await worker.has(4)
        worker.say(Done(session, numbers[:2]))
        self.rejects(worker, session, numbers[2])
        await worker.has(6)
        await until(lambda: pipeline.pending == 3)
        pipeline = await self.again(pipeline, worker, window=10)
        self.assertEqual(pipeline.pending, 3)
        self.assertEqual(len(self.log_lines("3 jobs of the journal are not settled yet")), 1)
        session = await worker.takes_part(2)
        left = [self.number(job_id) for job_id in ids[3:]]
        self.assertEqual(await worker.has(3, session), left)
        (jobs_again,) = [m for m in worker.have(protocol.Jobs) if m.session == session]
        self.assertEqual(list(jobs_again.bodies), [b"3", b"4", b"5"])
        self.assertEqual([dict(h) for h in jobs_again.headers], [{"a": "b"}] * 3)
        worker.say(Done(session, left))
        await self.settles(pipeline)
        states = [await self.state(pipeline, job_id) for job_id in ids]
        self.assertEqual(states, ["done", "done", "dead", "done", "done", "done"])
        self.assertEqual(worker.sequences(session), left)

    async def test_ids_are_never_used_again_and_sort_by_acceptance(self) -> None:
        pipeline = self.start(self.worker())
        ids = await pipeline.push_many([b""] * 3)
        await self.settles(pipeline)  # an empty journal may not begin anew
        for _ in range(3):
            pipeline = await self.again(pipeline)
            ids += [await pipeline.push(b""), await pipeline.push(b"")]
        self.assertEqual(ids, sorted(set(ids)))
        self.assertEqual(len({job_id[:16] for job_id in ids}), 1, "one ventilator")
        self.assertIsNotNone(await pipeline.job(ids[0]))

    async def test_a_later_start_is_a_newer_generation_of_the_same_ventilator(self) -> None:
        pipeline, worker, _ = await self.pair()
        await self.again(pipeline, worker)
        second = await worker.gets(Hello, 2)
        first = worker.have(Hello)[0]
        self.assertEqual(first.ventilator, second.ventilator)
        self.assertGreater(second.generation, first.generation)

    async def test_it_can_be_started_again_itself(self) -> None:
        pipeline, worker, session = await self.pair(window=1)
        ids = await pipeline.push_many([b"1", b"2"])
        worker.say(Done(session, await worker.has(1)))
        await worker.has(2)
        await pipeline.stopService()
        await self.fails_with(pipeline.job(ids[0]), JournalError, "is closed")
        pipeline.startService()
        self.assertEqual((pipeline.pending, pipeline.accepting), (1, True))
        session = await worker.takes_part(2)
        self.assertEqual(await worker.has(1, session), [self.number(ids[1])])
        ids.append(await pipeline.push(b"3"))
        worker.say(Done(session, await worker.has(1, session)))
        worker.say(Done(session, (await worker.has(2, session))[1:]))
        await self.settles(pipeline)
        self.assertEqual([await self.state(pipeline, job_id) for job_id in ids], ["done"] * 3)
        self.assertEqual(ids, sorted(set(ids)))

    async def test_what_is_settled_is_forgotten_after_a_while(self) -> None:
        pipeline = self.start(self.worker(), keep=HOUR)
        job_id = await pipeline.push(b"")
        await self.settles(pipeline)
        pipeline = await self.again(pipeline, keep=HOUR)
        self.assertEqual(await self.state(pipeline, job_id), "done")
        pipeline = await self.again(pipeline, keep=0.0)
        self.assertIsNone(await pipeline.job(job_id))


class TroubleTests(JournalCase):
    """The journal cannot be written for a while."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(opening, "PATIENCE", 0.05)
        self.patch(writer, "RETRY_SECONDS", 0.05)

    async def test_nothing_is_accepted_it_says_why_and_it_recovers(self) -> None:
        pipeline, worker, _ = await self.pair(window=10)
        self.assertIsNone(pipeline.trouble)
        other = self.hold_up()
        error = await self.fails_with(pipeline.push(b"a"), JournalError, f"the journal {self.path}: another program")
        self.assertEqual(pipeline.trouble, str(error))
        self.assertFalse(pipeline.accepting)
        self.assertEqual((pipeline.pending, worker.sequences()), (0, []))
        other.execute("COMMIT")
        await until(lambda: pipeline.accepting, "it recovers by itself")
        self.assertIsNone(pipeline.trouble)
        job_id = await pipeline.push(b"b")
        self.assertEqual(await worker.has(1), [self.number(job_id)])
        self.assertEqual(len(self.log_lines("nothing is accepted until it can be written")), 1)
        await until(lambda: self.log_lines(f"the journal {self.path} is written again"))

    async def test_what_happens_meanwhile_is_written_afterwards(self) -> None:
        pipeline, worker, session = await self.pair(window=3)
        ids = await pipeline.push_many([b"done", b"dead", b"retried"])
        done, dead, retried = await worker.has(3)
        other = self.hold_up()
        worker.say(Done(session, [done]))
        self.rejects(worker, session, dead)
        self.fails(worker, session, retried, delay=HOUR)
        await until(lambda: pipeline.pending == 1)
        await until(lambda: pipeline.trouble)
        self.assertEqual(await self.state(pipeline, ids[0]), "waiting", "not as the file stands")
        self.assertEqual(self.read("SELECT count(*) FROM jobs WHERE due IS NULL"), [(3,)])
        other.execute("COMMIT")
        await until(lambda: pipeline.accepting)
        pipeline = await self.again(pipeline)
        states = [await self.state(pipeline, job_id) for job_id in ids]
        self.assertEqual((states, pipeline.pending), (["done", "dead", "retrying"], 1))

    async def test_when_too_much_cannot_be_written_nothing_more_is_handed_out(self) -> None:
        self.patch(writer, "MOST_UNWRITTEN", 2)
        pipeline, worker, session = await self.pair(window=1)
        await pipeline.push_many([b""] * 6)
        other = self.hold_up()
        count = 1
        while True:
            number = (await worker.has(count))[-1]
            worker.say(Done(session, [number]))
            await until(lambda: pipeline.pending == 6 - count)  # noqa: B023
            await until(lambda: pipeline.trouble)
            if pipeline._jobs._store.congested:
                break
            count += 1
        await a_while(0.2)
        self.assertEqual((len(worker.sequences()), count), (3, 3))
        other.execute("COMMIT")
        for count in range(4, 7):
            worker.say(Done(session, [(await worker.has(count))[-1]]))
        await self.settles(pipeline)

    async def test_a_page_that_could_not_be_read_is_read_afterwards(self) -> None:
        self.patch(jobs, "MOST", 4)
        pipeline, worker, session = await self.pair(window=1)
        await pipeline.push_many([b""] * 12)
        other = self.hold_up()
        for count in range(1, 5):
            worker.say(Done(session, [(await worker.has(count))[-1]]))
        await until(lambda: pipeline.trouble and pipeline.pending == 8)
        other.execute("COMMIT")
        for count in range(5, 13):
            worker.say(Done(session, [(await worker.has(count))[-1]]))
        await self.settles(pipeline)
        self.assertEqual(worker.sequences(), sorted(set(worker.sequences())))

    async def test_what_could_not_be_read_at_the_start_is_read_afterwards(self) -> None:
        pipeline, worker, session = await self.pair(window=4)
        ids = await pipeline.push_many([b""] * 8)
        for number in await worker.has(4):
            self.fails(worker, session, number, delay=HOUR)
        await worker.has(8)
        await until(lambda: pipeline._dispatcher.in_flight == 4)
        for number in worker.sequences()[4:]:
            self.fails(worker, session, number)
        pipeline = await self.again(pipeline, worker, window=10)
        other = self.hold_up()
        session = await worker.takes_part(2)
        await until(lambda: pipeline.trouble)
        await a_while(0.2)
        self.assertEqual(worker.sequences(session), [])
        other.execute("COMMIT")
        self.assertEqual(sorted(await worker.has(4, session)), [self.number(job_id) for job_id in ids[4:]])
        states = [await self.state(pipeline, job_id) for job_id in ids]
        self.assertEqual(states, ["retrying"] * 4 + ["in flight"] * 4)

    async def test_what_could_not_be_written_when_it_stops_is_left_undone(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2", b"3"])
        numbers = await worker.has(3)
        self.hold_up()
        worker.say(Done(session, numbers[:2]))
        await until(lambda: pipeline.pending == 1)
        await pipeline.stopService()
        self.assertEqual(pipeline.left_undone, 2)
        self.assertEqual(len(self.log_lines("2 jobs may run twice: the journal could not be written")), 1)


class StoppingTests(JournalCase):
    """What is in the journal need not be waited for."""

    async def test_it_waits_for_what_is_in_flight_and_leaves_the_rest_in_the_journal(self) -> None:
        pipeline, worker, session = await self.pair(window=2, drain=LONG)
        ids = await pipeline.push_many([b""] * 5)
        numbers = await worker.has(2)
        stopped = pipeline.stopService()
        await turns()
        self.assertNoResult(stopped)
        worker.say(Done(session, numbers[:1]))
        await until(lambda: pipeline.pending == 4)
        await a_while(0.1)
        self.assertEqual(worker.sequences(), numbers, "nothing new is handed out")
        self.assertNoResult(stopped)
        worker.say(Returned(session, numbers[1:]))
        await stopped
        self.assertEqual((len(worker.sequences()), pipeline.left_undone), (2, 0))
        self.assertEqual(len(self.log_lines("4 jobs wait in the journal for the next start")), 1)
        rows = self.read("SELECT sequence FROM jobs ORDER BY sequence")
        self.assertEqual(rows, [(self.number(job_id),) for job_id in ids[1:]])

    async def test_with_nothing_in_flight_it_stops_at_once_and_closes_its_sessions(self) -> None:
        pipeline, worker, session = await self.pair(drain=LONG, window=1)
        await pipeline.push(b"")
        (number,) = await worker.has(1)
        self.fails(worker, session, number, delay=HOUR)
        await until(lambda: not pipeline._dispatcher.in_flight)
        await pipeline.stopService()
        self.assertEqual(((await worker.gets(Close)).session, pipeline.left_undone), (session, 0))

    async def test_a_worker_that_is_busy_at_the_end_reports_to_the_next_start(self) -> None:
        pipeline, worker, _ = await self.pair(drain=0.05, window=2)
        job_id, other = await pipeline.push_many([b"1", b"2"])
        await worker.has(2)
        await pipeline.stopService()
        self.assertEqual((worker.have(Close), pipeline.left_undone), ([], 0))
        pipeline.startService()
        second = await worker.takes_part(2)
        worker.say(Done(second, [self.number(job_id)]))
        await until(lambda: pipeline.pending == 1)
        worker.say(Done(second, [self.number(other)]))
        await self.settles(pipeline)
        self.assertEqual(await self.state(pipeline, job_id), "done")

    async def test_a_push_that_is_being_written_is_accepted(self) -> None:
        self.patch(opening, "PATIENCE", LONG)
        pipeline = self.start(drain=LONG)
        other = self.hold_up()
        outcome = pipeline.push(b"a")
        await a_while(0.1)
        stopped = pipeline.stopService()
        other.execute("COMMIT")
        job_id = await outcome
        await stopped
        self.assertEqual(self.read("SELECT sequence FROM jobs"), [(self.number(job_id),)])

    async def test_another_can_have_the_journal_then(self) -> None:
        pipeline = self.start()
        await pipeline.push(b"")
        self.assertEqual((await self.again(pipeline)).pending, 1)


class OpeningTests(JournalCase):
    """What cannot be opened is said, and leaves nothing behind: no socket, trial sees, and no lock."""

    async def test_a_journal_in_use_is_said(self) -> None:
        self.start()
        other = self.make()
        error = self.assertRaises(UsageError, other.bind)
        self.assertIn(f"the journal {self.path} is in use by process {os.getpid()}", str(error))

    async def test_binding_twice_is_an_error_and_changes_nothing(self) -> None:
        pipeline, worker, _ = await self.pair()
        error = self.assertRaises(UsageError, pipeline.bind)
        self.assertEqual(str(error), "this pipeline is bound already")
        await pipeline.push(b"1")
        await worker.has(1)

    async def test_what_could_not_be_started_can_be_stopped_and_started_later(self) -> None:
        holder = self.start()
        await holder.push(b"")
        pipeline = self.make()
        self.assertRaises(UsageError, pipeline.startService)
        await pipeline.stopService()
        self.assertEqual(pipeline.left_undone, 0)
        await holder.stopService()
        pipeline.startService()
        self.addCleanup(self.stop, pipeline)
        self.assertEqual((pipeline.pending, pipeline.accepting), (1, True))

    async def test_a_folder_that_is_not_there_is_said(self) -> None:
        self.path = os.path.join(self.folder, "nowhere", "jobs.sqlite")
        error = self.assertRaises(UsageError, self.make().bind)
        self.assertIn(f"the journal {self.path}: its lock {self.path}.lock cannot be made", str(error))

    async def test_a_file_that_is_no_journal_is_said_and_can_be_mended(self) -> None:
        assert self.path is not None
        with open(self.path, "wb") as file:
            file.write(b"my diary, and quite a lot of it" * 1000)
        pipeline = self.make()
        error = self.assertRaises(UsageError, pipeline.bind)
        self.assertIn("it is damaged, or no SQLite file", str(error))
        os.remove(self.path)
        pipeline.startService()
        self.addCleanup(self.stop, pipeline)
        await pipeline.push(b"")

    async def test_a_sink_that_is_taken_leaves_the_journal_to_others_and_a_second_try(self) -> None:
        earlier = self.start()
        await earlier.push(b"12345")
        await earlier.stopService()
        taken = self.by_hand()
        pipeline = self.make(sink=taken.address, max_pending=2)
        error = self.assertRaises(UsageError, pipeline.bind)
        self.assertEqual(str(error), f"{taken.address} cannot be bound: address already in use (choose another --sink)")
        taken.unbind()

        def binds() -> bool:
            try:
                pipeline.bind()
            except UsageError:
                return False  # the journal is closed in its own time, and so is libzmq's socket
            return True

        await until(binds, "it can be bound")
        pipeline.startService()
        self.addCleanup(self.stop, pipeline)
        self.assertEqual(pipeline.pending, 1)
        await pipeline.push(b"")
        await self.fails_with(pipeline.push(b""), Full, "2 jobs are unsettled, and 2 may be")
