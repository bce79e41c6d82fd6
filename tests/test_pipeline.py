"""Pipeline, with workers and against a worker that a test plays by hand: real sockets, one process."""

from __future__ import annotations

import time
from typing import Any

import zmq
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.peers import ANY_PORT, HandWorker, a_while, turns, until
from tests.pipeline_kit import PipelineCase, free_address
from zpipeline import inquest, protocol
from zpipeline.errors import Draining, Full, TooLarge, UsageError
from zpipeline.histogram import Timings
from zpipeline.job import Job
from zpipeline.pipeline import Pipeline, service, sessions
from zpipeline.protocol import Bye, Close, Done, Failed, Hello, Jobs, Returned, State


class PushTests(PipelineCase):
    async def test_push_fires_an_id_of_a_fixed_length_and_ids_are_in_order(self) -> None:
        pipeline = self.start()
        ids = [await pipeline.push(b"a"), *await pipeline.push_many([b"b"] * 300), await pipeline.push(b"c")]
        self.assertEqual({len(job_id) for job_id in ids}, {32})
        self.assertEqual(ids, sorted(set(ids)))
        self.assertEqual(len(ids), 302)

    async def test_no_two_pipelines_share_an_id(self) -> None:
        self.assertNotEqual(await self.make().push(b""), await self.make().push(b""))

    async def test_jobs_run_with_their_body_headers_id_and_time(self) -> None:
        pipeline = self.start(self.worker())
        before = time.time()
        job_id = await pipeline.push(b"body", {"X-Size": "7", "b": "\xe9"})
        await self.settles(pipeline)
        (job,) = self.ran
        self.assertEqual((job.id, job.body, job.attempt), (job_id, b"body", 1))
        self.assertEqual(dict(job.headers), {"x-size": "7", "b": "\xe9"})
        self.assertTrue(before <= job.accepted_at <= time.time())

    async def test_push_many_gives_all_the_same_headers(self) -> None:
        pipeline = self.start(self.worker())
        ids = await pipeline.push_many(iter([b"1", b"2", b"3"]), {"A": "b"})
        await self.settles(pipeline)
        self.assertEqual([job.id for job in self.ran], ids)
        self.assertEqual([dict(job.headers) for job in self.ran], [{"a": "b"}] * 3)

    async def test_push_many_of_nothing_is_nothing(self) -> None:
        pipeline = self.start()
        self.assertEqual(await pipeline.push_many([]), [])
        self.assertEqual(pipeline.pending, 0)

    async def test_the_bound_on_jobs_refuses_and_keeps_nothing(self) -> None:
        pipeline = self.start(max_pending=3)
        await pipeline.push_many([b"1", b"2"])
        await self.fails_with(pipeline.push_many([b"3", b"4"]), Full, "2 jobs are unsettled, and 3 may be")
        self.assertEqual(pipeline.pending, 2)
        self.assertTrue(pipeline.accepting)
        await pipeline.push(b"3")
        self.assertFalse(pipeline.accepting)
        error = await self.fails_with(pipeline.push(b"4"), Full, "3 jobs are unsettled")
        self.assertGreaterEqual(error.retry_after, 1)  # type: ignore[attr-defined]

    async def test_the_bound_on_bytes_refuses_and_keeps_nothing(self) -> None:
        pipeline = self.start(max_pending_bytes=10)
        await pipeline.push(b"1234567")
        await self.fails_with(pipeline.push(b"1234"), Full, "unsettled jobs hold 7 bytes, and may hold 10")
        await pipeline.push(b"123")
        self.assertFalse(pipeline.accepting)

    async def test_settled_jobs_make_room_again(self) -> None:
        pipeline = self.start(self.worker(), max_pending=2, max_pending_bytes=4)
        for _ in range(5):
            await pipeline.push_many([b"12", b"34"])
            await self.settles(pipeline)
        self.assertEqual(len(self.ran), 10)

    async def test_a_body_that_is_too_large_refuses_all(self) -> None:
        pipeline = self.start(max_body=3)
        await pipeline.push(b"123")
        await self.fails_with(pipeline.push_many([b"1", b"1234"]), TooLarge, "a body of 4 bytes: 3 are allowed")
        self.assertEqual(pipeline.pending, 1)

    async def test_what_is_no_body_or_no_header_fails(self) -> None:
        pipeline = self.start()
        wrong: Any
        for wrong in ("text", None, bytearray(b"a")):
            await self.fails_with(pipeline.push(wrong), UsageError, "a job's body is bytes")
        await self.fails_with(pipeline.push_many(b"abc"), UsageError, "not int")  # type: ignore[arg-type]
        for wrong in ({"a": 1}, {b"a": "b"}):
            await self.fails_with(pipeline.push(b"", wrong), UsageError, "headers are str to str")
        await self.fails_with(pipeline.push(b"", {"a": "1", "A": "2"}), UsageError, "comes twice")
        self.assertEqual(pipeline.pending, 0)

    async def test_jobs_pushed_before_the_start_run_after_it(self) -> None:
        worker = self.worker()
        pipeline = self.make(worker)
        await pipeline.push(b"early")
        pipeline.startService()
        self.addCleanup(self.stop, pipeline)
        await self.settles(pipeline)
        self.assertEqual([job.body for job in self.ran], [b"early"])


