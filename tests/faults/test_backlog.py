"""A million jobs wait, half of them for another attempt."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.load import batch, status_of
from tests.faults.rig import Process, Rig
from tests.journal_kit import fill
from zpipeline.job import make_id

JOBS = 1_000_000
FIRST = 1000


class Backlog(SynchronousTestCase):
    """A web side that is started on a journal with all of them."""

    def test_it_serves_at_once_and_runs_them_in_order_with_few_in_memory(self) -> None:
        """HTTP within 2 seconds, and less than 150 MB of resident memory at any time, while more are accepted too."""
        with Rig() as rig:
            worker = rig.worker()
            empty, without = self.starts(rig, "empty.sqlite", worker)
            empty.end()
            now = time.time()
            due = f"CASE WHEN n % 2 THEN {now} + 3600 WHEN n % 20 = 0 THEN {now} - n END"
            fill(rig.folder / "full.sqlite", JOBS, due)
            web, took = self.starts(rig, "full.sqlite", worker)
            # to start Python and import Twisted takes its time too, the more so the busier the machine is
            self.assertLess(took - without, 2)

            accepted = [job_id for _ in range(5) for job_id in batch(web.port, [b'"%b"' % (b"x" * 98)] * 10_000)]
            retries = ids(rig, range(20, JOBS + 1, 20))
            fresh = ids(rig, (n for n in range(1, 10 * FIRST) if n % 2 == 0 and n % 20))[:FIRST]
            rig.until_ran([*retries, *fresh])
            begun = rig.record(worker.port).begun
            among = set(fresh)
            # those that are due go first, the soonest; and others, in order, while the next page of them is read
            self.assertLessEqual(set(begun[:FIRST]), set(retries[-10_000:]))
            self.assertEqual([job_id for job_id in begun if job_id in among], fresh)
            self.assertEqual(status_of(web.port, ids(rig, [1])[0])["state"], "retrying")
            self.assertEqual(status_of(web.port, accepted[-1])["state"], "waiting")
            self.assertLess(web.most_memory, 150_000)

    def starts(self, rig: Rig, journal: str, worker: Process) -> tuple[Process, float]:
        """A web side with that journal, and how many seconds it took until it answered."""
        began = time.monotonic()
        web = rig.web([worker.port], f"--journal={journal}", f"--max-pending={2 * JOBS}")
        return web, time.monotonic() - began


def ids(rig: Rig, numbers: Iterable[int]) -> list[str]:
    """Of jobs with these numbers in the full journal."""
    with closing(sqlite3.connect(f"file:{rig.folder}/full.sqlite?mode=ro", uri=True)) as journal:
        ventilator = journal.execute("SELECT value FROM meta WHERE name = 'ventilator'").fetchone()[0]
    return [make_id(ventilator, number) for number in numbers]
