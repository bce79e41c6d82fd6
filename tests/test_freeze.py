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
# names what it does before that (nothing, or sleep for so many seconds), and how often it asks.
PROGRAM = """
import sys, time
from zpipeline.freeze import FreezeWatch
watch = FreezeWatch()
print("ready", flush=True)
for line in sys.stdin:
    do, seconds, times = line.split()
    if do == "sleep":
        time.sleep(float(seconds))
    print(sum(watch.has_thawed() for _ in range(int(times))), flush=True)
"""


class ProcessTests(unittest.TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
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
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{do} {seconds} {times}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def freeze(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    async def test_a_process_that_was_stopped_has_thawed_exactly_once(self) -> None:
        await deferToThread(self.freeze, GAP + TICK + 0.5)
        self.assertEqual(self.ask("nothing", 0, 100_000), 1, "asked at once, again and again")
        self.assertEqual(self.ask("sleep", 3 * TICK, 1000), 0, "and after the ticking thread has noticed")
        await deferToThread(self.freeze, GAP + TICK + 0.5)
        self.assertEqual(self.ask("sleep", 3 * TICK, 1000), 1, "where the ticking thread noticed first")

    async def test_a_main_thread_that_blocks_is_no_freeze(self) -> None:
        self.assertEqual(self.ask("sleep", 2 * GAP, 10), 0)


class StopTests(unittest.TestCase):
    def test_the_thread_ends_when_it_is_stopped(self) -> None:
        before = {thread for thread in threading.enumerate() if thread.name == "zpipeline freeze watch"}
        watch = FreezeWatch()
        (mine,) = {t for t in threading.enumerate() if t.name == "zpipeline freeze watch"} - before
        self.assertTrue(mine.daemon, "it does not hold up the end of the process")
        watch.stop()
        mine.join(30)
        self.assertFalse(mine.is_alive())
