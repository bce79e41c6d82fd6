"""``sys.stdout`` and ``sys.stderr`` of workers: what is written there is logged as lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from threading import Barrier, Thread
from typing import Any

from twisted.logger import LogEvent, Logger, LoggingFile, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.case import RigCase
from tests.faults.load import post
from tests.faults.rig import TWISTD, Process, free_port
from tests.test_tap import listen
from zpipeline.tap.output import LONGEST_LINE, Output

#: As a handler may do it. What a child process writes is far more than a pipe holds: who reads it is no handler.
WRITES = """
import logging, os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor


def run(job):
    print("printed", job.body.decode())
    sys.stdout.buffer.write(b"bytes \\xff and \\xe2\\x98\\x95\\n")
    subprocess.run(["echo", "of a child"], stdout=sys.stdout, check=True)
    subprocess.run([sys.executable, "-c", "print(('x' * 999 + chr(10)) * 150, end='')"], stdout=sys.stdout, check=True)
    subprocess.run("echo trouble of a child >&2", shell=True, stderr=sys.stderr, check=True)
    os.write(sys.stdout.fileno(), b"by its descriptor\\n")
    handler = logging.StreamHandler()
    logging.getLogger("mine").addHandler(handler)
    logging.getLogger("mine").warning("logged")
    print("not ended", end="")
"""

SAID = ("printed job", "bytes \\xff and \u2615", "of a child", "by its descriptor", "not ended")
COMPLAINED = ("trouble of a child", "logged")


class OutputCase(SynchronousTestCase):
    """In place of files like twistd's."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        for name in ("stdout", "stderr"):
            self.patch(sys, name, LoggingFile(Logger(namespace=name)))
        self.twistds = sys.stdout, sys.stderr
        self.output = Output()
        self.output.startService()
        self.addCleanup(self.end)

    def end(self) -> None:
        if self.output.running:
            self.output.stopService()

    def lines(self, namespace: str = "stdout") -> list[str]:
        return [event["log_io"] for event in self.events if event["log_namespace"] == namespace]