class StatusTests(PipelineCase):
    async def test_a_job_waits_is_in_flight_and_done(self) -> None:
        worker = self.by_hand()
        pipeline = self.start(worker)
        before = time.time()
        job_id = await pipeline.push(b"a")
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.id, status.state, status.attempts), (job_id, "waiting", 1))
        self.assertEqual((status.settled_at, status.error), (None, None))
        self.assertTrue(before <= status.accepted_at <= time.time())
        session = await worker.takes_part()
        await worker.has(1)
        self.assertEqual(await self.state(pipeline, job_id), "in flight")
        worker.say(Done(session, [self.number(job_id)]))
        await self.settles(pipeline)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.error), ("done", None))
        assert status.settled_at is not None
        self.assertTrue(status.accepted_at <= status.settled_at <= time.time())

    async def test_a_job_that_failed_is_dead_and_says_why(self) -> None:
        def handler(job: Job) -> None:
            raise ValueError("too small")

        pipeline = self.start(self.worker(handler), attempts=1)
        job_id = await pipeline.push(b"a")
        await self.settles(pipeline)
        status = await self.status(pipeline, job_id)
        self.assertEqual((status.state, status.error), ("dead", "ValueError: too small"))
        self.assertIsNotNone(status.settled_at)
        (line,) = self.log_lines(f"job {job_id} is dead: ValueError: too small")
        self.assertIn("Traceback", line)

    async def test_what_a_stranger_sent_does_nothing_to_the_console(self) -> None:
        def handler(job: Job) -> None:
            raise ValueError(job.body.decode())

        pipeline = self.start(self.worker(handler), attempts=1)
        job_id = await pipeline.push(b"\x1b[31m")
        await self.settles(pipeline)
        lines = [line for said in self.log_lines(job_id) for line in said.split("\n")]
        self.assertTrue(any("\\x1b[31m" in line for line in lines))
        self.assertEqual([line for line in lines if not line.isprintable()], [])
        self.assertEqual((await self.status(pipeline, job_id)).error, "ValueError: \x1b[31m")

    async def test_ids_that_are_unknown_foreign_or_none_are_none(self) -> None:
        pipeline = self.start()
        job_id = await pipeline.push(b"a")
        ventilator, sequence = int(job_id[:16], 16), job_id[16:]
        foreign = f"{ventilator ^ 1:016x}{sequence}"
        for wrong in (f"{job_id[:16]}{99:016x}", foreign, job_id[:-1], "", "g" * 32, job_id.upper() + " "):
            self.assertIsNone(await pipeline.job(wrong), wrong)
        self.assertIsNotNone(await pipeline.job(job_id))

    async def test_the_oldest_settled_jobs_are_forgotten(self) -> None:
        self.patch(service, "_KEPT_IN_MEMORY", 2)
        pipeline = self.start(self.worker())
        ids = await pipeline.push_many([b"1", b"2", b"3"])
        await self.settles(pipeline)
        self.assertEqual([(await pipeline.job(job_id)) is None for job_id in ids], [True, False, False])


