"""Handlers that fail, and handlers that take too long."""

from __future__ import annotations

import time
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.case import RigCase
from tests.faults.load import Load, dead_letters, status_of
from tests.faults.records import Count
from tests.faults.rig import Process, Rig


class Retries(RigCase):
    """With zpipe-worker."""

    def start(self, *options: object, handler: str = "record") -> Process:
        workers = [self.rig.worker(handler=handler) for _ in range(2)]
        web = self.rig.web([worker.port for worker in workers], *options)
        self.rig.until_ready(web, 2)
        return web

    def begun(self) -> Counter[str]:
        """How often each job has begun."""
        return Counter(line.job_id for line in self.rig.lines() if line.body is not None)

    def test_jobs_that_fail_twice_run_at_the_third_attempt(self) -> None:
        """And those that fail more often than --attempts are dead, with the handler's error."""
        web = self.start("--attempts=4", "--backoff=0.2:0.2")
        twice = Load(web.port, [b"fail 2"] * 100 + [b"ordinary"] * 100).run(10)
        always = Load(web.port, [b"fail 99"] * 20).run(10)
        count = self.rig.until_settled(twice.accepted + always.accepted)
        self.assertEqual(count, Count(220, 200, 0, 20, 0))
        begun = self.begun()
        self.assertEqual(Counter(begun[job_id] for job_id in twice.accepted), {1: 100, 3: 100})
        self.assertEqual({begun[job_id] for job_id in always.accepted}, {4})
        letters = dead_letters(web.port)
        self.assertEqual({(letter["attempts"], letter["strikes"]) for letter in letters.values()}, {(4, 0)})
        self.assertIn("attempt 4 fails, as it was told to", letters[always.accepted[0]]["error"])

    def test_retries_that_wait_outlive_the_web_side(self) -> None:
        """Killed while they wait: each still has three attempts, no more, and runs.

        By the handler's word, as a backoff may be next to none: a job that ends when the web side is killed may run
        twice.
        """
        web = self.start()
        load = Load(web.port, [b"fail 2 later 3"] * 100).run(10)
        self.rig.until(
            "each has failed", lambda: all(status_of(web.port, job_id)["attempts"] > 1 for job_id in load.accepted)
        )
        dead_letters(web.port)  # answered from the journal, after all that had been noted before
        web.popen.kill()
        web.wait()
        waiting = {job_id for job_id, times in self.begun().items() if times == 1}
        self.assertGreater(len(waiting), 10, "hardly any waited")
        web = self.rig.again(web)
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(100))
        self.assertEqual(set(self.begun().values()), {3})
        self.rig.until("the last is settled", lambda: status_of(web.port, self.rig.lines()[-1].job_id)["settled_at"])
        self.assertEqual({status_of(web.port, job_id)["attempts"] for job_id in waiting}, {3})

    def test_an_attempt_that_takes_too_long_has_failed(self) -> None:
        """--timeout: it is cancelled; others that share its worker run, and it is dead after --attempts."""
        web = self.start("--timeout=1", "--attempts=2", "--backoff=0.1:0.1", handler="record_async")
        load = Load(web.port, [b"60", *[b"ordinary"] * 200, b"60"]).run(10)
        count = self.rig.until_settled(load.accepted)
        self.assertEqual(count, Count(202, 200, 0, 2, 0))
        letters = dead_letters(web.port)
        self.assertEqual({letter["error"] for letter in letters.values()}, {"timed out after 1 seconds"})
        begun = self.begun()
        self.assertEqual({begun[job_id] for job_id in letters}, {2})


class RetriesWithTheExample(Retries):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True


class HoldsUpItsWorker(SynchronousTestCase):
    """A handler that blocks the reactor, so that its worker says nothing at all."""

    def test_the_jobs_behind_it_do_not_wait_for_it(self) -> None:
        """5 seconds after --timeout they go to others; the one that blocks is found, and dead after --attempts."""
        with Rig() as rig:
            workers = rig.pool()
            web = rig.web([worker.port for worker in workers], "--timeout=1", "--attempts=1", "--window=16")
            rig.until_ready(web, 3)
            began = time.monotonic()
            load = Load(web.port, [b"60"] + [b"ordinary"] * 149).run(1)
            count = rig.until_settled(load.accepted)
            self.assertLess(time.monotonic() - began, 50, "they waited for the end of the handler")
            self.assertEqual(count, Count(150, 149, 0, 1, 0))
            (letter,) = dead_letters(web.port).values()
            self.assertEqual(letter["strikes"], 0)
            self.assertIn("timed out", letter["error"])
            # Two have met it, the second when it was alone there. They are blocked still.
            rig.until_ready(web, 1)
            after = Load(web.port, [b"after"] * 100).run(10)
            self.assertEqual(rig.until_all_ran(after.accepted), Count.all_ran(100))
