"""Trouble with the journal's disk and file: said clearly, nothing is lost, and it ends when the trouble ends."""

from __future__ import annotations

import errno
import json
import resource
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.case import RigCase
from tests.faults.load import Load, get, post, status_of
from tests.faults.records import Count
from tests.faults.rig import Process, Rig

#: Larger than what is left on a full disk, or of a file that may not grow.
LARGE = b"x" * 200_000


class Disk(RigCase):
    """Of a web side that runs."""

    def start(self, journal: Path | str, *, seconds: float = 0.0) -> tuple[Process, list[Process]]:
        workers = self.rig.pool(seconds=seconds)
        web = self.rig.web([worker.port for worker in workers], f"--journal={journal}")
        self.rig.until_ready(web, 3)
        return web, workers

    def refused(self, web: Process, body: bytes = b"job") -> tuple[int, str, int]:
        """What a POST gets: status, the problem's detail, and Retry-After."""
        status, headers, answer = post(web.port, body)
        self.assertEqual(headers["content-type"], "application/problem+json", answer)
        return status, json.loads(answer)["detail"], int(headers["retry-after"])

    def until_accepting(self, web: Process) -> None:
        """Wait until the web side takes jobs again, by itself."""
        self.rig.until("jobs are accepted again", lambda: get(web.port, "/health/ready")[0] == 200, 30)
        self.assertEqual(web.log.count("is written again"), 1)

    def runs(self, web: Process, before: list[str]) -> None:
        """What was accepted before the trouble and what comes after it: all runs, and nothing twice."""
        after = Load(web.port, [b"after"] * 300).run(10)
        self.assertEqual((after.refused, after.broken), ([], 0))
        accepted = before + after.accepted
        self.assertEqual(self.rig.until_all_ran(accepted), Count.all_ran(len(accepted)))
        self.rig.until("the last is settled", lambda: status_of(web.port, accepted[-1])["state"] == "done")
        self.assertEqual({status_of(web.port, job_id)["state"] for job_id in accepted}, {"done"})
        self.assertEqual(web.end(), 0, web.log)
        self.assertNotIn("are not settled yet", self.rig.again(web).log)

    def test_a_disk_that_is_full(self) -> None:
        """507, naming the file; what runs goes on; and when there is room again, it goes on by itself."""
        disk = self.rig.disk()
        web, _ = self.start(disk / "journal.sqlite", seconds=0.02)
        load = Load(web.port, [b"before"] * 300).run(10)
        fill(disk / "filler")
        status, detail, retry_after = self.refused(web, LARGE)
        self.assertEqual(status, 507)
        self.assertIn(f"the journal {disk}/journal.sqlite: there is no room on its disk", detail)
        self.assertGreater(retry_after, 0)
        self.assertEqual(json.loads(get(web.port, "/health/ready")[2])["status"], "journal")
        ready, _, answer = get(web.port, "/health/ready")
        self.assertEqual((ready, json.loads(answer)["trouble"]), (503, detail))
        self.assertEqual(get(web.port, "/health/live")[0], 200)
        self.rig.until_ran(load.accepted)
        (disk / "filler").unlink()
        self.until_accepting(web)
        self.runs(web, load.accepted)

    def test_a_file_that_may_not_grow(self) -> None:
        """503, with what the system says of it; it goes on by itself when the file may."""
        web, _ = self.start("journal.sqlite", seconds=0.02)
        load = Load(web.port, [b"before"] * 300).run(10)
        limits = resource.prlimit(web.popen.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        status, detail, _ = self.refused(web, LARGE)
        self.assertEqual(status, 503)
        self.assertIn("the journal journal.sqlite: it cannot be used (disk I/O error)", detail)
        self.rig.until_ran(load.accepted)
        resource.prlimit(web.popen.pid, resource.RLIMIT_FSIZE, limits)
        self.until_accepting(web)
        self.runs(web, load.accepted)

    def test_a_lock_that_another_program_holds(self) -> None:
        """503; what runs goes on, and is settled when the lock is gone."""
        web, _ = self.start("journal.sqlite", seconds=0.02)
        load = Load(web.port, [b"before"] * 300).run(10)
        with closing(sqlite3.connect(self.rig.folder / "journal.sqlite", isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            status, detail, _ = self.refused(web)
            self.assertEqual(status, 503)
            self.assertIn("the journal journal.sqlite: another program holds it", detail)
            self.rig.until_ran(load.accepted)
            self.assertEqual(get(web.port, "/health/ready")[0], 503)
            other.execute("ROLLBACK")
        self.until_accepting(web)
        self.runs(web, load.accepted)

    def test_a_file_that_is_damaged_where_a_start_does_not_look(self) -> None:
        """503, naming the file; nothing is handed out of it, nothing repaired, and a copy from before has all jobs."""
        (worker,) = self.rig.pool(1)
        worker.end()
        web = self.rig.web([worker.port], "--journal=journal.sqlite")
        load = Load(web.port, [b"before"] * 300).run(10)
        self.assertEqual(web.end(), 0)
        journal = self.rig.folder / "journal.sqlite"
        whole = journal.read_bytes()
        with closing(sqlite3.connect(journal)) as connection:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        with journal.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        web = self.rig.again(web)
        self.rig.again(worker)
        self.rig.until_ready(web, 1)
        status, detail, retry_after = self.refused(web)
        self.assertEqual(status, 503)
        self.assertIn("the journal journal.sqlite: it is damaged", detail)
        self.assertIn("restore it from a backup", detail)
        self.assertEqual(get(web.port, "/health/ready")[0], 503)
        for _ in range(30):  # for longer than writing is tried again after, if it is
            self.assertEqual(self.refused(web), (503, detail, retry_after))
            time.sleep(0.1)
        self.assertEqual(self.rig.lines(), [])
        self.assertEqual((web.log.count("nothing is accepted"), web.log.count("is written again")), (1, 0))
        web.end()
        self.assertNotIn("Traceback", web.log)
        for left in self.rig.folder.glob("journal.sqlite-*"):
            left.unlink()
        journal.write_bytes(whole)
        self.rig.again(web)
        self.assertEqual(self.rig.until_all_ran(load.accepted), Count.all_ran(300))

    def test_a_full_disk_when_the_web_side_is_killed(self) -> None:
        """Nothing that was accepted is lost, though its settlements could not be written."""
        disk = self.rig.disk()
        web, _ = self.start(disk / "journal.sqlite", seconds=0.02)
        load = Load(web.port, [b"before"] * 300).run(10)
        fill(disk / "filler")
        self.assertEqual(self.refused(web, LARGE)[0], 507)
        web.popen.kill()
        web.wait()
        (disk / "filler").unlink()
        web = self.rig.again(web)
        count = self.rig.until_all_ran(load.accepted)
        self.assertEqual(count, Count.all_ran(300, count.run_twice))


class Start(SynchronousTestCase):
    """Journals that cannot be opened: one line on standard error, and exit status 1."""

    def said(self, rig: Rig, journal: Path | str) -> str:
        """What a web side with that journal says as it ends."""
        web = rig.web([1], f"--journal={journal}", wait=False)
        self.assertEqual(web.wait(), 1, web.log)
        self.assertEqual(web.log.count("\n"), 1, web.log)
        return web.log

    def test_a_second_web_side_on_the_same_journal(self) -> None:
        """The line names the process that has it; that one does not notice."""
        with Rig() as rig:
            worker = rig.worker()
            web = rig.web([worker.port], "--journal=journal.sqlite")
            self.assertEqual(
                self.said(rig, "journal.sqlite"),
                f"zpipe-web: the journal journal.sqlite is in use by process {web.popen.pid}: stop that one, or name "
                "another with --journal\n",
            )
            load = Load(web.port, [b"job"] * 100).run(10)
            self.assertEqual(rig.until_all_ran(load.accepted), Count.all_ran(100))

    def test_a_read_only_file_system(self) -> None:
        """Made writable again, the journal goes on with what it has."""
        with Rig() as rig:
            journal = rig.disk() / "journal.sqlite"
            worker = rig.worker()
            worker.end()
            web = rig.web([worker.port], f"--journal={journal}")
            load = Load(web.port, [b"job"] * 100).run(10)
            self.assertEqual(web.end(), 0)
            rig.remount(journal.parent, "ro")
            self.assertIn(f"the journal {journal}: its lock {journal}.lock cannot be ", self.said(rig, journal))
            rig.remount(journal.parent, "rw")
            rig.again(web)
            rig.again(worker)
            self.assertEqual(rig.until_all_ran(load.accepted), Count.all_ran(100))

    def test_a_file_that_is_damaged_or_of_another_version(self) -> None:
        """Neither is touched."""
        with Rig() as rig:
            damaged, newer = rig.folder / "damaged.sqlite", rig.folder / "newer.sqlite"
            damaged.write_bytes(b"no journal" * 1000)
            self.assertEqual(rig.web([1], f"--journal={newer}").end(), 0)
            with closing(sqlite3.connect(newer)) as other:
                other.execute("PRAGMA user_version = 999")
            before = damaged.read_bytes(), newer.read_bytes()
            self.assertIn(
                f"zpipe-web: the journal {damaged}: it is damaged, or no SQLite file", self.said(rig, damaged)
            )
            self.assertIn(f"zpipe-web: the journal {newer} has schema version 999", self.said(rig, newer))
            self.assertEqual((damaged.read_bytes(), newer.read_bytes()), before)


def fill(path: Path) -> None:
    """Leave no room on the disk where this file is."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
