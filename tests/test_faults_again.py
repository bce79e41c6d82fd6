"""`tests.faults.again`, with a suite of one test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which

from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import os, time, unittest
from pathlib import Path

class Fake(unittest.TestCase):
    def test_it(self):
        folder = Path(os.environ["FAKE"])
        (folder / f"begun-{os.getpid()}").touch()
        company = int(os.environ["COMPANY"])
        while len(list(folder.glob("begun-*"))) < company or (folder / "hold").exists():
            time.sleep(0.01)
        self.assertFalse((folder / "fails").exists(), "as it was told to")
"""


class AgainTests(SynchronousTestCase):
    timeout = 120

    def setUp(self) -> None:
        if which("git") is None:
            raise SkipTest("git is not installed")
        self.folder = Path(self.mktemp()).absolute()
        self.logs = self.folder / "logs"
        self.tree = self.folder / "tree"
        self.tree.mkdir(parents=True)
        (self.tree / "fake.py").write_text(SUITE)
        (self.tree / ".gitignore").write_text("_trial_temp*\n__pycache__\n")
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", str(self.tree)]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
            subprocess.run([*git, *words], check=True, capture_output=True)

    def start(self, *options: str, company: int = 1) -> subprocess.Popen[str]:
        """Start it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.again", f"--log={self.logs}", *options, "fake"],
            cwd=self.tree,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.tree)]),
                "FAKE": str(self.folder),
                "COMPANY": str(company),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def run_it(self, *options: str, company: int = 1) -> tuple[int, str]:
        """Exit status and standard output."""
        process = self.start(*options, company=company)
        said, errors = process.communicate()
        self.assertEqual(errors, "")
        return process.returncode, said

    def summary(self) -> list[str]:
        path = self.logs / "summary.txt"
        return path.read_text().splitlines() if path.exists() else []

    def numbers(self) -> list[int]:
        """Of the runs, in the summary."""
        return [int(line.split()[1]) for line in self.summary()]

    def test_each_run_has_a_log_and_a_line(self) -> None:
        status, said = self.run_it("--times=2")
        self.assertEqual(status, 0, said)
        counts = r"1 passed, 0 failed, 0 skipped  \d+ s  load [\d.]+"
        line = rf"run 1  [0-9a-f]{{10}} clean fake  {counts}  \d+-\d\d-\d\d [\d:]{{8}}"
        self.assertRegex(self.summary()[0], f"^{line}$")
        self.assertEqual(self.numbers(), [1, 2])
        self.assertEqual(said.splitlines()[:2], self.summary())
        logs = sorted(self.logs.glob("*/run-*.log"))
        self.assertEqual([log.name for log in logs], ["run-001.log", "run-002.log"])
        self.assertIn("PASSED (successes=1)", logs[0].read_text())

    def test_it_stops_at_a_failure_and_goes_on_if_it_is_told_to(self) -> None:
        (self.folder / "fails").touch()
        status, said = self.run_it("--times=3")
        self.assertEqual((status, self.numbers()), (1, [1]))
        self.assertIn("run 1 has failed: fake.Fake.test_it\n", said)
        log = Path(re.search(r"its log: (.*)\n", said)[1])  # type: ignore[index]
        self.assertIn("as it was told to", log.read_text())
        self.assertIn("--keep-going", said)
        (self.folder / "fails").unlink()
        status, said = self.run_it("--times=3")
        self.assertEqual((status, self.numbers()), (1, [1]), "the failure was forgotten")
        status, said = self.run_it("--times=3", "--keep-going")
        self.assertEqual((status, self.numbers()), (1, [1, 2, 3]))
        self.assertIn("3 of 3 runs have ended, 1 failed", said)

    def test_when_it_is_interrupted_it_goes_on_with_the_runs_that_are_missing(self) -> None:
        self.run_it("--times=1")
        (self.folder / "hold").touch()
        for begun, number in ((2, signal.SIGINT), (3, signal.SIGTERM)):
            process = self.start("--times=3")
            self.until(lambda begun=begun: len(self.begun()) == begun)
            process.send_signal(number)
            _, errors = process.communicate()
            self.assertEqual(process.returncode, 1)
            self.assertIn("interrupted: the same command goes on", errors)
        (self.folder / "hold").unlink()
        self.assertEqual(self.numbers(), [1])
        self.assertEqual(self.run_it("--times=3")[0], 0)
        self.assertEqual(self.numbers(), [1, 2, 3])

    def test_another_file_begins_a_new_series_and_the_logs_of_the_old_one_stay(self) -> None:
        self.run_it()
        (self.tree / "new").write_text("one")
        self.run_it()
        (self.tree / "new").write_text("other")
        self.run_it()
        self.run_it()
        self.assertEqual(self.numbers(), [1, 1, 1])
        self.assertEqual([line.split()[3].split("-")[0] for line in self.summary()], ["clean", "dirty", "dirty"])
        self.assertEqual(len(list(self.logs.glob("*/run-001.log"))), 3)

    def test_two_runs_side_by_side(self) -> None:
        """Each waits until the other has begun."""
        status, said = self.run_it("--times=2", "--jobs=2", company=2)
        self.assertEqual((status, sorted(self.numbers())), (0, [1, 2]), said)

    def test_a_second_one_on_the_same_logs_is_refused(self) -> None:
        (self.folder / "hold").touch()
        self.start()
        self.until(self.begun)
        second = self.start()
        _, errors = second.communicate()
        self.assertEqual(second.returncode, 2)
        self.assertIn(f"runs are being made in {self.logs} already", errors)
        (self.folder / "hold").unlink()
        self.until(lambda: self.numbers() == [1])

    def begun(self) -> list[Path]:
        """Files of runs that have begun."""
        return list(self.folder.glob("begun-*"))

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for an event."""
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, self.summary())
            time.sleep(0.01)
