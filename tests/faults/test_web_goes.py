"""The web side is killed under load, or everything is, or all are restarted in turn: a 202 stays a promise."""

from __future__ import annotations

import random
import signal
import time
from threading import Event

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.case import RigCase
from tests.faults.load import Load, pushed, request, status_of
from tests.faults.records import Count, ran_twice
from tests.faults.rig import Process, Rig

KILLS = 5


class WebGoes(RigCase):
    """With zpipe-worker."""

    def start(self, seconds: float = 0) -> tuple[Process, list[Process]]:
        workers = self.rig.pool(seconds=seconds)
        web = self.rig.web([worker.port for worker in workers])
        self.rig.until_ready(web, 3)
        return web, workers

    def known_done(self, web: Process, ids: list[str]) -> set[str]:
        """Which of these are done, as GET /jobs/ID says."""
        return {job_id for job_id in ids if status_of(web.port, job_id)["state"] == "done"}

    def test_it_is_killed_five_times_under_load(self) -> None:
        """All that was answered 202 runs; what was known as done before runs no more."""
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        web, _ = self.start()
        load = Load(web.port, [b"job %d" % number for number in range(20_000)])
        known: list[tuple[float, set[str]]] = []
        for _ in range(KILLS):
            reached = Event()
            load.at(len(load.accepted) + chance.randrange(500, 2500), reached.set)
            if not known:
                load.start(30)
            self.assertTrue(reached.wait(60), self.rig.logs())
            accepted = list(load.accepted)
            sample = chance.sample(accepted, 20) + accepted[-20:]
            done = self.known_done(web, sample)
            known.append((time.monotonic(), done))
            time.sleep(chance.uniform(0, 0.1))  # at random points
            web.popen.kill()
            web.wait()
            web = self.rig.again(web)
        load.join()
        self.assertGreater(load.broken, 0)
        count = self.rig.until_all_ran(load.accepted, 120)
        self.assertEqual(count, Count.all_ran(len(load.accepted), count.run_twice), f"seed {seed}")
        self.assertGreater(sum(len(done) for _, done in known), KILLS, "hardly any was known as done")
        lines = self.rig.lines()
        for at, done in known:
            again = {line.job_id for line in lines if line.at > at and line.body is not None} & done
            self.assertEqual(again, set(), f"seed {seed}")
        # What ran twice had not been settled in the journal: a small part, of the last moment before each kill.
        self.assertLess(len(ran_twice(lines)), count.accepted / 4)

    def test_a_request_that_is_sent_again_after_a_kill_is_the_same_job(self) -> None:
        """By its Idempotency-Key, whether that job had run before or not; with another body it is refused."""
        web, workers = self.start()
        done = post_with_key(web, "done", b"job")
        self.rig.until("it is settled", lambda: status_of(web.port, done)["state"] == "done")
        for worker in workers:
            worker.end()
        waiting = post_with_key(web, "waiting", b"job")
        web.popen.kill()
        web.wait()
        web = self.rig.again(web)
        self.assertEqual([post_with_key(web, key, b"job") for key in ("done", "waiting")], [done, waiting])
        status, _, answer = request(web.port, "POST", "/", b"other", "Idempotency-Key: done\r\n")
        self.assertEqual(status, 422, answer)
        for worker in workers:
            self.rig.again(worker)
        self.assertEqual(self.rig.until_all_ran([done, waiting]), Count.all_ran(2))
        self.assertEqual(len(self.rig.ended()), 2)

    def test_everything_is_killed_at_once_and_started_again(self) -> None:
        """All that was answered 202 runs."""
        web, workers = self.start(seconds=0.002)
        load = Load(web.port, [b"job %d" % number for number in range(6000)])
        reached = Event()
        load.at(2000, reached.set)
        load.start(30)
        self.assertTrue(reached.wait(60), self.rig.logs())
        for process in (web, *workers):
            process.popen.kill()
        for process in (web, *workers):
            process.wait()
        self.assertLess(len(self.rig.ended()), len(load.accepted), "nothing was left to do")
        for worker in workers:
            self.rig.again(worker)
        web = self.rig.again(web)
        load.join()
        self.rig.until_ready(web, 3)
        count = self.rig.until_all_ran(load.accepted, 120)
        self.assertEqual(count, Count.all_ran(len(load.accepted), count.run_twice))
        self.assertLess(count.run_twice, count.accepted / 10)

    def test_each_process_is_restarted_in_turn(self) -> None:
        """SIGTERM, under load: nothing is lost, nothing runs twice, and each ends with exit status 0."""
        web, workers = self.start(seconds=0.005)
        ended = Event()
        load = Load(web.port, iter(lambda: ended.wait(0.002) or b"job", True)).start(10)
        for worker in workers:
            self.flows(load)
            worker.signal(signal.SIGTERM)
            self.assertEqual(worker.wait(), 0, worker.log)
            self.rig.again(worker)
            self.rig.until_ready(web, 3)
        self.flows(load)
        web.signal(signal.SIGTERM)
        self.assertEqual(web.wait(), 0, web.log)
        web = self.rig.again(web)
        self.rig.until_ready(web, 3)
        self.flows(load)
        ended.set()
        load.join()
        self.assertLessEqual(set(load.refused), {503})
        self.assertEqual(self.rig.until_all_ran(load.accepted, 120), Count.all_ran(len(load.accepted)))

    def flows(self, load: Load) -> None:
        """Wait until 200 more jobs have been accepted, and some have run."""
        accepted, ran = len(load.accepted), sum(self.rig.ended().values())
        self.rig.until("jobs are accepted", lambda: len(load.accepted) > accepted + 200)
        self.rig.until("jobs run", lambda: sum(self.rig.ended().values()) > ran + 100)


def post_with_key(web: Process, key: str, body: bytes) -> str:
    """POST / with that key: the id that it is answered."""
    return pushed(web.port, body, f"Idempotency-Key: {key}\r\n")


class WebGoesWithTheExample(WebGoes):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True


class WithoutAJournal(SynchronousTestCase):
    """What the web side has to say when it ends."""

    def test_jobs_left_at_the_end_of_drain_are_counted_in_one_line(self) -> None:
        """A handler longer than --drain: the exit status is 1."""
        with Rig() as rig:
            worker = rig.worker()
            web = rig.web([worker.port], "--no-journal", "--drain=1")
            rig.until_ready(web, 1)
            load = Load(web.port, [b"20"] * 7).run(1)
            rig.until("the first one has begun", lambda: rig.record(worker.port).begun)
            self.assertEqual(len(load.accepted), 7)
            web.signal(signal.SIGTERM)
            self.assertEqual(web.wait(), 1)
            lines = [line.split("] ", 1)[1] for line in web.log.splitlines() if "lost" in line]
            self.assertEqual(
                lines, ["7 jobs are lost: they were not settled within 1.0 seconds, and live in memory only"]
            )

    def test_all_that_was_accepted_is_run_before_it_ends(self) -> None:
        """Within --drain: nothing is lost, and the exit status is 0."""
        with Rig() as rig:
            workers = rig.pool(seconds=0.002)
            web = rig.web([worker.port for worker in workers], "--no-journal")
            rig.until_ready(web, 3)
            load = Load(web.port, [b"job"] * 3000).run(30)
            web.signal(signal.SIGTERM)
            self.assertEqual(web.wait(), 0)
            self.assertEqual(rig.count(load.accepted), Count.all_ran(3000))