class WorkersComeAndGoTests(PipelineCase):
    async def test_jobs_are_spread_evenly_over_the_workers_that_are_ready(self) -> None:
        ran: list[list[Job]] = [[], [], []]
        workers = [self.worker(mine.append) for mine in ran]
        pipeline = self.start(*workers, window=20)
        await until(lambda: pipeline.ready_workers == 3)
        for _ in range(30):
            await pipeline.push(b"")
        await self.settles(pipeline)
        self.assertEqual([len(mine) for mine in ran], [10, 10, 10])

    async def test_jobs_wait_for_the_first_worker(self) -> None:
        address = free_address()
        pipeline = self.start(address)
        await pipeline.push_many([b"1", b"2"])
        await until(lambda: self.log_lines("connection refused"))
        self.worker(address=address)
        await self.settles(pipeline)
        self.assertEqual([job.body for job in self.ran], [b"1", b"2"])

    async def test_a_worker_that_goes_hands_its_jobs_to_the_others_and_may_come_back(self) -> None:
        self.patch(inquest, "PATIENCE", 20.0)
        one, two = self.by_hand(), self.by_hand()
        pipeline = self.start(one, two, window=10)
        await one.takes_part()
        session = await two.takes_part()
        await until(lambda: pipeline.ready_workers == 2)
        await pipeline.push_many([b""] * 6)
        lost, kept = await one.has(3), await two.has(3)
        one.unbind()
        two.say(Done(session, kept))
        for number in lost:  # each may have killed it: one after the other
            self.assertEqual((await two.has(1 + len(kept)))[len(kept) :], [number])
            kept.append(number)
            two.say(Done(session, [number]))
        await self.settles(pipeline)
        self.assertEqual(pipeline.ready_workers, 1)
        self.assertEqual(len(self.log_lines(f"{one.address}: 3 jobs go to other workers")), 1)
        await one.bind_again()
        session = await one.takes_part(2)
        await until(lambda: pipeline.ready_workers == 2)
        await pipeline.push_many([b""] * 2)
        await one.has(1, session)

    async def test_each_connection_is_a_new_session_of_a_higher_generation(self) -> None:
        pipeline, worker, _session = await self.pair()
        worker.unbind()
        await until(lambda: not pipeline.ready_workers)
        await worker.bind_again()
        hello = await worker.gets(Hello, 2)
        first = worker.have(Hello)[0]
        self.assertNotEqual(hello.session, first.session)
        self.assertGreater(hello.generation, first.generation)
        self.assertEqual(hello.ventilator, first.ventilator)

    async def test_hello_tells_a_fixed_window(self) -> None:
        for window in (None, 7):
            worker = self.by_hand()
            self.start(worker, window=window)
            self.assertEqual((await worker.gets(Hello)).window, window)

    async def test_nothing_is_sent_before_ready(self) -> None:
        worker = self.by_hand()
        pipeline = self.start(worker)
        await pipeline.push(b"a")
        hello = await worker.gets(Hello)
        await turns()
        self.assertEqual(worker.have(Jobs), [])
        self.assertEqual(pipeline.ready_workers, 0)
        worker.ready(hello.session)
        await worker.has(1)

    async def test_a_worker_that_says_ready_twice_has_given_up_the_session(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2"])
        numbers = await worker.has(2, session)
        worker.ready(session)
        again = await worker.takes_part(2)
        self.assertEqual(await worker.has(2, again), numbers)
        self.assertTrue(self.log_lines("the worker has given up the session"))

    async def test_a_worker_whose_reports_went_missing_loses_the_session(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2", b"3"])
        numbers = await worker.has(3, session)
        worker.say(Done(session, numbers[:1]))
        worker.say(State(session, 1, 3, 2))  # it has sent two reports, and one has come
        again = await worker.takes_part(2)
        self.assertEqual(await worker.has(2, again), numbers[1:])
        self.assertTrue(self.log_lines("reports of the worker went missing"))

    async def test_a_worker_that_has_lost_sight_of_a_job_loses_the_session(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2", b"3"])
        numbers = await worker.has(3, session)
        worker.say(Done(session, numbers[:1]))
        for _ in range(3):
            worker.say(State(session, 1, 3, 1, held=1))  # two are in flight
        again = await worker.takes_part(2)
        self.assertEqual(await worker.has(2, again), numbers[1:])
        self.assertTrue(self.log_lines("the worker has lost sight of jobs that it was sent"))

    async def test_two_states_that_miss_a_job_and_one_that_does_not_change_nothing(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2", b"3"])
        numbers = await worker.has(3, session)
        for held in (2, 2, 3, 2, 0, 4, 1, 1, None, 3):
            worker.say(State(session, 1, 3, 0, held=held))
        worker.say(Done(session, numbers))
        await self.settles(pipeline)
        self.assertEqual(len(worker.have(Hello)), 1)

    async def test_jobs_on_their_way_are_not_missed(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2", b"3"])
        numbers = await worker.has(3, session)
        for received in (0, 1, 1, 2, 2, 2):
            worker.say(State(session, 1, received, 0, held=received))
        worker.say(Done(session, numbers[:1]))
        for _ in range(5):
            worker.say(State(session, 1, 1, 1, held=0))
        worker.say(Done(session, numbers[1:]))
        await self.settles(pipeline)
        self.assertEqual(len(worker.have(Hello)), 1)

    async def test_state_with_the_right_count_changes_nothing(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2", b"3", b"4"])
        numbers = await worker.has(4)
        worker.say(State(session, 1, 4, 0))
        worker.say(Done(session, numbers[:1]))
        worker.say(Failed(session, numbers[1], protocol.REJECT, protocol.NO_DELAY, "no", ""))
        worker.say(Returned(session, numbers[2:3]))
        worker.say(State(session, 1, 4, 3))
        worker.say(Done(session, numbers[3:]))
        await worker.has(5)  # what was returned comes again
        worker.say(Done(session, numbers[2:3]))
        await self.settles(pipeline)
        self.assertEqual(len(worker.have(Hello)), 1)

    async def test_state_may_raise_the_concurrency_and_with_it_the_window(self) -> None:
        pipeline, worker, session = await self.pair()
        await pipeline.push_many([b""] * 30)
        await worker.has(2)
        await turns()
        self.assertEqual(len(worker.sequences()), 2, "concurrency + 1")
        worker.say(State(session, 9, 2, 0))
        await worker.has(10)
        await turns()
        self.assertEqual(len(worker.sequences()), 10)

    async def test_a_worker_that_says_that_jobs_are_short_gets_several_in_its_turn(self) -> None:
        pipeline, worker, session = await self.pair()
        timings = Timings()
        timings.run.observe([0.000095] * 20)  # a millisecond has ten of them, and a half
        worker.say(State(session, 1, 0, 0, timings))
        await until(lambda: pipeline.measures.timings.run.total == 20, "that is heard")
        await pipeline.push_many([b""] * 30)
        await worker.has(10)
        await turns()
        self.assertEqual(len(worker.sequences()), 10)

    async def test_returned_jobs_wait_again_before_all_others(self) -> None:
        pipeline, worker, session = await self.pair(window=3)
        await pipeline.push_many([b""] * 6)
        numbers = await worker.has(3)
        worker.say(Returned(session, numbers[1:]))
        self.assertEqual((await worker.has(5))[3:], numbers[1:])
        for number in range(1, 7):
            worker.say(Done(session, [number]))
        await self.settles(pipeline)

    async def test_bye_is_answered_by_close_once_nothing_is_in_flight(self) -> None:
        pipeline, worker, session = await self.pair(window=3)
        await pipeline.push_many([b""] * 5)
        numbers = await worker.has(3)
        worker.say(Bye(session))
        await until(lambda: pipeline.ready_workers == 0)
        worker.say(Done(session, numbers[:2]))
        await until(lambda: pipeline.pending == 3)
        await turns()
        self.assertEqual((worker.have(Close), len(worker.sequences())), ([], 3))
        worker.say(Done(session, numbers[2:]))
        self.assertEqual((await worker.gets(Close)).session, session)
        self.assertEqual(pipeline.pending, 2, "nothing new is sent")

    async def test_bye_of_an_idle_worker_is_answered_at_once(self) -> None:
        _, worker, session = await self.pair()
        worker.say(Bye(session))
        self.assertEqual((await worker.gets(Close)).session, session)

    async def test_workers_that_stop_and_start_under_load_lose_nothing_and_run_nothing_twice(self) -> None:
        count = 600
        workers = [self.worker(), self.worker()]
        addresses = [worker.address for worker in workers]
        pipeline = self.start(*workers)
        await until(lambda: pipeline.ready_workers == 2)
        ids = await pipeline.push_many([b""] * (count // 2))
        await workers[0].stopService()
        ids += await pipeline.push_many([b""] * (count // 2))
        self.worker(address=addresses[0])
        await until(lambda: pipeline.ready_workers == 2)
        await self.settles(pipeline)
        self.assertEqual(sorted(job.id for job in self.ran), ids)


class LateReportTests(PipelineCase):
    """What comes from sessions that are lost, or were never there."""

    async def lost(self) -> tuple[Pipeline, HandWorker, int, list[int]]:
        """A session that was given up with two jobs in flight; nobody else is ready."""
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"1", b"2"])
        numbers = await worker.has(2)
        worker.ready(session)
        await worker.gets(Hello, 2)
        self.assertEqual(pipeline.ready_workers, 0)
        return pipeline, worker, session, numbers

    async def test_done_settles_a_job_that_waits_again(self) -> None:
        pipeline, worker, session, numbers = await self.lost()
        worker.say(Done(session, numbers[:1]))
        await until(lambda: pipeline.pending == 1)
        again = await worker.takes_part(2)
        self.assertEqual(await worker.has(1, again), numbers[1:])
        await turns()
        self.assertEqual(worker.sequences(again), numbers[1:])

    async def test_done_settles_a_job_that_is_in_flight_elsewhere_once(self) -> None:
        pipeline, worker, session, numbers = await self.lost()
        again = await worker.takes_part(2)
        await worker.has(2, again)
        worker.say(Done(session, numbers))
        await self.settles(pipeline)
        worker.say(Done(again, numbers))  # a second time: late, and no trouble
        worker.say(State(again, 1, 2, 1))
        await pipeline.push(b"3")
        await worker.has(3, again)
        self.assertEqual(len(worker.have(Hello)), 2)

    async def test_failed_and_returned_are_ignored(self) -> None:
        pipeline, worker, session, numbers = await self.lost()
        again = await worker.takes_part(2)
        await worker.has(2, again)
        worker.say(Failed(session, numbers[0], protocol.REJECT, protocol.NO_DELAY, "no", ""))
        worker.say(Returned(session, numbers[1:]))
        worker.say(Bye(session))
        worker.say(State(session, 1, 0, 99))
        worker.ready(session)
        worker.say(Done(again, numbers))
        await self.settles(pipeline)
        self.assertEqual(len(worker.sequences(again)), 2)
        self.assertEqual(self.log_lines("is dead"), [])
        self.assertEqual((pipeline.ready_workers, pipeline.bad_messages), (1, 0))

    async def test_failed_counts_only_for_a_job_in_flight_in_its_session(self) -> None:
        one, two = self.by_hand(), self.by_hand()
        pipeline = self.start(one, two, window=1)
        sessions = [await one.takes_part(), await two.takes_part()]
        await until(lambda: pipeline.ready_workers == 2)
        await pipeline.push_many([b"1", b"2"])
        (mine,), (theirs,) = await one.has(1), await two.has(1)
        one.say(Failed(sessions[0], theirs, protocol.REJECT, protocol.NO_DELAY, "no", ""))
        one.say(Returned(sessions[0], [theirs]))
        one.say(Done(sessions[0], [mine]))
        await until(lambda: pipeline.pending == 1)
        two.say(Done(sessions[1], [theirs]))
        await self.settles(pipeline)
        self.assertEqual(self.log_lines("is dead"), [])

    async def test_a_session_that_was_never_ours_changes_nothing(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push(b"1")
        numbers = await worker.has(1)
        foreign = session ^ 1
        worker.say(Done(foreign, numbers))
        worker.say(Failed(foreign, numbers[0], protocol.REJECT, protocol.NO_DELAY, "no", ""))
        worker.ready(foreign)
        worker.say(State(session, 1, 1, 0))
        await until(lambda: pipeline.bad_messages == 3)
        self.assertEqual((pipeline.pending, pipeline.ready_workers), (1, 1))
        self.assertEqual(len(self.log_lines("the sink drops a message from 127.0.0.1")), 1)

    async def test_sessions_that_are_long_past_are_strangers(self) -> None:
        self.patch(sessions, "_PAST_SESSIONS", 1)
        pipeline, worker, session, numbers = await self.lost()
        second = worker.have(Hello)[1].session
        worker.ready(second)
        worker.ready(second)
        await worker.gets(Hello, 3)
        worker.say(Done(session, numbers))
        await until(lambda: pipeline.bad_messages == 1)
        worker.say(Done(second, numbers))
        await self.settles(pipeline)

    async def test_reports_before_ready_count_where_they_are_done(self) -> None:
        pipeline, worker, _session, numbers = await self.lost()
        hello = worker.have(Hello)[1]
        worker.say(Failed(hello.session, numbers[1], protocol.REJECT, protocol.NO_DELAY, "no", ""))
        worker.say(Returned(hello.session, numbers[1:]))
        worker.say(State(hello.session, 1, 9, 9))
        worker.say(Bye(hello.session))
        worker.say(Done(hello.session, numbers[:1]))
        await until(lambda: pipeline.pending == 1)
        worker.ready(hello.session)
        self.assertEqual(await worker.has(1, hello.session), numbers[1:])
        worker.say(State(hello.session, 1, 1, 0))
        worker.say(Done(hello.session, numbers[1:]))
        await self.settles(pipeline)

    async def test_reports_that_are_here_when_a_connection_goes_still_count(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        job_ids = await pipeline.push_many([b"1", b"2"])
        numbers = await worker.has(2)
        link = pipeline._sessions._open[session]
        worker.say(Done(session, numbers[:1]))
        worker.say(Failed(session, numbers[1], protocol.REJECT, protocol.NO_DELAY, "no", ""))
        time.sleep(0.2)  # they are here, unread
        link.disconnected()
        self.assertEqual([await self.state(pipeline, job_id) for job_id in job_ids], ["done", "dead"])
        self.assertEqual(self.log_lines("go to other workers"), [])

    async def test_garbage_is_counted_and_logged_once_for_its_host(self) -> None:
        pipeline, worker, session = await self.pair()
        push = worker.push_to(worker.have(Hello)[0].sink)
        garbage = [[b"plain"], [b""], [protocol.MAGIC + b"\x01D", b"?"], protocol.encode(Close(session))]
        for frames in garbage:
            push.send_multipart(frames)
        await until(lambda: pipeline.bad_messages == len(garbage))
        self.assertEqual(len(self.log_lines("the sink drops a message from 127.0.0.1")), 1)
        self.assertEqual(pipeline.ready_workers, 1)


class StoppingTests(PipelineCase):
    async def test_stopping_waits_until_all_jobs_are_settled_and_takes_nothing_new(self) -> None:
        held: list[Deferred[None]] = []

        async def handler(job: Job) -> None:
            held.append(Deferred())
            await held[-1]

        pipeline = self.start(self.worker(handler), drain=60)
        await pipeline.push_many([b"1", b"2"])
        await until(lambda: len(held) == 2)
        stopped = pipeline.stopService()
        self.assertTrue(pipeline.draining)
        self.assertFalse(pipeline.accepting)
        await self.fails_with(pipeline.push(b"3"), Draining, "being stopped")
        await self.fails_with(pipeline.push_many([b"3"]), Draining, "being stopped")
        held[0].callback(None)
        await until(lambda: pipeline.pending == 1)
        self.assertNoResult(stopped)
        held[1].callback(None)
        await stopped
        self.assertEqual(pipeline.pending, 0)
        self.assertEqual(self.log_lines("are lost"), [])
        await self.fails_with(pipeline.push(b"3"), Draining, "being stopped")

    async def test_after_drain_it_says_what_is_lost_in_one_line(self) -> None:
        pipeline, _, _ = await self.pair(drain=0.2)
        await pipeline.push_many([b"1", b"2"])
        began = time.monotonic()
        await pipeline.stopService()
        self.assertGreaterEqual(time.monotonic() - began, 0.19)
        self.assertEqual(len(self.log_lines("2 jobs are lost: they were not settled within 0.2 seconds")), 1)
        self.assertEqual((pipeline.ready_workers, pipeline.left_undone), (0, 2))

    async def test_without_anything_to_drain_it_stops_at_once_and_closes_its_sessions(self) -> None:
        pipeline, worker, session = await self.pair(drain=60)
        await pipeline.stopService()
        self.assertEqual((await worker.gets(Close)).session, session)

    async def test_a_worker_that_leaves_with_the_last_job_of_a_pipeline_that_stops_is_no_trouble(self) -> None:
        pipeline, worker, session = await self.pair(drain=60)
        await pipeline.push(b"1")
        numbers = await worker.has(1)
        stopped = pipeline.stopService()
        worker.say(Bye(session))
        worker.say(Done(session, numbers))
        await stopped

    async def test_a_last_report_that_is_read_as_its_connection_goes_is_no_trouble(self) -> None:
        pipeline, worker, session = await self.pair(drain=60)
        await pipeline.push(b"1")
        numbers = await worker.has(1)
        stopped = pipeline.stopService()
        link = pipeline._sessions._open[session]
        worker.say(Done(session, numbers))
        time.sleep(0.2)  # it is here, unread
        link.disconnected()
        await stopped
        self.assertEqual(pipeline.pending, 0)

    async def test_stopping_twice_is_stopping_once(self) -> None:
        pipeline = self.start()
        first = pipeline.stopService()
        self.assertIs(pipeline.stopService(), first)
        await first

    async def test_it_can_be_started_again_and_what_was_unsettled_runs_then(self) -> None:
        pipeline, worker, _ = await self.pair(drain=0.05)
        job_id = await pipeline.push(b"1")
        await worker.has(1)
        await pipeline.stopService()
        self.assertEqual(await self.state(pipeline, job_id), "waiting")
        pipeline.startService()
        session = await worker.takes_part(2)
        await pipeline.push(b"2")
        numbers = await worker.has(2, session)
        self.assertEqual(numbers[0], self.number(job_id))
        worker.say(Done(session, numbers))
        await self.settles(pipeline)
        await pipeline.stopService()
        self.assertEqual(pipeline.left_undone, 0)


class BatchTests(PipelineCase):
    async def test_a_message_holds_at_most_a_thousand_jobs(self) -> None:
        pipeline, worker, _session = await self.pair(window=5000)
        await pipeline.push_many([b""] * 2500)
        await worker.has(2500)
        self.assertEqual([len(jobs.sequences) for jobs in worker.have(Jobs)], [1000, 1000, 500])
        self.assertEqual(worker.sequences(), sorted(worker.sequences()))

    async def test_a_message_holds_at_most_a_mebibyte_unless_it_is_one_job(self) -> None:
        half = protocol.MAX_BYTES_IN_MESSAGE // 2
        pipeline, worker, _session = await self.pair(window=100, max_body=8 * half)
        sizes = [half, half, 1, half, half, 5 * half, 1, 2]
        await pipeline.push_many([b"x" * size for size in sizes])
        await worker.has(len(sizes))
        got = [[len(body) for body in jobs.bodies] for jobs in worker.have(Jobs)]
        self.assertEqual(got, [[half, half], [1, half], [half], [5 * half], [1, 2]])

    async def test_what_one_turn_gathers_goes_in_one_message(self) -> None:
        pipeline, worker, _session = await self.pair(window=100)
        for _ in range(5):
            pipeline.push(b"")
        await worker.has(5)
        self.assertEqual(len(worker.have(Jobs)), 1)

    async def test_twenty_thousand_jobs_run_once_each(self) -> None:
        workers = [self.worker(), self.worker(), self.worker()]
        pipeline = self.start(*workers)
        await until(lambda: pipeline.ready_workers == 3)
        ids = await pipeline.push_many([b"x"] * 20_000)
        await self.settles(pipeline)
        self.assertEqual(sorted(job.id for job in self.ran), ids)


class PlainPull:
    """A PULL socket of any other program."""

    def __init__(self, context: Any, high_water_mark: int = 1000, address: str = ANY_PORT) -> None:
        self.socket = context.socket(zmq.PULL)
        self.socket.set(zmq.RCVHWM, high_water_mark)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVBUF, 4096)
        self.socket.bind(address)
        self.address = self.socket.get(zmq.LAST_ENDPOINT).decode()
        self.got: list[list[bytes]] = []

    def read(self, most: int = 1000) -> int:
        for _ in range(most):
            try:
                self.got.append(self.socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
        return len(self.got)


class PlainTests(PipelineCase):
    async def test_each_job_is_one_plain_frame_and_settled_when_it_is_queued(self) -> None:
        peers = [PlainPull(self.context), PlainPull(self.context)]
        pipeline = self.start(*peers, plain=True)
        await until(lambda: pipeline.ready_workers == 2)
        ids = await pipeline.push_many([b"%d" % n for n in range(10)], {"a": "b"})
        await self.settles(pipeline)
        self.assertEqual([await self.state(pipeline, job_id) for job_id in ids], ["done"] * 10)
        await until(lambda: sum(peer.read() for peer in peers) == 10)
        self.assertEqual([len(peer.got) for peer in peers], [5, 5])
        self.assertEqual(sorted(peers[0].got + peers[1].got), [[b"%d" % n] for n in range(10)])

    async def test_jobs_wait_until_there_is_a_peer(self) -> None:
        address = free_address()
        pipeline = self.start(address, plain=True)
        job_id = await pipeline.push(b"a")
        await until(lambda: self.log_lines("connection refused"))
        self.assertEqual(await self.state(pipeline, job_id), "waiting")
        peer = PlainPull(self.context, address=address)
        await until(peer.read)
        self.assertEqual(peer.got, [[b"a"]])

    async def test_a_slow_peer_makes_jobs_wait_and_loses_none(self) -> None:
        self.patch(sessions, "_PLAIN_HIGH_WATER_MARK", 10)
        count = 3000
        peer = PlainPull(self.context, 10)
        pipeline = self.start(peer, plain=True)
        await until(lambda: pipeline.ready_workers)
        body = b"x" * 10_000
        await pipeline.push_many([b"%d " % n + body for n in range(count)])
        await until(lambda: not pipeline._dispatcher._ring, "the socket takes no more")
        before = pipeline.pending
        self.assertGreater(before, 0)
        await a_while(0.05)
        self.assertGreater(pipeline.pending, 0)
        await until(lambda: peer.read(50) == count, "the peer has read all")
        self.assertEqual([int(frames[0].split()[0]) for frames in peer.got], list(range(count)))
        self.assertEqual(pipeline.pending, 0)
        self.assertEqual(pipeline.stats().redelivered, 0, "what the socket did not take was handed out to nobody")

    async def test_a_blocked_peer_does_not_keep_jobs_from_another(self) -> None:
        self.patch(sessions, "_PLAIN_HIGH_WATER_MARK", 10)
        slow, quick = PlainPull(self.context, 10), PlainPull(self.context, 10)
        pipeline = self.start(slow, quick, plain=True)
        await until(lambda: pipeline.ready_workers == 2)
        await pipeline.push_many([b"x" * 10_000] * 4000)
        await until(lambda: quick.read(100) and not pipeline.pending, "all jobs are settled")
        await until(lambda: slow.read(100) + quick.read(100) == 4000)
        self.assertGreater(len(quick.got), len(slow.got))

    async def test_stopping_waits_until_the_peer_has_taken_all(self) -> None:
        self.patch(sessions, "_PLAIN_HIGH_WATER_MARK", 10)
        peer = PlainPull(self.context, 10)
        pipeline = self.start(peer, plain=True, drain=60)
        await until(lambda: pipeline.ready_workers)
        await pipeline.push_many([b"x" * 10_000] * 2000)
        await until(lambda: not pipeline._dispatcher._ring)
        stopped = pipeline.stopService()
        await turns()
        self.assertNoResult(stopped)
        await until(lambda: peer.read(50) == 2000, "the peer has read all")
        await stopped

    async def test_what_a_stranger_sends_to_the_sink_is_dropped(self) -> None:
        address = free_address()
        pipeline = self.start(PlainPull(self.context), plain=True, sink=address)
        push = self.context.socket(zmq.PUSH)
        push.connect(address)
        push.send(b"hello?")
        await until(lambda: pipeline.bad_messages == 1)


class ArgumentTests(PipelineCase):
    def test_what_cannot_work_is_said(self) -> None:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"workers": ["127.0.0.1:4444"]}, "is not tcp://HOST:PORT"),
            ({"workers": ["tcp://*:4444"]}, "to connect, name a host and a port"),
            ({"workers": ["tcp://a:1", "tcp://b:1", "tcp://a:1"]}, "a worker is named twice: tcp://a:1"),
            ({"sink": "here"}, "is not tcp://HOST:PORT"),
            ({"window": 0}, "a window is from 1 to 50000 jobs, not 0"),
            ({"journal": ""}, "a journal needs the name of a file"),
            ({"journal_sync": "off"}, "journal_sync is 'full' or 'normal', not 'off'"),
            ({"attempts": 0}, "attempts are from 1 to 65535, not 0"),
            ({"attempts": 65_536}, "attempts are from 1 to 65535, not 65536"),
            ({"backoff": (2.0, 1.0)}, "a backoff is two numbers of seconds, the first not the longer, not 2.0, 1.0"),
            ({"backoff": (-1.0, 1.0)}, "a backoff is two numbers"),
            ({"backoff": (1.0, float("inf"))}, "a backoff is two numbers"),
            ({"timeout": 0.0}, "a timeout is a number of seconds above 0, not 0.0"),
            ({"timeout": float("nan")}, "a timeout is a number of seconds above 0, not nan"),
            ({"window": 50_001}, "a window is from 1 to 50000 jobs, not 50001"),
            ({"max_body": 256 * 1024 * 1024 + 1}, "max_body is a whole number, from 1 to 268435456, not 268435457"),
            ({"max_body": 0}, "max_body is a whole number, from 1 to 268435456, not 0"),
            ({"max_pending": 0}, "max_pending is a whole number, 1 or more, not 0"),
            ({"max_pending": 1.5}, "max_pending is a whole number, 1 or more, not 1.5"),
            ({"max_pending_bytes": -1}, "max_pending_bytes is a whole number, 1 or more, not -1"),
            ({"keep": float("nan")}, "keep is a number of seconds, 0 or more, not nan"),
            ({"drain": -1.0}, "drain is a number of seconds, 0 or more, not -1.0"),
        ]
        for options, text in wrong:
            error = self.assertRaises(UsageError, Pipeline, reactor, **options)
            self.assertIn(text, str(error))

    async def test_a_sink_that_is_taken_is_said(self) -> None:
        taken = self.by_hand()
        error = self.assertRaises(UsageError, self.make(sink=taken.address).bind)
        self.assertEqual(str(error), f"{taken.address} cannot be bound: address already in use (choose another --sink)")

    async def test_binding_first_keeps_the_address(self) -> None:
        worker = self.by_hand()
        pipeline = self.make(worker)
        pipeline.bind()
        self.assertRaises(UsageError, pipeline.bind)
        bound = pipeline._sessions._sink
        assert bound is not None
        pipeline.startService()
        self.addCleanup(self.stop, pipeline)
        self.assertEqual((await worker.gets(Hello)).sink, bound.address)
