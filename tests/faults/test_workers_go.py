"""Workers that are killed, stopped and frozen under load, and come back: nothing that was accepted is lost."""

from __future__ import annotations

import signal

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.case import RigCase
from tests.faults.load import Load, batch
from tests.faults.records import Count, ran_twice
from tests.faults.rig import ROUNDS, Process, Rig

JOBS = 20_000
NUMBERS = [b"job %d" % number for number in range(JOBS)]


class WorkersGo(RigCase):
    """With zpipe-worker."""

    def start(self, *options: object, seconds: float = 0) -> tuple[Process, list[Process]]:
        workers = self.rig.pool(seconds=seconds)
        web = self.rig.web([worker.port for worker in workers], *options)
        self.rig.until_ready(web, 3)
        return web, workers

    def load(self, web: Process, at_half: object) -> Load:
        load = Load(web.port, NUMBERS)
        load.at(JOBS // 2, at_half)
        load.run(100)
        self.assertEqual((load.refused, load.broken, len(load.accepted)), ([], 0, JOBS))
        return load

    def takes_part_again(self, web: Process, worker: Process) -> None:
        """The worker, restarted on its port, gets its share."""
        before = len(self.rig.record(worker.port).ended)
        self.rig.worker(worker.port)
        self.rig.until_ready(web, 3)
        self.rig.push_in_rounds(web, 3)
        self.assertEqual(len(self.rig.record(worker.port).ended) - before, ROUNDS)

    def others_share(self, web: Process, gone: Process, workers: list[Process]) -> None:
        """The two that are left get half each."""
        others = [worker for worker in workers if worker is not gone]
        before = [len(self.rig.record(worker.port).ended) for worker in others]
        self.rig.push_in_rounds(web, 2)
        gained = [len(self.rig.record(w.port).ended) - b for w, b in zip(others, before, strict=True)]
        self.assertEqual(gained, [ROUNDS, ROUNDS])

    def test_one_of_three_is_killed(self) -> None:
        """Every accepted job runs; the other two share the load; restarted, the worker takes part again."""
        web, workers = self.start()
        victim = workers[1]
        load = self.load(web, lambda: victim.signal(signal.SIGKILL))
        count = self.rig.until_all_ran(load.accepted)
        self.assertEqual(count, Count.all_ran(JOBS, count.run_twice))
        # what it had run, and not reported yet
        self.assertLessEqual(ran_twice(self.rig.lines()), set(self.rig.record(victim.port).ended))
        self.rig.until_ready(web, 2)
        self.others_share(web, victim, workers)
        self.takes_part_again(web, victim)

    def test_one_of_three_is_stopped(self) -> None:
        """Every accepted job runs, and none twice; the worker ends by itself; restarted, it takes part again."""
        web, workers = self.start()
        leaver = workers[1]
        load = self.load(web, lambda: leaver.signal(signal.SIGTERM))
        count = self.rig.until_all_ran(load.accepted)
        self.assertEqual(leaver.wait(20), 0)
        self.assertEqual(count, Count.all_ran(JOBS))
        self.others_share(web, leaver, workers)
        self.assertEqual(self.rig.count(load.accepted).run_twice, 0)
        self.takes_part_again(web, leaver)

    def test_one_of_three_is_stopped_with_a_full_window(self) -> None:
        """What stands in the window is run by the worker before it leaves, and by nobody else."""
        web, workers = self.start("--window=400", seconds=0.0005)
        leaver = workers[1]
        load = self.load(web, lambda: leaver.signal(signal.SIGTERM))
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(JOBS))
        leaver.wait(20)
        self.assertEqual(self.rig.count(load.accepted), Count.all_ran(JOBS))

    def test_one_of_three_is_frozen_and_thawed(self) -> None:
        """What it had not begun runs elsewhere, and not again when it thaws; then it takes part again."""
        web, workers = self.start()
        frozen = workers[1]
        load = self.load(web, lambda: frozen.signal(signal.SIGSTOP))
        self.rig.until_ready(web, 2)
        begun = len(self.rig.record(frozen.port).begun)
        self.rig.until("all that another could run has run", lambda: self.rig.count(load.accepted).lost <= 1)
        self.others_share(web, frozen, workers)
        frozen.signal(signal.SIGCONT)
        self.rig.until_ready(web, 3)
        more = self.rig.push_in_rounds(web, 3)
        count = self.rig.until_all_ran(load.accepted)
        self.assertEqual(count, Count.all_ran(JOBS, count.run_twice))
        record = self.rig.record(frozen.port)
        thawed = set(record.begun[begun:])
        # One job may have been in its hands already, though its record did not say so yet.
        begun_before = set(record.begun[:begun]) | set(record.begun[begun : begun + 1])
        self.assertLessEqual(thawed, set(more) | begun_before, "it ran what had been handed on")
        self.assertEqual(len(thawed & set(more)), ROUNDS)
        self.assertLessEqual(ran_twice(self.rig.lines()), begun_before, "more ran twice than what it had begun")

    def test_a_worker_that_is_killed_again_and_again_loses_nothing(self) -> None:
        """Killed three times in one load, and restarted each time."""
        web, workers = self.start()
        with self.rig.kept_alive(workers) as current:
            load = Load(web.port, NUMBERS)
            for part in (1, 2, 3):
                load.at(part * JOBS // 4, lambda: current[2].popen.kill())
            load.run(100)
            self.assertEqual(len(load.accepted), JOBS)
            count = self.rig.until_all_ran(load.accepted)
        self.assertEqual(count, Count.all_ran(JOBS, count.run_twice))


class WorkersGoWithTheExample(WorkersGo):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True


class OnlyOurs(SynchronousTestCase):
    """What the example worker has no option for."""

    def test_results_of_100_kb_arrive_before_a_stopped_worker_ends(self) -> None:
        """SIGTERM under load: what was run is reported, however large, so nothing runs twice."""
        with Rig() as rig:
            workers = [rig.worker(handler="large_result") for _ in range(3)]
            web = rig.web([worker.port for worker in workers])
            rig.until_ready(web, 3)
            load = Load(web.port, NUMBERS[:2000])
            load.at(1000, lambda: workers[0].signal(signal.SIGTERM))
            load.run(100)
            self.assertEqual(rig.until_all_ran(load.accepted), Count.all_ran(2000))
            self.assertEqual(workers[0].wait(20), 0)
            rig.until_ready(web, 2)
            self.assertEqual(rig.count(load.accepted), Count.all_ran(2000))

    def test_a_handler_that_blocks_for_five_seconds_is_not_taken_for_dead(self) -> None:
        """With a full window behind it; nothing runs twice, and nobody else gets its jobs meanwhile."""
        with Rig() as rig:
            workers = rig.pool(2)
            web = rig.web([worker.port for worker in workers], "--window=50")
            rig.until_ready(web, 2)
            accepted = batch(web.port, [b"5", *[b"0"] * 99])  # 50 for each
            self.assertEqual(rig.until_all_ran(accepted), Count.all_ran(100))
            lines = rig.lines()
            began, ended = (line.at for line in lines if line.job_id == accepted[0])
            self.assertGreater(ended - began, 4.5)
            after = [line for line in lines if line.body is not None and line.at > ended]
            self.assertEqual(len(after), 49, "what stood behind it did not wait")
            self.assertEqual(sorted(len(rig.record(worker.port).begun) for worker in workers), [50, 50])
            self.assertNotIn("trying again", web.log.split("ready (", 2)[2])

    def test_c_code_that_holds_the_interpreter_is_no_freeze(self) -> None:
        """What runs beside it runs on, and nowhere else, though another worker has nothing to do."""
        with Rig() as rig:
            workers = [rig.worker(None, "--threads=2") for _ in range(2)]
            web = rig.web([worker.port for worker in workers])
            rig.until_ready(web, 2)
            bodies = [b"6", b"6", b"hold 2.5", b"hold 2.5"]
            load = Load(web.port, bodies).run(1)
            rig.until("the holds are over", lambda: len(rig.ended()) == 2, seconds=30)
            more = Load(web.port, NUMBERS[:2]).run(1)  # before it begins another job, a worker looks for a freeze
            rig.until_all_ran([*load.accepted, *more.accepted])
            begun = [line.body for line in rig.lines() if line.body is not None]
            self.assertEqual(sorted(begun), sorted(body.decode() for body in [*bodies, *NUMBERS[:2]]))
            for worker in workers:
                self.assertNotIn("was stopped for a while", worker.log)
