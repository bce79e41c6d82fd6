"""A copy of the journal while it is in use, under load, and what it is good for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from threading import Event

from tests.faults.case import RigCase
from tests.faults.load import Load
from tests.journal_kit import fill

#: In the journal from the start, some 50 MB of them.
BACKLOG = 400_000

ZPIPE = [sys.executable, "-c", "import sys; from zpipeline.cli import main; sys.exit(main())"]


class Backup(RigCase):
    """``zpipe journal backup`` beside a web side that does not stop writing."""

    def test_it_ends_under_load_and_has_every_job_that_was_accepted_before(self) -> None:
        """The web side goes on meanwhile; and the copy, in the place of the journal, has all of them run."""
        path, copy = self.rig.folder / "journal.sqlite", self.rig.folder / "copy.sqlite"
        fill(path, BACKLOG, "9e9")  # they wait for another attempt, for longer than this test
        worker = self.rig.worker()
        worker.end()
        web = self.rig.web([worker.port], f"--journal={path}")
        stop = Event()
        self.addCleanup(stop.set)

        def bodies() -> Iterator[bytes]:
            while not stop.is_set():
                yield b"under load"

        load = Load(web.port, bodies()).start(5)
        self.rig.until("jobs are accepted", lambda: len(load.accepted) >= 200)
        before = list(load.accepted)
        backup = self.rig.start("backup", [*ZPIPE, "journal", "backup", copy, f"--journal={path}"], web.port)
        self.assertEqual(backup.wait(), 0, backup.log)
        during = len(load.accepted) - len(before)
        self.assertGreater(during, 0)
        self.rig.until("the load goes on", lambda: len(load.accepted) >= len(before) + during + 200)
        stop.set()
        load.join()
        self.assertEqual((load.refused, load.broken), ([], 0))
        self.assertRegex(backup.log, rf"^{copy}: [\d,]+ bytes, 4\d\d,\d\d\d jobs unsettled, 0 dead letters, copied in ")

        self.assertEqual(web.end(), 0, web.log)
        for left in (path, *self.rig.folder.glob(f"{path.name}-*")):
            left.unlink()
        copy.rename(path)
        self.rig.again(worker)
        web = self.rig.again(web)
        self.rig.until_ran(before)
        self.assertEqual(web.end(), 0, web.log)
