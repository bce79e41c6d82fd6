"""FreezeWatch, in a process that is stopped and continued."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial import unittest

from zpipeline import freeze
from zpipeline.freeze import GAP, TICK, FreezeWatch

# Asks the watch at each line on its standard input, and says on its standard output what it answered. A line
# names what it does before that (nothing; sleep for so many seconds; or hold the interpreter for so long, in C code
# that sleeps or computes), and how often it asks. Its argument is where it finds how threads are scheduled.
PROGRAM = """
import ctypes, re, sys, time
from zpipeline import freeze
freeze.SCHEDSTAT = sys.argv[1]

def compute(seconds):
    size, took = 16, 0
    while took < seconds:
        began = time.monotonic()
        re.match(r"(a|a)*b", "a" * size)
        size, took = size + 1, time.monotonic() - began

watch = freeze.FreezeWatch()
print("ready", flush=True)
for line in sys.stdin:
    do, seconds, times = line.split()
    if do == "sleep":
        time.sleep(float(seconds))
    elif do == "hold":
        ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))
    elif do == "compute":
        compute(float(seconds))
    print(sum(watch.has_thawed() for _ in range(int(times))), flush=True)
"""


class ProcessCase(unittest.TestCase):
    """A process that watches itself.

    :cvar schedstat: where the process looks for that.
    """

    timeout = 120
    schedstat = freeze.SCHEDSTAT

    def setUp(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.schedstat],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(freeze.__file__).resolve().parent.parent,
        )
        self.addCleanup(self.end)
        assert self.process.stdout is not None
        self.assertEqual(self.process.stdout.readline(), "ready\n")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, do: str, seconds: float, times: int) -> int:
        """How often it answers that it has thawed, asked so many times in a row."""
        self.tell(do, seconds, times)
        return self.answer()

    def tell(self, do: str, seconds: float, times: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{do} {seconds} {times}\n")
        self.process.stdin.flush()

    def answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def freeze(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)


class FreezeTests(ProcessCase):
    async def test_a_process_that_was_stopped_has_thawed_exactly_once(self) -> None:
        await deferToThread(self.freeze, GAP + TICK + 0.5)
        self.assertEqual(self.ask("nothing", 0, 100_000), 1, "asked at once, again and again")
        self.assertEqual(self.ask("sleep", 3 * TICK, 1000), 0, "and after the ticking thread has noticed")
        await deferToThread(self.freeze, GAP + TICK + 0.5)
        self.assertEqual(self.ask("sleep", 3 * TICK, 1000), 1, "where the ticking thread noticed first")

    async def test_a_main_thread_that_blocks_is_no_freeze(self) -> None:
        self.assertEqual(self.ask("sleep", 2 * GAP, 10), 0)


class HoldTests(ProcessCase):
    """C code that holds the interpreter."""

    async def test_c_code_that_computes_is_no_freeze(self) -> None:
        for _ in range(2):
            self.assertEqual(self.ask("compute", 2 * GAP, 10), 0)
        self.assertEqual(self.ask("sleep", 3 * TICK, 10), 0)

    async def test_c_code_that_sleeps_is_no_freeze(self) -> None:
        for _ in range(2):
            self.assertEqual(self.ask("hold", 2 * GAP, 10), 0)
        self.assertEqual(self.ask("sleep", 3 * TICK, 10), 0)

    async def test_a_process_that_is_stopped_meanwhile_has_thawed(self) -> None:
        self.tell("hold", 4 * GAP, 10)
        await deferToThread(time.sleep, GAP)
        await deferToThread(self.freeze, 4 * GAP)
        self.assertEqual(self.answer(), 1)

    async def test_a_long_hold_is_no_freeze(self) -> None:
        """It does not add up how late each of the many waits was over."""
        self.assertEqual(self.ask("hold", 15 * GAP, 10), 0)


class UnscheduledTests(FreezeTests):
    """Where the system has no such count."""

    schedstat = "/nowhere/{thread}"


class UncountedTests(FreezeTests):
    """Where the system has been told to count nothing."""

    def setUp(self) -> None:
        path = Path(self.mktemp())
        path.write_text("0 0 0\n")
        self.schedstat = str(path.resolve())
        super().setUp()


class MomentTests(unittest.SynchronousTestCase):
    """Where the interpreter is held while the watch reads its clocks."""

    def setUp(self) -> None:
        self.now = 100.0
        self.patch(freeze, "monotonic", lambda: self.now)
        self.patch(threading.Thread, "start", lambda thread: None)  # nothing ticks but what the test asks
        self.watch = FreezeWatch()
        self.watch._lived = 0.0
        self.watch._life.close()
        self.lived = 0.0
        self.held = 0.0  # while its life is read next, in seconds
        self.patch(self.watch._life, "seconds", self.read)

    def read(self) -> float:
        """The count as it was before the interpreter was held."""
        lived, held, self.held = self.lived, self.held, 0.0
        self.passes(held)
        return lived

    def passes(self, seconds: float, lived: float = 1.0) -> None:
        """Time, of which the process has been alive for such a share."""
        self.now += seconds
        self.lived += seconds * lived

    def ticks(self) -> bool:
        """Whether it has thawed, after another tick."""
        self.watch._look(wholly=True)
        thawed, self.watch._thawed = self.watch._thawed, False
        return thawed

    def test_a_hold_while_it_looks_is_no_freeze(self) -> None:
        for held in (4 * GAP, TICK, 0.0, 4 * GAP):
            self.passes(2 * GAP)
            self.held = held
            self.assertFalse(self.ticks())

    def test_a_stop_is_found_though_it_was_held_while_it_looked(self) -> None:
        self.passes(2 * GAP, lived=0.0)
        self.held = 4 * GAP
        self.assertTrue(self.ticks())
        self.assertFalse(self.ticks())


class StopTests(unittest.TestCase):
    def test_the_thread_ends_when_it_is_stopped(self) -> None:
        before = {thread for thread in threading.enumerate() if thread.name == "zpipeline freeze watch"}
        watch = FreezeWatch()
        (mine,) = {t for t in threading.enumerate() if t.name == "zpipeline freeze watch"} - before
        self.assertTrue(mine.daemon, "it does not hold up the end of the process")
        watch.stop()
        mine.join(30)
        self.assertFalse(mine.is_alive())
