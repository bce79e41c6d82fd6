"""``zpipe status`` and ``zpipe top``, against a server that says what a test wants, and as processes on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from select import select
from typing import Any

from attrs import define
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.load import Load
from tests.faults.rig import Process, Rig, free_port
from tests.look_kit import STATS, FakeWeb, absent, lost, worker
from zpipeline import cli
from zpipeline.look import figures
from zpipeline.look.client import Snapshot, Statistics
from zpipeline.look.tables import whole
from zpipeline.look.verdict import verdict_on

ZPIPE = [sys.executable, "-c", "import sys; from zpipeline.cli import main; sys.exit(main())"]
EVIL = "\x1b[31mred\x07\r\n[bold]\u202eback"
SHOWN = r"\x1b[31mred\x07\r\n[bold]\u202eback"


@define
class Outcome:
    status: object
    out: str
    err: str


def run(*arguments: str) -> Outcome:
    """The command, in this process."""
    raw, err = BytesIO(), StringIO()
    out = TextIOWrapper(raw, encoding="utf-8")
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status: object = cli.main(arguments)
        except SystemExit as exit:
            status = exit.code
        out.flush()
    return Outcome(status, raw.getvalue().decode(), err.getvalue())


class FakeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.web = FakeWeb()
        self.addCleanup(self.web.close)

    def status(self, *arguments: str) -> Outcome:
        return run("status", f"--url={self.web.url}", *arguments)


class StatusTests(FakeCase):
    def test_ready_is_status_0_and_says_what_there_is(self) -> None:
        outcome = self.status()
        self.assertEqual((outcome.status, outcome.err), (0, ""))
        self.assertTrue(outcome.out.startswith(f"ready  {self.web.url}  zpipeline 0.1.0 on front, process 4711, up 1h"))
        for shown in ("1,234,567", "1,200/s", "1.20ms", "127.0.0.1:4444", "30/128", "33.3%", "photos:resize"):
            self.assertIn(shown, outcome.out)

    def assert_not_ready(self, word: str, reason: str) -> None:
        outcome = self.status()
        self.assertEqual((outcome.status, outcome.err), (1, ""))
        self.assertEqual(outcome.out.split()[0], word)
        self.assertIn(f"\n{reason}", outcome.out)
        shown = json.loads(self.status("--json").out)
        self.assertEqual((shown["status"], shown["ready"]), (word, False))
        self.assertTrue(shown["reasons"][0].startswith(reason))

    def test_being_stopped_is_status_1(self) -> None:
        self.web.stats.update(accepting=False, draining=True)
        self.assert_not_ready("draining", "it is being stopped")

    def test_a_journal_in_trouble_is_status_1_with_what_troubles_it(self) -> None:
        self.web.stats.update(accepting=False, trouble="the journal x.sqlite: its disk is full")
        self.assert_not_ready("journal", "nothing is accepted: the journal x.sqlite: its disk is full")

    def test_too_many_jobs_is_status_1(self) -> None:
        self.web.stats.update(accepting=False)
        self.assert_not_ready("full", "nothing is accepted: too many jobs are not settled (--max-pending)")

    def test_no_worker_is_status_1(self) -> None:
        self.web.stats.update(ready_workers=0)
        self.assert_not_ready("no-worker", "no worker is ready, of 3: what is accepted waits")

    def test_two_reasons_are_both_said(self) -> None:
        self.web.stats.update(accepting=False, ready_workers=0)
        self.assertEqual(len(json.loads(self.status("--json").out)["reasons"]), 2)

    def test_json_is_one_object_on_one_line_with_all_that_the_web_says(self) -> None:
        self.web.workers = [worker(0, handler=EVIL)]
        outcome = self.status("--json")
        self.assertEqual((outcome.status, outcome.err, outcome.out.count("\n")), (0, "", 1))
        shown = json.loads(outcome.out)
        self.assertEqual((shown["status"], shown["ready"], shown["reasons"]), ("ready", True, []))
        self.assertEqual((shown["stats"], shown["workers"]), (self.web.stats, self.web.workers))
        self.assertTrue(outcome.out.removesuffix("\n").isprintable())

    def test_nobody_there_is_status_2(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        why = f"cannot reach {url}: Connection refused: does zpipe-web serve there? (--url URL)"
        outcome = run("status", "--url", url)
        self.assertEqual((outcome.status, outcome.out, outcome.err), (2, "", f"zpipe status: {why}\n"))
        outcome = run("status", "--url", url, "--json")
        self.assertEqual((outcome.status, outcome.err), (2, f"zpipe status: {why}\n"))
        nothing = {"ready": False, "stats": None, "workers": None}
        self.assertEqual(json.loads(outcome.out), {"url": url, "status": "unreachable", "reasons": [why], **nothing})

    def test_an_answer_that_does_not_come_is_status_2(self) -> None:
        self.patch(Statistics, "patience", 0.2)
        with self.web.held():
            outcome = self.status()
        self.assertEqual((outcome.status, outcome.err), (2, f"zpipe status: {self.web.url} does not answer\n"))

    def test_somebody_else_is_status_2(self) -> None:
        page = "GET /stats gets 200 and text/html"
        of_others = {
            page: ("/stats", 200, "text/html", b"<p>hello"),
            "an answer without 'version'": ("/stats", 200, "application/json", b"{}"),
            "an answer without 'workers'": ("/workers", 200, "application/json", b"[]"),
            "an answer without 'address'": ("/workers", 200, "application/json", b'{"workers": [null]}'),
        }
        for why, (path, *answer) in of_others.items():
            self.web.answers = {path: tuple(answer)}
            outcome = self.status()
            start = f"what answers at {self.web.url} is no zpipe-web with statistics"
            self.assertEqual((outcome.status, outcome.err), (2, f"zpipe status: {start}: {why} (--url URL)\n"))

    def test_an_older_zpipe_web_is_status_2(self) -> None:
        problem = b'{"detail": "there is nothing at this path"}'
        self.web.answers["/stats"] = (404, "application/problem+json", problem)
        outcome = self.status()
        self.assertEqual(outcome.status, 2)
        self.assertIn("answers 404: there is nothing at this path", outcome.err)

    def test_nothing_that_workers_say_controls_the_terminal(self) -> None:
        self.web.workers = [worker(0, handler=EVIL, host=EVIL, state=EVIL), lost(1, EVIL)]
        self.web.stats.update(host=EVIL, ready_workers=0)
        out = self.status().out
        self.assertTrue(out.replace("\n", "").isprintable())
        self.assertGreaterEqual(out.count(SHOWN), 3)  # of the web's host, of a state and of a reason


class FiguresTests(SynchronousTestCase):
    def test_counts(self) -> None:
        for number, text, short in (
            (None, "-", "-"),
            (0, "0", "0"),
            (9999, "9,999", "9,999"),
            (10_000, "10,000", "10.0k"),
            (999_600, "999,600", "1.00M"),
            (1_234_567, "1,234,567", "1.23M"),
            (123_456_789, "123,456,789", "123M"),
            (10**14, "100,000,000,000,000", "100T"),
        ):
            self.assertEqual((figures.count(number), figures.short_count(number)), (text, short))

    def test_rates_below_ten_have_a_decimal(self) -> None:
        for number, text in ((None, "-"), (0.0, "0"), (0.24, "0.2"), (9.94, "9.9"), (10.4, "10"), (12_345.6, "12.3k")):
            self.assertEqual(figures.rate(number), text)

    def test_latencies_have_three_digits(self) -> None:
        for seconds, text in (
            (None, "-"),
            (0.00004, "0.04ms"),
            (0.00123, "1.23ms"),
            (0.0123, "12.3ms"),
            (0.5, "500ms"),
            (1.5, "1.50s"),
            (99.96, "1m 39s"),
        ):
            self.assertEqual(figures.latency(seconds), text)

    def test_durations_have_two_units(self) -> None:
        for seconds, text in ((-1, "0s"), (59.9, "59s"), (61, "1m 1s"), (3725, "1h 2m"), (90_000, "1d 1h")):
            self.assertEqual(figures.duration(seconds), text)


class TablesTests(SynchronousTestCase):
    def lines(self, workers: list[dict[str, Any]], width: int, height: int | None = None, **stats: Any) -> list[str]:
        snapshot = Snapshot(STATS | stats, workers)
        console = Console(file=StringIO(), width=width)
        console.print(whole("http://127.0.0.1:4567", snapshot, verdict_on(snapshot), width, height))
        return console.file.getvalue().splitlines()

    def test_it_fits_into_80_columns_with_all_that_is_said_of_a_worker(self) -> None:
        busy = worker(0, window=50_000, in_flight=49_999, done=123_456_789, failed=99_999, rate=12_345.6, share=1.0)
        lines = self.lines([busy, lost(1), absent(2)], 80)
        self.assertLessEqual(max(map(len, lines)), 80)
        row = next(line for line in lines if line.startswith("127.0.0.1:4444"))
        self.assertEqual(
            row.split(),
            ["127.0.0.1:4444", "ready", "100.0%", "12.3k", "50.0k/50.0k", "123M", "100k", "1.20ms", "1.50s"],
        )

    def test_it_says_what_was_redelivered_and_how_much_of_it_lost_workers_had_held(self) -> None:
        lines = "\n".join(self.lines([worker(0)], 80))
        self.assertRegex(lines, r"redelivered +12\n")
        self.assertRegex(lines, r"of lost workers +3\n")

    def test_it_says_how_long_the_oldest_job_has_waited(self) -> None:
        self.assertRegex("\n".join(self.lines([worker(0)], 80)), r"oldest wait +2m 3s ")
        self.assertRegex("\n".join(self.lines([worker(0)], 80, oldest_waiting=0)), r"oldest wait +0s ")

    def test_a_wide_one_has_more(self) -> None:
        narrow, middle, wide = (next(iter(self.heading(width))) for width in (80, 100, 160))
        self.assertNotIn("start p50", narrow)
        self.assertIn("start p50", middle)
        self.assertNotIn("handler", middle)
        self.assertIn("handler", wide)

    def heading(self, width: int) -> list[str]:
        return [line for line in self.lines([worker(0)], width) if line.startswith("worker ")]

    def test_workers_that_have_no_room_are_counted_by_state(self) -> None:
        workers = [worker(number) for number in range(30)] + [lost(30), absent(31), absent(32)]
        for height in (17, 20, 24, 40):
            lines = self.lines(workers, 80, height)
            self.assertEqual(len(lines), height)
            shown = [line for line in lines if re.match(r"127.0.0.1:\d+ +ready ", line)]
            self.assertIn(f"and {33 - len(shown)} more: {30 - len(shown)} ready, 1 lost, 2 connecting", lines)

    def test_all_are_there_when_there_is_room(self) -> None:
        workers = [worker(0), lost(1), absent(2)]
        for height in (None, 24):
            lines = self.lines(workers, 80, height)
            self.assertEqual(sum(line.startswith("127.0.0.1:") for line in lines), 5)
            self.assertEqual(
                lines[-2:],
                [
                    "127.0.0.1:4445 lost for 1m 30s: disconnected",
                    "127.0.0.1:4446 connecting for 1m 30s: connection refused, or no way there",
                ],
            )

    def test_handlers_that_differ_are_said_with_their_workers(self) -> None:
        workers = [worker(0), worker(1, handler="zpipeline.handlers:log"), lost(2) | {"handler": "photos:crop"}]
        line = "handlers differ: photos:resize at 127.0.0.1:4444; zpipeline.handlers:log at 127.0.0.1:4445"
        self.assertIn(line, self.lines(workers, 160))
        self.assertNotIn("handlers differ", "".join(self.lines([worker(0), worker(1)], 160)))

    def test_refusals_are_said_by_reason(self) -> None:
        lines = self.lines([worker(0)], 80, refused={"full": 1200, "draining": 0, "too_large": 3})
        self.assertIn("refused so far: 1,200 full, 3 too_large", lines)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str, columns: int = 80, lines: int = 24) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [*ZPIPE, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"TERM": "xterm"},
            preexec_fn=_own_terminal,
        )
        self._theirs = theirs
        self.shown = ""

    def until(self, condition: Callable[[str], object], seconds: float = 30) -> None:
        """Wait until what was shown so far is as it should be."""
        deadline = time.monotonic() + seconds
        while not condition(self.shown):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} seconds; shown: {self.shown}")
            self.read()

    def read(self) -> None:
        if select([self.ours], [], [], 0.02)[0]:
            self.shown += os.read(self.ours, 1 << 16).decode()

    def type(self, text: bytes) -> None:
        os.write(self.ours, text)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self._theirs)


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class TopTests(FakeCase):
    def top(self, *, columns: int = 80) -> Terminal:
        terminal = Terminal("top", f"--url={self.web.url}", columns=columns)
        self.addCleanup(terminal.close)
        return terminal

    def assert_ends(self, terminal: Terminal, status: int = 0) -> None:
        self.assertEqual(terminal.process.wait(30), status)
        terminal.read()
        for mode, (on, off) in {"screen": ("\x1b[?1049h", "\x1b[?1049l"), "cursor": ("\x1b[?25l", "\x1b[?25h")}.items():
            self.assertGreater(terminal.shown.rfind(off), terminal.shown.rfind(on), mode)
        self.assertEqual(terminal.settings(), terminal.before)
        self.assertNotIn("Traceback", terminal.shown)

    def test_what_the_web_says_is_shown_and_changes_with_it(self) -> None:
        terminal = self.top()
        terminal.until(lambda shown: "1,234,567" in shown and "127.0.0.1:4446 lost" in shown)
        self.web.stats["accepted"] = 2_000_000
        self.web.tell()
        terminal.until(lambda shown: "2,000,000" in shown)

    def test_ctrl_c_ends_it_with_status_0_and_the_terminal_as_it_was(self) -> None:
        terminal = self.top()
        terminal.until(lambda shown: "1,234,567" in shown)
        terminal.type(b"\x03")
        self.assert_ends(terminal)

    def test_q_ends_it_and_other_keys_do_nothing(self) -> None:
        terminal = self.top()
        terminal.until(lambda shown: "1,234,567" in shown)
        terminal.type(b"xyz ")
        self.web.stats["accepted"] = 2_000_000
        self.web.tell()
        terminal.until(lambda shown: "2,000,000" in shown)
        self.assertNotIn("xyz", terminal.shown)
        terminal.type(b"q")
        self.assert_ends(terminal)

    def test_sigterm_leaves_the_terminal_as_it_was(self) -> None:
        terminal = self.top()
        terminal.until(lambda shown: "1,234,567" in shown)
        terminal.process.send_signal(signal.SIGTERM)
        self.assert_ends(terminal, 128 + signal.SIGTERM)

    def test_it_says_that_the_web_is_away_and_goes_on_when_it_is_back(self) -> None:
        terminal = self.top()
        terminal.until(lambda shown: "1,234,567" in shown)
        port = self.web.port
        self.web.close()
        terminal.until(lambda shown: "no answer" in shown and "Connection refused" in shown)
        terminal.until(lambda shown: re.search(r"asked again each second; what is shown is \d+s old", shown))
        web = FakeWeb(port)
        self.web.close = web.close  # type: ignore[method-assign]
        web.stats["accepted"] = 3_000_000
        terminal.until(lambda shown: "3,000,000" in shown)
        terminal.type(b"\x03")
        self.assert_ends(terminal)

    def test_it_waits_for_a_web_that_is_not_there_yet(self) -> None:
        port = free_port()
        terminal = Terminal("top", f"--url=http://127.0.0.1:{port}")
        self.addCleanup(terminal.close)
        terminal.until(lambda shown: "no answer yet" in shown and "Connection refused" in shown)
        web = FakeWeb(port)
        self.addCleanup(web.close)
        terminal.until(lambda shown: "1,234,567" in shown)

    def test_silence_is_no_answer(self) -> None:
        """A web side that is frozen, or cut off, keeps its connection."""
        self.patch(Statistics, "patience", 0.3)
        web = Statistics(self.web.url)
        snapshots = web.snapshots()
        self.assertEqual(next(snapshots).stats["accepted"], 1_234_567)
        with self.assertRaisesRegex(Exception, "does not answer"):
            next(snapshots)

    def test_a_terminal_that_grows_is_filled(self) -> None:
        terminal = self.top()
        terminal.until(lambda shown: "1,234,567" in shown)
        self.assertNotIn("start p50", terminal.shown)
        fcntl.ioctl(terminal.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        terminal.until(lambda shown: "start p50" in shown)

    def test_without_a_terminal_it_is_refused_and_says_what_to_use(self) -> None:
        outcome = run("top", f"--url={self.web.url}")
        self.assertEqual((outcome.status, outcome.out), (2, ""))
        self.assertEqual(outcome.err.count("\n"), 1)
        self.assertIn("no terminal", outcome.err)
        self.assertIn("'zpipe status'", outcome.err)


class WholeTests(SynchronousTestCase):
    """On a pipeline that runs."""

    def setUp(self) -> None:
        self.rig = Rig().__enter__()
        self.addCleanup(self.rig.close)

    def status(self, web: Process) -> tuple[object, dict[str, Any]]:
        outcome = run("status", "--json", f"--url=http://127.0.0.1:{web.port}")
        return outcome.status, json.loads(outcome.out)

    def test_status_says_what_the_pipeline_does(self) -> None:
        one, two = self.rig.pool(2)
        web = self.rig.web([one.port, two.port])
        self.rig.until_ready(web, 2)
        self.rig.until_all_ran(Load(web.port, [b""] * 100).run(5).accepted)
        self.rig.until("all is settled", lambda: self.status(web)[1]["stats"]["done"] == 100)
        status, shown = self.status(web)
        self.assertEqual((status, shown["status"], shown["stats"]["accepted"]), (0, "ready", 100))
        self.assertEqual({worker["address"] for worker in shown["workers"]}, {address(one), address(two)})
        self.assertIn("ready", run("status", f"--url=http://127.0.0.1:{web.port}").out)
        one.signal(signal.SIGKILL)
        two.signal(signal.SIGKILL)
        self.rig.until("both are lost", lambda: self.status(web)[1]["stats"]["ready_workers"] == 0)
        status, shown = self.status(web)
        self.assertEqual((status, shown["status"]), (1, "no-worker"))
        self.assertEqual([worker["state"] for worker in shown["workers"]], ["lost", "lost"])

    def test_top_shows_that_a_worker_is_killed_and_that_the_web_comes_back(self) -> None:
        one, two = self.rig.pool(2)
        web = self.rig.web([one.port, two.port])
        self.rig.until_ready(web, 2)
        terminal = Terminal("top", f"--url=http://127.0.0.1:{web.port}")
        self.addCleanup(terminal.close)
        terminal.until(lambda shown: "127.0.0.1" in shown and "ready workers" in shown)
        self.rig.until_all_ran(Load(web.port, [b""] * 1234).run(5).accepted)
        terminal.until(lambda shown: "1,234" in shown)
        two.signal(signal.SIGKILL)
        terminal.until(lambda shown: re.search(rf"127.0.0.1:{two.port} lost for", shown))
        web.end()
        terminal.until(lambda shown: "no answer" in shown and "Connection refused" in shown)
        before = len(terminal.shown)
        self.rig.again(web)
        terminal.until(lambda shown: re.search(rf"127.0.0.1:{one.port} \S*ready ", shown[before:]))
        terminal.type(b"\x03")
        self.assertEqual(terminal.process.wait(30), 0)


def address(worker: Process) -> str:
    return f"tcp://127.0.0.1:{worker.port}"
