"""The benchmarks work: all of them are run, with next to no load."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks.beside import Figure
from benchmarks.flood import push
from benchmarks.rig import Rig

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

    def test_two_trees_are_measured_beside_each_other(self) -> None:
        if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
            raise SkipTest("there is no git repository here, and no commit to measure")
        names = ["batch-durable", "flood-one", "latency-durable"]
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.beside", "HEAD", "--rounds=1", "--scale=0.002", "--only", *names],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=self.timeout,
        )
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        figures = ("batch-durable, jobs a second", "flood-one, jobs a second", "latency-durable, ms, p99")
        for expected in figures:
            self.assertRegex(run.stdout, rf"{expected} +[\d,.]+ +[\d,.]+ +\d+\.\d{{3}}")

    def test_a_tree_whose_code_is_not_what_would_run_is_not_measured(self) -> None:
        """A folder without zpipeline: what is installed, or in the working directory, is another's."""
        empty = Path(self.mktemp()).absolute()
        empty.mkdir()
        with Rig(empty) as rig:
            self.assertRaises(SystemExit, rig.start, workers=1)
        self.assertRaisesRegex(SystemExit, f"is to come from {empty}", push, empty, 1000, 1)

    def test_the_ratio_is_the_median_of_the_pairs_and_below_1_is_worse(self) -> None:
        rate = Figure("ab-durable, requests a second", [(90.0, 100.0), (50.0, 50.0), (80.0, 100.0)])
        self.assertEqual(rate.ratio, 0.9)
        self.assertTrue(rate.line.endswith("below 0.95"), rate.line)
        latency = Figure("latency-durable, ms, p99", [(2.0, 1.0)])
        self.assertEqual(latency.ratio, 0.5)
        self.assertTrue(latency.line.endswith("below 0.90"), latency.line)
