"""Jobs that kill whatever runs them: each becomes a dead letter, and the jobs beside it are not punished."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from threading import Event, Thread

from tests.faults.bodies import POISON
from tests.faults.case import RigCase
from tests.faults.load import Load, dead_letters, pushed, request, status_of
from tests.faults.records import Count
from tests.faults.rig import Process, Rig
from zpipeline.job import make_id

STRIKES = 3

#: One is left when each poison has one of them.
WORKERS = len(POISON) + 1


class Poison(RigCase):
    """With zpipe-worker."""

    def start(self, *options: object) -> tuple[Process, list[Process]]:
        workers = self.rig.pool(WORKERS, seconds=0.002)
        web = self.rig.web([worker.port for worker in workers], *options)
        self.rig.until_ready(web, WORKERS)
        return web, workers

    def poison(self, web: Process, load: Load) -> dict[str, str]:
        """One of each kind, amid the others, and each of them accepted: the ids by body."""
        poisoned = {}
        for number, body in enumerate(POISON, 1):
            self.rig.until("ordinary jobs flow", lambda before=200 * number: len(load.accepted) >= before)
            poisoned[body.decode()] = pushed(web.port, body)
        return poisoned

    def check(self, web: Process, load: Load, strikes: Strikes, poisoned: dict[str, str]) -> None:
        """The poison is dead, and it alone, and nothing else was struck."""
        count = self.rig.until_settled([*load.accepted, *poisoned.values()], 120)
        ordinary = len(load.accepted)
        self.assertEqual(count, Count(ordinary + len(POISON), ordinary, count.run_twice, len(POISON), 0))
        letters = dead_letters(web.port)
        self.assertEqual(set(letters), set(poisoned.values()))
        self.assertEqual({letter["strikes"] for letter in letters.values()}, {STRIKES})
        self.assertLessEqual(strikes.seen.keys(), set(poisoned.values()))
        self.assertEqual([seen for seen in strikes.seen.values() if seen != sorted(seen)], [], "strikes were forgotten")
        for body, job_id in poisoned.items():
            began = [line.body for line in self.rig.lines() if line.job_id == job_id]
            self.assertGreaterEqual(len(began), STRIKES)
            self.assertIn("worker processes that died", letters[job_id]["error"])
            status, _, answer = request(web.port, "GET", f"/dead/{job_id}")
            self.assertEqual((status, f'"body": "{body}"' in answer.decode()), (200, True), answer)
            self.assertEqual(status_of(web.port, job_id)["state"], "dead")
        logs = "".join(process.log for process in self.rig.processes if process.name == "web")
        for job_id in poisoned.values():
            self.assertRegex(logs, rf"job {job_id} is dead: .*: {STRIKES}\n(\d|\Z)")  # one line

    def test_it_is_found_while_ordinary_jobs_flow(self) -> None:
        """Three kinds of it, each amid full windows: three strikes each; and others run all the while."""
        web, workers = self.start()
        stop = Event()
        with self.rig.kept_alive(workers), Strikes(self.rig, web) as strikes:
            load = Load(web.port, ordinary(stop)).start(10)
            poisoned = self.poison(web, load)
            self.rig.until("all poison is dead", lambda: len(self.rig.dead()) == len(POISON), 120)
            stop.set()
            load.join()
            self.check(web, load, strikes, poisoned)
        # The first strikes may hit all workers at once. After that one at a time is risked, and before its last strike
        # each job has a rest, in which others run that came after all poison: in one of them at least. (A worker that
        # was killed may take longer to start than a rest, and then has what has rested first.)
        lines = self.rig.lines()
        rests = [[line.at for line in lines if line.job_id == job_id][-2:] for job_id in poisoned.values()]
        later = [line.at for line in lines if line.body is None and line.job_id > max(poisoned.values())]
        flowed = [any(since < at < until for at in later) for since, until in rests]
        self.assertTrue(any(flowed), "ordinary jobs did not flow")

    def test_strikes_outlive_the_web_side(self) -> None:
        """Killed when a job has been struck, and started again on its journal."""
        web, workers = self.start()
        stop = Event()
        with self.rig.kept_alive(workers), Strikes(self.rig, web) as strikes:
            load = Load(web.port, ordinary(stop)).start(10)
            poisoned = self.poison(web, load)
            self.rig.until("one is struck", lambda: strikes.seen, 120)
            web.popen.kill()
            web.wait()
            left = strikes.read()
            web = self.rig.again(web)
            self.rig.until("all poison is dead", lambda: len(self.rig.dead()) == len(POISON), 120)
            stop.set()
            load.join()
            self.check(web, load, strikes, poisoned)
        self.assertTrue(left)
        self.assertTrue(all(0 < struck < STRIKES for struck in left.values()), left)


def ordinary(stop: Event) -> Iterator[bytes]:
    """Bodies: many at once, and then some now and then."""
    yield from [b"ordinary"] * 200 * (len(POISON) + 1)
    while not stop.wait(0.005):
        yield b"ordinary"


class Strikes:
    """Looks into a journal from outside, again and again: which jobs have been struck, and how often.

    :ivar seen: by id, all numbers of strikes that were seen, in order.
    """

    def __init__(self, rig: Rig, web: Process) -> None:
        self.seen: dict[str, list[int]] = {}
        self._path = rig.folder / f"journal-{web.port}.sqlite"
        self._stop = Event()
        self._thread = Thread(target=self._watch)

    def __enter__(self) -> Strikes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def read(self) -> dict[str, int]:
        """Those that are struck now, and not dead."""
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)) as journal:
            ventilator = journal.execute("SELECT value FROM meta WHERE name = 'ventilator'").fetchone()[0]
            rows = journal.execute("SELECT sequence, strikes FROM jobs WHERE strikes > 0").fetchall()
        return {make_id(ventilator, sequence): strikes for sequence, strikes in rows}

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for job_id, strikes in self.read().items():
                seen = self.seen.setdefault(job_id, [])
                if not seen or seen[-1] != strikes:
                    seen.append(strikes)


class PoisonWithTheExample(Poison):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True
