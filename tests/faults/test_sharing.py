"""Who gets which job: with real processes, counted in what the workers write."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.case import RigCase
from tests.faults.load import Load, batch, get
from tests.faults.records import Count, Record
from tests.faults.rig import ROUNDS, Process, Rig, ready_workers

FLOOD = [b'"job"'] * 20_000


class Sharing(RigCase):
    """With zpipe-worker."""

    def shares(self, workers: list[Process]) -> list[int]:
        """How many jobs each worker has run."""
        return [self.rig.ran(worker) for worker in workers]

    def push(self, web: Process, *bodies: bytes, connections: int = 1) -> list[str]:
        """Push one job after the other, and wait until all have run: their ids."""
        load = Load(web.port, list(bodies)).run(connections)
        self.assertEqual(len(load.accepted), len(bodies))
        self.rig.until_all_ran(load.accepted)
        return load.accepted

    def test_the_first_three_jobs_go_to_three_workers_when_the_web_side_was_there_first(self) -> None:
        """No sleep, no warming up."""
        ports = [self.rig.worker().port for _ in range(3)]
        for process in self.rig.processes:
            process.end()
        web = self.rig.web(ports)
        self.assertEqual(ready_workers(web), 0)
        workers = [self.rig.worker(port) for port in ports]
        self.rig.until_ready(web, 3)
        self.push(web, b"a", b"b", b"c")
        self.assertEqual(self.shares(workers), [1, 1, 1])

    def test_the_first_three_jobs_go_to_three_workers_when_they_were_there_first(self) -> None:
        """The other way round."""
        workers = self.rig.pool()
        web = self.rig.web([worker.port for worker in workers])
        self.rig.until_ready(web, 3)
        self.push(web, b"a", b"b", b"c")
        self.assertEqual(self.shares(workers), [1, 1, 1])

    def test_with_one_of_three_absent_the_others_get_half_each(self) -> None:
        """At once: nothing is sent to an address where nobody is."""
        workers = self.rig.pool()
        workers[0].end()
        web = self.rig.web([worker.port for worker in workers])
        self.rig.until_ready(web, 2)
        self.rig.push_in_rounds(web, 2)
        self.assertEqual(self.shares(workers), [0, ROUNDS, ROUNDS])

    def test_jobs_wait_for_the_first_worker(self) -> None:
        """Up to the bound; then 503 with Retry-After; and all that was accepted runs when one comes."""
        worker = self.rig.worker()
        worker.end()
        web = self.rig.web([worker.port], "--max-pending=50")
        load = Load(web.port, [b"%d" % 0] * 60).run(3)
        self.assertEqual((len(load.accepted), load.refused), (50, [503] * 10))
        status, headers, _ = get(web.port, "/?one-more")
        self.assertEqual(status, 503)
        self.assertGreaterEqual(int(headers["retry-after"]), 1)
        self.rig.worker(worker.port)
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(50))

    def test_nobody_waits_for_jobs_of_two_seconds(self) -> None:
        """Thirty jobs over three workers, every third of two seconds: blind round-robin would need 20 seconds."""
        workers = self.rig.pool()
        web = self.rig.web([worker.port for worker in workers])
        self.rig.until_ready(web, 3)
        began = time.monotonic()
        bodies = [b"2" if number % 3 == 0 else b"0" for number in range(30)]
        self.push(web, *bodies, connections=1)
        self.assertLess(time.monotonic() - began, 12)

    def test_a_worker_twenty_times_slower_gets_less_and_nobody_waits_for_it(self) -> None:
        """Jobs of 2 ms and of 40 ms: the slow one gets a small share, and the others are not held up."""
        fast, slow = [self.rig.worker(seconds=0.002) for _ in range(2)], self.rig.worker(seconds=0.04)
        web = self.rig.web([worker.port for worker in [*fast, slow]])
        self.rig.until_ready(web, 3)
        jobs = 3000
        load = Load(web.port, [b"job %d" % number for number in range(jobs)]).run(50)
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(jobs))
        first, second, few = self.shares([*fast, slow])
        self.assertLess(few, jobs * 0.1)
        self.assertGreater(min(first, second), jobs * 0.35)


class SharingWithTheExample(Sharing):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True


class TheArticle(SynchronousTestCase):
    """The article's own experiment, a fifth of its length."""

    def test_20_000_requests_by_ab_run_evenly_on_three_workers(self) -> None:
        """20,000 answers of 202, 20,000 ids run, and no worker is 10 % off the mean."""
        if shutil.which("ab") is None:
            raise SkipTest("ab is not installed")
        with Rig() as rig:
            workers = rig.pool()
            web = rig.web([worker.port for worker in workers])
            rig.until_ready(web, 3)
            url = f"http://127.0.0.1:{web.port}/?hello"
            ab = subprocess.run(["ab", "-q", "-n", "20000", "-c", "100", url], capture_output=True, text=True)
            self.assertRegex(ab.stdout, r"Complete requests:\s+20000\n")
            self.assertNotIn("Non-2xx", ab.stdout)
            self.assertRegex(ab.stdout, r"Failed requests:\s+0\n", re.DOTALL)
            rig.until("20,000 jobs have run", lambda: sum(rig.ended().values()) >= 20_000)
            ended = rig.ended()
            self.assertEqual((len(ended), set(ended.values())), (20_000, {1}))
            for worker in workers:
                self.assertApproximates(rig.ran(worker), 20_000 / 3, 20_000 / 30)


class TurnsSlow(SynchronousTestCase):
    """A worker that turns slow in the middle of a flood has no more than it runs at once, and one job, soon after."""

    def check(self, handler: str, concurrency: int) -> None:
        """Hundreds stood in its window. What it has now is what it runs while the web side cannot hand out more."""
        with Rig() as rig:
            workers = [rig.worker(handler=handler) for _ in range(2)]
            web = rig.web([worker.port for worker in workers])
            rig.until_ready(web, 2)
            accepted = batch(web.port, FLOOD)
            rig.until("the flood flows", lambda: max(map(rig.ran, workers)) > 5000)
            turning = max(workers, key=rig.ran).port
            (rig.folder / f"record-{turning}.slow").touch()
            turned = time.monotonic()
            for _ in range(2):  # so that there is something to hand out still
                accepted += batch(web.port, FLOOD)
            rig.until("the next one has begun", lambda: next_one_has_begun(rig.record(turning), turned))
            web.signal(signal.SIGSTOP)
            stopped = time.monotonic()
            rig.until("it runs nothing more", lambda: time.monotonic() > rig.record(turning).lines[-1].at + 3)
            had = [line for line in rig.record(turning).lines if line.body is None and line.at > stopped]
            self.assertLessEqual(len(had), concurrency + 1)
            web.signal(signal.SIGCONT)
            count = rig.until_all_ran(accepted)
            self.assertEqual(count, Count.all_ran(3 * len(FLOOD), count.run_twice))

    def test_once_its_plain_handler_returns(self) -> None:
        """Until then it can say nothing."""
        self.check("record", 1)

    def test_within_a_second_with_asynchronous_handlers(self) -> None:
        """Which take a second: the first of them has just ended."""
        self.check("record_async", 10)


def next_one_has_begun(record: Record, turned: float) -> bool:
    """Whether a job began after the end of one that had begun in that worker since it turned slow."""
    slow = {line.job_id for line in record.lines if line.body is not None and line.at > turned}
    ends = [line.at for line in record.lines if line.body is None and line.job_id in slow]
    return bool(ends) and any(line.at > ends[0] for line in record.lines if line.body is not None)
