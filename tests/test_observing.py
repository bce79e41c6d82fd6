"""What a pipeline says of itself: on sockets, against workers that a test plays by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from attrs import asdict
from twisted.internet import reactor
from twisted.internet.task import Clock

from tests.peers import HandWorker, until
from tests.pipeline_kit import JournalCase, MemoryCase, PipelineCase, free_address
from zpipeline import Pipeline, Stats, WorkerStatus, dispatch, protocol
from zpipeline.errors import Draining, Full, KeyReused, TooLarge
from zpipeline.histogram import Timings
from zpipeline.pipeline import jobs
from zpipeline.pipeline.observing import Observer
from zpipeline.protocol import Bye, Done, Hello, Ready, Returned, State
from zpipeline.stats import Redeliveries
from zpipeline.testing.clock import TimesOf
from zpipeline.times import SteadyTimes


def timings(start: float, run: float, jobs: int = 1) -> Timings:
    made = Timings()
    made.start.observe([start] * jobs)
    made.run.observe([run] * jobs)
    return made


def worker_of(pipeline: Pipeline) -> WorkerStatus:
    return pipeline.workers()[0]


async def later(pipeline: Pipeline, condition: Callable[[Stats], Any]) -> Stats:
    await until(lambda: condition(pipeline.stats()))
    return pipeline.stats()


class CountTests(MemoryCase):
    async def test_a_pipeline_that_has_done_nothing_says_so(self) -> None:
        stats = self.make().stats()
        counts = {
            name: value for name, value in asdict(stats).items() if isinstance(value, int | float) and value is not True
        }
        nothing = ("accepted", "done", "dead", "failed", "redelivered", "pending", "waiting", "in_flight", "uptime")
        nothing += ("oldest_waiting",)
        self.assertEqual({counts[name] for name in nothing}, {0})
        self.assertEqual((stats.accepting, stats.draining, stats.trouble, stats.journal), (True, False, None, None))

    async def test_jobs_are_waiting_and_then_in_flight_and_then_done(self) -> None:
        pipeline, worker, session = await self.pair(window=2)
        await pipeline.push_many([b"a", b"b", b"c"])
        numbers = await worker.has(2)
        stats = pipeline.stats()
        self.assertEqual((stats.accepted, stats.pending, stats.waiting, stats.in_flight), (3, 3, 1, 2))
        worker.say(Done(session, numbers))
        stats = await later(pipeline, lambda stats: stats.done == 2)
        self.assertEqual((stats.pending, stats.dead, stats.failed, stats.ready_workers), (1, 0, 0, 1))
        self.assertEqual((worker_of(pipeline).done, worker_of(pipeline).in_flight), (2, 1))

    async def test_a_job_that_is_done_twice_counts_once(self) -> None:
        pipeline, worker, session = await self.pair()
        await pipeline.push(b"a")
        [number] = await worker.has(1)
        worker.say(Done(session, [number]))
        worker.say(Done(session, [number]))
        worker.say(Bye(session))
        await worker.gets(protocol.Close)
        self.assertEqual((pipeline.stats().done, worker_of(pipeline).done), (1, 1))

    async def test_failed_attempts_count_and_so_do_jobs_that_die_of_them(self) -> None:
        pipeline, worker, session = await self.pair(attempts=2)
        await pipeline.push(b"a")
        [number] = await worker.has(1)
        self.fails(worker, session, number)
        await worker.has(2)
        stats = pipeline.stats()
        self.assertEqual((stats.failed, stats.dead, stats.redelivered, stats.dead_letters), (1, 0, 1, 0))
        self.assertEqual(stats.redeliveries, Redeliveries(retry=1))
        self.fails(worker, session, number)
        stats = await later(pipeline, lambda stats: stats.dead)
        self.assertEqual((stats.failed, stats.dead, stats.done, stats.pending, stats.dead_letters), (2, 1, 0, 0, 1))
        self.assertEqual((worker_of(pipeline).failed, worker_of(pipeline).done), (2, 0))

    async def test_what_a_worker_gives_back_is_redelivered(self) -> None:
        pipeline, worker, session = await self.pair(window=2)
        await pipeline.push_many([b"a", b"b"])
        numbers = await worker.has(2)
        self.assertEqual(pipeline.stats().redelivered, 0)
        worker.say(Returned(session, numbers[1:]))
        await worker.has(3)
        self.assertEqual((pipeline.stats().redelivered, worker_of(pipeline).returned), (1, 1))
        self.assertEqual(pipeline.stats().redeliveries, Redeliveries(returned=1))

    async def test_what_a_lost_worker_held_is_redelivered(self) -> None:
        pipeline, worker, session = await self.pair(window=2)
        await pipeline.push_many([b"a", b"b"])
        await worker.has(2)
        worker.ready(session)  # it has given up the session
        again = await worker.takes_part(2)
        await worker.has(2, again)
        self.assertEqual((pipeline.stats().redelivered, pipeline.stats().failed), (2, 0))
        self.assertEqual(pipeline.stats().redeliveries, Redeliveries(lost=2))

    async def test_a_dead_letter_that_is_tried_again_is_redelivered_and_no_longer_dead(self) -> None:
        pipeline, worker, session = await self.pair()
        job_id = await pipeline.push(b"a")
        [number] = await worker.has(1)
        self.rejects(worker, session, number)
        await later(pipeline, lambda stats: stats.dead_letters == 1)
        self.assertTrue(await pipeline.retry_dead(job_id))
        await worker.has(2)
        stats = pipeline.stats()
        self.assertEqual((stats.redelivered, stats.dead, stats.dead_letters, stats.pending), (1, 1, 0, 1))
        self.assertEqual(stats.redeliveries, Redeliveries(retry=1))

    async def test_the_job_that_waits_longest_has_waited_since_its_acceptance(self) -> None:
        pipeline, worker, session = await self.pair(window=1)
        before = time.time()
        await pipeline.push_many([b"a", b"b"])
        [number] = await worker.has(1)
        stats = await later(pipeline, lambda stats: stats.oldest_waiting > 0.05)
        self.assertTrue(stats.oldest_waiting <= stats.time - before)
        worker.say(Done(session, [number]))
        await worker.has(2)
        self.assertEqual(pipeline.stats().oldest_waiting, 0)

    async def test_a_job_that_waits_for_its_retry_does_not_wait_to_be_handed_out(self) -> None:
        pipeline, worker, session = await self.pair()
        await pipeline.push(b"a")
        [number] = await worker.has(1)
        self.fails(worker, session, number, delay=300.0)
        stats = await later(pipeline, lambda stats: stats.failed)
        self.assertEqual((stats.waiting, stats.oldest_waiting), (1, 0))

    async def test_a_clock_that_is_set_back_makes_no_job_younger_than_nothing(self) -> None:
        pipeline = self.start()
        await pipeline.push(b"a")
        observer = Observer(reactor, [], TimesOf(Clock()))
        stats = observer.stats(pipeline._jobs, pipeline._dispatcher, accepting=True, draining=False)
        self.assertEqual((stats.waiting, stats.oldest_waiting), (1, 0))

    async def test_a_job_that_holds_up_its_worker_for_too_long_is_a_failed_attempt_of_that_worker(self) -> None:
        self.patch(dispatch, "GRACE", 0.1)
        pipeline, worker, _ = await self.pair(timeout=0.1, attempts=1)
        await pipeline.push(b"a")
        await worker.has(1)
        stats = await later(pipeline, lambda stats: stats.dead)
        self.assertEqual((stats.failed, worker_of(pipeline).failed, worker_of(pipeline).state), (1, 1, "lost"))

    async def test_refusals_count_by_reason_and_by_job(self) -> None:
        pipeline = self.start(max_pending=2, max_body=3)
        await self.fails_with(pipeline.push_many([b"a"] * 5), Full, "2 may be")
        await self.fails_with(pipeline.push(b"abcd"), TooLarge, "4 bytes")
        await pipeline.push(b"a", idempotency_key="k")
        await self.fails_with(pipeline.push(b"b", idempotency_key="k"), KeyReused, "another")
        await pipeline.stopService()
        await self.fails_with(pipeline.push(b"a"), Draining, "stopped")
        counted = {reason: count for reason, count in asdict(pipeline.stats().refused).items() if count}
        self.assertEqual(counted, {"full": 5, "too_large": 1, "key_reused": 1, "draining": 1})
        self.assertEqual(pipeline.stats().accepted, 1)

    async def test_a_request_with_a_known_key_is_no_other_job(self) -> None:
        pipeline = self.start()
        for _ in range(2):
            await pipeline.push(b"a", idempotency_key="k")
        self.assertEqual((pipeline.stats().accepted, pipeline.stats().pending), (1, 1))


class JournalCountTests(JournalCase):
    async def test_commits_count_with_the_jobs_in_them(self) -> None:
        pipeline, worker, session = await self.pair()
        await pipeline.push_many([b"a", b"b"])
        worker.say(Done(session, await worker.has(2)))
        stats = await later(pipeline, lambda stats: stats.journal and stats.journal.jobs == 4)
        assert stats.journal is not None
        self.assertEqual(stats.journal.commits, 2)
        commits = pipeline.measures.commits
        self.assertEqual(commits.jobs.counts[:3], [0, 2, 0], "two of two jobs each")
        self.assertTrue(0 < commits.seconds.sum < 30)

    async def test_a_transaction_without_jobs_does_not_count(self) -> None:
        pipeline = self.start()
        for _ in range(3):
            self.assertIsNone(await pipeline.job("0" * 32))
            self.assertEqual(await pipeline.dead_letters(), [])
        stats = pipeline.stats()
        assert stats.journal is not None
        self.assertEqual((stats.journal.commits, stats.journal.jobs), (0, 0))

    async def test_dead_letters_are_known_from_the_beginning_and_jobs_of_before_are_not_accepted_again(self) -> None:
        pipeline, worker, session = await self.pair(window=5)
        [dead, dropped, _] = [await pipeline.push(body) for body in (b"a", b"b", b"c")]
        numbers = await worker.has(3)
        for number in numbers[:2]:
            self.rejects(worker, session, number)
        await later(pipeline, lambda stats: stats.dead_letters == 2)
        pipeline = await self.again(pipeline)
        stats = pipeline.stats()
        self.assertEqual((stats.dead_letters, stats.dead, stats.accepted, stats.pending), (2, 0, 0, 1))
        await pipeline.drop_dead(dropped)
        self.assertEqual(pipeline.stats().dead_letters, 1)
        await pipeline.retry_dead(dead)
        self.assertEqual(pipeline.stats().dead_letters, 0)

    async def test_jobs_of_before_have_waited_since_they_were_accepted(self) -> None:
        pipeline = self.start(free_address())
        await pipeline.push(b"a")
        stats = await later(pipeline, lambda stats: stats.oldest_waiting > 0.2)
        pipeline = await self.again(pipeline, free_address())
        await until(lambda: pipeline.stats().oldest_waiting > stats.oldest_waiting)

    async def test_a_job_that_was_in_the_journal_alone_when_it_was_done_counts(self) -> None:
        self.patch(jobs, "MOST", 2)
        pipeline, worker, session = await self.pair(window=1)
        ids = await pipeline.push_many([b"a"] * 5)
        self.assertIsNone(pipeline._dispatcher.entry(self.number(ids[-1])))
        worker.say(Done(session, [self.number(ids[-1])]))
        await later(pipeline, lambda stats: stats.done == 1)
        self.assertEqual(pipeline.pending, 4)

    async def test_trouble_is_told(self) -> None:
        pipeline = self.start()
        self.patch(pipeline._jobs._store._writer, "trouble", "it is broken")  # type: ignore[attr-defined]
        self.assertEqual((pipeline.stats().trouble, pipeline.stats().accepting), ("it is broken", False))


class WorkerTests(MemoryCase):
    async def test_one_that_is_not_there_is_connecting_and_the_reason_is_told(self) -> None:
        address = free_address()
        pipeline = self.start(address)
        await until(lambda: worker_of(pipeline).why)
        status = worker_of(pipeline)
        self.assertEqual((status.address, status.state, status.pid), (address, "connecting", None))
        self.assertIn("refused", status.why or "")

    async def test_one_that_is_ready_says_who_it_is(self) -> None:
        pipeline, worker, session = await self.pair(window=7)
        worker.say(State(session, 3, 0, 0))
        await until(lambda: worker_of(pipeline).concurrency == 3)
        status = worker_of(pipeline)
        self.assertEqual((status.state, status.why, status.window), ("ready", None, 7))
        self.assertEqual((status.host, status.pid, status.version, status.handler), ("here", 1, "0", "by hand"))

    async def test_handlers_that_differ_are_warned_of_once_with_their_workers(self) -> None:
        workers = [HandWorker(self.context) for _ in range(2)]
        pipeline = self.start(*(worker.address for worker in workers))
        first, second = workers
        await first.takes_part()
        hello = await second.gets(Hello)
        second.say(Ready(hello.session, 9, 1, "here", 2, "another\x1b", "0"), hello.sink)
        told = "ready workers have different handlers, and each job goes to any of them: "
        await until(lambda: self.log_lines(told))
        ticks: list[bool] = []
        pipeline.watch(ticks.append)
        await until(lambda: len(ticks) >= 2)
        places = [worker.address.removeprefix("tcp://") for worker in workers]
        self.assertEqual(self.log_lines(told), [f"{told}by hand at {places[0]}; another\\x1b at {places[1]}"])

    async def test_one_that_says_bye_is_leaving_until_it_is_gone(self) -> None:
        pipeline, worker, session = await self.pair()
        await pipeline.push(b"a")
        await worker.has(1)
        worker.say(Bye(session))
        await until(lambda: worker_of(pipeline).state == "leaving")
        worker.unbind()
        await until(lambda: worker_of(pipeline).state == "lost")
        self.assertIn("has left", worker_of(pipeline).why or "")

    async def test_one_whose_connection_breaks_is_lost_until_it_is_ready_again(self) -> None:
        pipeline, worker, _ = await self.pair()
        ready_since = worker_of(pipeline).since
        worker.unbind()
        await until(lambda: worker_of(pipeline).state == "lost")
        status = worker_of(pipeline)
        self.assertIn(status.why, ("disconnected", "connection refused, or no way there"))
        self.assertEqual((status.window, status.in_flight, status.pid), (None, 0, 1))
        self.assertGreaterEqual(status.since, ready_since)
        await worker.bind_again()
        await worker.takes_part(2)
        await until(lambda: worker_of(pipeline).state == "ready")

    async def test_stopping_the_pipeline_ends_with_none_ready(self) -> None:
        pipeline, _, _ = await self.pair()
        await pipeline.stopService()
        self.assertEqual(worker_of(pipeline).state, "lost")

    async def test_what_workers_measure_adds_up(self) -> None:
        workers = [self.by_hand(), self.by_hand()]
        pipeline = self.start(*workers)
        for worker in workers:
            session = await worker.takes_part()
            await until(lambda: "ready" in [status.state for status in pipeline.workers()])
            worker.say(State(session, 1, 0, 0, timings(0.2, 4.0)))
            worker.say(State(session, 1, 0, 0, timings(0.2, 4.0, jobs=3)))
        await until(lambda: pipeline.measures.timings.run.total == 6)
        self.assertEqual(pipeline.measures.timings.start.counts, timings(0.2, 4.0, jobs=6).start.counts)
        await until(lambda: [status.latency.run.p50 for status in pipeline.workers()] == [3.75, 3.75])
        latency = pipeline.stats().latency
        self.assertEqual((latency.run.p50, latency.start.p50, latency.settle.p50), (3.75, 0.175, None))

    async def test_histograms_that_become_less_break_the_protocol_and_change_nothing(self) -> None:
        pipeline, worker, session = await self.pair()
        worker.say(State(session, 1, 0, 0, timings(0.2, 4.0, jobs=3)))
        worker.say(State(session, 5, 0, 0, timings(0.2, 4.0)))
        await until(lambda: pipeline.bad_messages == 1)
        self.assertEqual((pipeline.measures.timings.run.total, worker_of(pipeline).concurrency), (3, 1))
        self.assertEqual(len(self.log_lines("its histograms have counts that have become less")), 1)

    async def test_a_worker_that_does_not_measure_is_as_good(self) -> None:
        pipeline, worker, session = await self.pair()
        worker.say(State(session, 2, 0, 0))
        await until(lambda: worker_of(pipeline).concurrency == 2)
        self.assertIsNone(worker_of(pipeline).latency.run.p50)


class TimeTests(MemoryCase):
    async def test_rates_and_shares_and_times_are_of_the_last_seconds(self) -> None:
        pipeline, worker, session = await self.pair(window=10)
        await pipeline.push_many([b"a"] * 10)
        worker.say(Done(session, await worker.has(10)))
        stats = await later(pipeline, lambda stats: stats.rates.settled)
        self.assertTrue(1 <= stats.rates.settled <= 10, stats.rates)
        assert stats.latency.settle.p50 is not None
        self.assertTrue(0 < stats.latency.settle.p50 < 30)
        status = worker_of(pipeline)
        self.assertEqual((status.share, status.rate), (1.0, stats.rates.settled))
        await later(pipeline, lambda stats: not stats.rates.settled)
        self.assertIsNotNone(pipeline.stats().latency.settle.p50)

    async def test_the_pipeline_knows_how_long_it_has_run(self) -> None:
        pipeline = self.start()
        await later(pipeline, lambda stats: stats.uptime > 0)
        await pipeline.stopService()
        self.assertEqual((pipeline.stats().uptime, pipeline.stats().draining), (0.0, True))


class WatchTests(PipelineCase):
    async def test_who_watches_is_called_until_the_pipeline_has_ended(self) -> None:
        pipeline = self.start()
        calls: list[bool] = []
        pipeline.watch(calls.append)
        await until(lambda: calls)
        self.assertEqual(set(calls), {False})
        await pipeline.stopService()
        self.assertEqual(calls[-1], True)
        self.assertEqual(calls.count(True), 1)

    async def test_who_has_had_enough_is_not_called_again(self) -> None:
        pipeline = self.start()
        calls: list[bool] = []
        end = pipeline.watch(calls.append)
        end()
        end()
        await pipeline.stopService()
        self.assertEqual(calls, [])

    async def test_one_that_fails_is_logged_and_the_others_are_called(self) -> None:
        observer = Observer(reactor, [], SteadyTimes())
        calls: list[bool] = []

        def fails(is_over: bool) -> None:
            raise ValueError("no")

        observer.watch(fails)
        observer.watch(calls.append)
        observer.stop()
        self.assertEqual(calls, [True])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class PlainTests(PipelineCase):
    async def test_a_plain_socket_is_a_worker_of_which_little_is_known(self) -> None:
        worker = self.by_hand()
        worker._decode = lambda frames: frames  # type: ignore[method-assign]
        pipeline = self.start(worker, plain=True)
        await until(lambda: pipeline.ready_workers == 1)
        await pipeline.push_many([b"a"] * 3)
        await later(pipeline, lambda stats: stats.done == 3)
        status = worker_of(pipeline)
        self.assertEqual((status.state, status.done, status.pid, status.handler), ("ready", 3, None, None))
        self.assertEqual(pipeline.stats().redelivered, 0)
