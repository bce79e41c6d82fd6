"""The benchmarks work: all of them are run, with next to no load."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).parent.parent


class BenchmarkTests(SynchronousTestCase):
    timeout = 240

    def test_all_is_measured_and_written_down(self) -> None:
        if find_spec("matplotlib") is None:
            raise SkipTest("matplotlib is not installed: it comes with the extra 'bench'")
        folder = Path(self.mktemp()).absolute()
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--scale=0.002", f"--into={folder}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=self.timeout,
        )
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertEqual({path.name for path in folder.iterdir()}, {"measured.inc", "workers.svg", "bodies.svg"})
        measured = (folder / "measured.inc").read_text()
        figures = ("Jobs a second", "8 workers", "p99", "fdatasync", "costs to be watched", "Only 0.002 of each load")
        for expected in figures:
            self.assertIn(expected, measured)

    def test_what_waits_is_measured(self) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.backlog", "--jobs=100000", "--sample=20000"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=self.timeout,
        )
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertRegex(run.stdout, r"ratio, with 100,000 waiting to without: accept \d+\.\d\d, settle \d+\.\d\d")