class FileTests(OutputCase):
    def test_lines_are_logged_as_those_that_twistd_logs(self) -> None:
        print("a line\nanother", "{braces}")
        print("trouble", file=sys.stderr)
        self.assertEqual(self.lines(), ["a line", "another {braces}"])
        self.assertEqual(self.lines("stderr"), ["trouble"])
        ours, theirs = self.events[0], LoggingFile(Logger(namespace="stdout"))
        theirs.write("a line\n")
        for key in ("log_format", "log_io", "log_namespace", "log_level"):
            self.assertEqual(ours[key], self.events[-1][key])
        self.assertEqual([event["log_level"].name for event in self.events[:3]], ["info", "info", "error"])

    def test_it_is_a_text_file(self) -> None:
        out = sys.stdout
        self.assertEqual((out.encoding, out.errors, out.name), ("utf-8", "backslashreplace", "<stdout>"))
        self.assertEqual((out.isatty(), out.writable(), out.readable(), out.seekable()), (False, True, False, False))
        self.assertEqual(out.write("four"), 4)
        out.writelines(["\n", "b\nc", "\n"])
        out.flush()
        self.assertEqual(self.lines(), ["four", "b", "c"])
        with self.assertRaises(TypeError):
            out.write(b"bytes")  # type: ignore[arg-type]
        with out:
            print("in a context")
        self.assertTrue(out.closed)
        with self.assertRaises(ValueError):
            out.write("closed")
        self.assertEqual(self.lines()[3:], ["in a context"])

    def test_its_buffer_takes_bytes_whatever_they_are(self) -> None:
        for data in (b"plain\n", bytearray(b"an array\n"), memoryview(b"a view\n"), b"\xff\n", "\u2615\n".encode()):
            self.assertEqual(sys.stdout.buffer.write(data), len(data))
        self.assertEqual(self.lines(), ["plain", "an array", "a view", "\\xff", "\u2615"])
        for wrong in ("text", 5):
            with self.assertRaises(TypeError):
                sys.stdout.buffer.write(wrong)  # type: ignore[arg-type]

    def test_text_that_is_no_unicode_is_logged_with_escapes(self) -> None:
        print("\ud800 \udcff")
        self.assertEqual(self.lines(), ["\\ud800 \\udcff"])

    def test_a_character_that_comes_in_two_parts_is_one(self) -> None:
        first, second = "\xe9\n".encode()[:1], "\xe9\n".encode()[1:]
        sys.stdout.buffer.write(first)
        sys.stdout.buffer.write(second)
        self.assertEqual(self.lines(), ["\xe9"])

    def test_a_long_line_is_logged_in_parts_that_cut_no_character(self) -> None:
        for text in ("x" * (3 * LONGEST_LINE), "\u2615" * LONGEST_LINE, "x" + "\U0001f600" * LONGEST_LINE):
            self.events.clear()
            for part in (text, text + "\n"):
                sys.stdout.write(part)
            self.assertEqual("".join(self.lines()), text * 2)
            self.assertLessEqual(max(len(line.encode()) for line in self.lines()), LONGEST_LINE)

    def test_what_is_never_ended_takes_no_more_room_than_a_line(self) -> None:
        for _ in range(300):
            sys.stdout.write("x" * 1000)
        self.assertEqual([len(line) for line in self.lines()], [LONGEST_LINE] * (300_000 // LONGEST_LINE))

    def test_the_files_outlive_those_that_are_put_in_their_place(self) -> None:
        buffer = sys.stdout.buffer
        sys.stdout = self.twistds[0]
        buffer.write(b"by its buffer\n")
        self.assertEqual(self.lines(), ["by its buffer"])

    def test_files_that_are_not_twistds_are_left_alone(self) -> None:
        ours = sys.stdout
        other = Output()
        other.startService()
        self.assertIs(sys.stdout, ours)
        other.stopService()
        self.assertIs(sys.stdout, ours)


class ThreadTests(OutputCase):
    def run_threads(self, *calls: Any) -> None:
        threads = [Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            self.assertFalse(thread.is_alive())

    def test_lines_of_threads_are_not_mixed(self) -> None:
        barrier = Barrier(8)

        def prints(name: str) -> None:
            barrier.wait(30)
            for number in range(500):
                print(name, number, name)

        self.run_threads(*(lambda name=name: prints(name) for name in "abcdefgh"))
        expected = sorted(f"{name} {number} {name}" for name in "abcdefgh" for number in range(500))
        self.assertEqual(sorted(self.lines()), expected)

    def test_what_a_thread_has_not_ended_is_a_line_once_it_has_gone(self) -> None:
        self.run_threads(lambda: print("of one that goes", end=""))
        self.assertEqual(self.lines(), [])
        print("of another", end="")
        self.assertEqual(self.lines(), ["of one that goes"])


class DescriptorTests(OutputCase):
    def test_what_child_processes_write_is_logged(self) -> None:
        subprocess.run(["echo", "out"], stdout=sys.stdout, check=True)
        subprocess.run("echo trouble >&2", shell=True, stderr=sys.stderr, check=True)
        subprocess.run(["printf", "not ended"], stdout=sys.stdout, check=True)
        self.output.stopService()
        self.assertEqual((self.lines(), self.lines("stderr")), (["out", "not ended"], ["trouble"]))

    def test_a_child_that_writes_more_than_a_pipe_holds_is_not_held_up(self) -> None:
        program = "print(('x' * 99 + chr(10)) * 10_000, end='')"
        subprocess.run([sys.executable, "-c", program], stdout=sys.stdout, check=True, timeout=30)
        self.output.stopService()
        self.assertEqual(self.lines(), ["x" * 99] * 10_000)

    def test_it_is_the_same_each_time_and_no_child_has_it_that_was_not_given_it(self) -> None:
        descriptor = sys.stdout.fileno()
        self.assertEqual((sys.stdout.fileno(), sys.stdout.buffer.fileno()), (descriptor, descriptor))
        self.assertFalse(os.get_inheritable(descriptor))

    def test_the_end_does_not_wait_long_for_a_child_that_lives_on(self) -> None:
        child = subprocess.Popen(["sleep", "300"], stdout=sys.stdout)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        stopping = Thread(target=self.output.stopService)
        stopping.start()
        stopping.join(30)
        self.assertFalse(stopping.is_alive())
        self.assertEqual((sys.stdout, sys.stderr), self.twistds)

    def test_the_end_closes_all_descriptors(self) -> None:
        before = set(os.listdir("/proc/self/fd"))
        subprocess.run(["echo", "out"], stdout=sys.stdout, stderr=sys.stderr, check=True)
        self.output.stopService()
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)


class WorkerTests(RigCase):
    """A handler that writes in each way, in a worker that logs in each way."""

    def setUp(self) -> None:
        super().setUp()
        (self.rig.folder / "writes.py").write_text(WRITES)

    def worker(self, *options: object, before: Iterable[object] = ()) -> tuple[Process, Process]:
        port = free_port()
        command = [*TWISTD, *before, "zpipe-worker", f"--port={port}", "--handler=writes:run", *options]
        worker = self.rig.start("worker", command, port)
        web = self.rig.web([port])
        self.rig.until_ready(web, 1)
        return web, worker

    def runs(self, web: Process) -> None:
        self.assertEqual(post(web.port, b"job")[0], 202)

    def is_whole(self, log: str) -> None:
        """All of it is there, a line each."""
        for line in (*SAID, *COMPLAINED):
            self.assertIn(line, [shown.partition("] ")[2] for shown in log.splitlines() if len(shown) < 200])
        self.assertEqual(log.count("x" * 999 + "\n"), 150)

    def test_in_the_reactor_it_is_on_the_console(self) -> None:
        web, worker = self.worker()
        self.runs(web)
        self.rig.until("it has run", lambda: "by its descriptor" in worker.log)
        self.assertEqual(worker.end(), 0)
        self.is_whole(worker.log)

    def test_in_threads_it_is_in_the_log_file(self) -> None:
        web, worker = self.worker("--threads=2", before=["--logfile=worker.log"])
        self.runs(web)
        log = self.rig.folder / "worker.log"
        self.rig.until("it has run", lambda: "by its descriptor" in log.read_text())
        self.assertEqual(worker.end(), 0)
        self.is_whole(log.read_text())
        self.assertEqual(worker.log, "")

    def test_as_json_each_line_is_an_object(self) -> None:
        web, worker = self.worker("--log-json")
        self.runs(web)
        self.rig.until("it has run", lambda: "by its descriptor" in worker.log)
        self.assertEqual(worker.end(), 0)
        objects = [json.loads(line) for line in worker.log.splitlines()]
        said = {(line["namespace"], line["level"], line["message"]) for line in objects}
        self.assertLessEqual({("stdout", "info", line) for line in SAID}, said)
        self.assertLessEqual({("stderr", "error", line) for line in COMPLAINED}, said)

    def test_workers_of_zpipe_have_it_under_their_names(self) -> None:
        web, first = free_port(), free_port()
        options = [listen(web), "--no-journal", "--workers=1", f"--first-port={first}", "--handler=writes:run"]
        zpipe = self.rig.start("zpipe", [*TWISTD, "zpipe", *options], web)
        self.rig.until_ready(zpipe, 1)
        self.runs(zpipe)
        self.rig.until("it has run", lambda: "by its descriptor" in zpipe.log)
        self.assertEqual(zpipe.end(), 0)
        self.is_whole(zpipe.log)
        for line in ("of a child", "printed job", "not ended"):
            self.assertIn(f"[worker {first}] {line}\n", zpipe.log)
