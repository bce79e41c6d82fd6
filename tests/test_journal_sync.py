"""A disk that cannot sync: strace makes the calls fail, in a process that pushes as fast as it goes."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from shutil import which

from twisted.trial.unittest import SkipTest

from tests.journal_kit import JournalCase
from tests.test_journal import check_books
from zpipeline.journal.opening import open_journal


class SyncFailsTests(JournalCase):
    """What was refused is not there, and what was accepted is, whenever the process is killed."""

    timeout = 120.0

    def setUp(self) -> None:
        super().setUp()
        if which("strace") is None:
            raise SkipTest("strace is not installed")
        may = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
        if may.returncode:
            raise SkipTest(f"strace may not trace here: {may.stderr}")

    def pushes(self, error: str, when: str, refusals: int) -> tuple[set[int], set[int]]:
        """Which jobs were accepted and which refused by a process that is killed once so many pushes were refused.

        :param when: which of the calls fail, as strace has it.
        """
        calls = "fdatasync,fsync"
        # -D: the process that is started is the traced one
        strace = ["strace", "-D", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}"]
        process = self.process("push", *strace, "-e", f"inject={calls}:error={error}:when={when}")
        accepted: set[int] = set()
        refused: set[int] = set()
        assert process.stdout is not None
        for line in process.stdout:
            word, *rest = line.split()
            if word != "refused":
                accepted |= {int(number) for number in (word, *rest)}
                continue
            refused |= set(map(int, rest))
            refusals -= 1
            if not refusals:
                process.kill()
                break
        process.wait()
        self.assertTrue(accepted and refused)
        return accepted, refused

    def check(self, accepted: set[int], refused: set[int]) -> None:
        """What the file has, after the kill."""
        connection, _ = open_journal(str(self.path))
        with closing(connection):
            there = {n for (n,) in connection.execute("SELECT sequence FROM jobs UNION SELECT sequence FROM settled")}
            keys = {n for (n,) in connection.execute("SELECT sequence FROM keys")}
            self.assertEqual(accepted - there, set())
            self.assertEqual(refused & (there | keys), set())
            check_books(self, connection)
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone(), ("ok",))

    def test_one_that_fails_once(self) -> None:
        self.check(*self.pushes("EIO", "40", 1))

    def test_one_that_fails_for_ever(self) -> None:
        self.check(*self.pushes("EIO", "40+", 1))
        self.check(*self.pushes("ENOSPC", "60+", 40))

    def test_those_that_fail_now_and_then(self) -> None:
        accepted, refused = self.pushes("EIO", "30+7", 60)
        self.check(accepted, refused)

    def test_after_one_that_failed_it_goes_on_by_itself(self) -> None:
        accepted, refused = self.pushes("EIO", "40+40", 40)
        self.assertGreater(len(accepted), 100)
        self.check(accepted, refused)
