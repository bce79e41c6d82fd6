"""``--log-json``: its lines, and those of real processes."""

from __future__ import annotations

import json
import os
import re
import signal
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.load import get, post
from tests.faults.rig import TWISTD, Process, Rig, free_port, ready_workers
from zpipeline.tap.jsonlog import json_line, json_observer

EVIL = "\x1b[31mred\x07\r\n\u202eback\ud800"


class LineTests(SynchronousTestCase):
    def line(self, format: str, level: LogLevel = LogLevel.info, **fields: Any) -> dict[str, Any]:
        """What is logged, as who reads it has it."""
        out = StringIO()
        Logger("photos", observer=json_observer(out)).emit(level, format, **fields)
        self.assertTrue(out.getvalue().removesuffix("\n").isprintable())
        self.assertTrue(out.getvalue().isascii())
        found: dict[str, Any] = json.loads(out.getvalue())
        return found

    def test_a_line_has_time_level_namespace_message_and_fields(self) -> None:
        line = self.line("job {id}", LogLevel.warn, id="x", number=3)
        self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")
        self.assertEqual(
            line,
            {"level": "warn", "namespace": "photos", "message": "job x", "fields": {"id": "x", "number": 3}},
        )

    def test_fields_may_have_the_names_of_members(self) -> None:
        fields = {"time": 1, "traceback": 2, "message": "m", "why": "w", "system": "s"}
        self.assertEqual(self.line("x", **fields)["fields"], fields)

    def test_what_strangers_sent_is_escaped_and_kept(self) -> None:
        line = self.line("it is {text}", text=EVIL, raw=b"\xff\x1b")
        self.assertEqual(line["message"], f"it is {EVIL}")
        self.assertEqual(line["fields"], {"text": EVIL, "raw": "\\xff\x1b"})

    def test_whatever_a_field_is_there_is_a_line(self) -> None:
        circle: list[object] = []
        circle.append(circle)
        for value in (circle, float("nan"), {1: 2, (3,): 4}, object(), Unshowable()):
            self.assertIn("value", self.line("x", value=value)["fields"])

    def test_a_failure_has_its_traceback(self) -> None:
        try:
            raise ValueError(EVIL)
        except ValueError:
            line = self.line("it failed", LogLevel.critical, log_failure=Failure())
        self.assertEqual(line["message"], "it failed")
        self.assertIn("Traceback (most recent call last)", line["traceback"])
        self.assertIn("test_jsonlog.py", line["traceback"])
        self.assertNotIn("fields", line)

    def test_an_event_of_the_older_logging_system_is_a_message(self) -> None:
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        legacy.msg("an older one")
        line = json.loads(json_line(events[0]))
        self.assertEqual((line["message"], line["level"]), ("an older one", "info"))
        self.assertNotIn("fields", line)


class Unshowable:
    def __repr__(self) -> str:
        raise ValueError("no")


class ProcessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig().__enter__()
        self.addCleanup(self.rig.close)

    def lines(self, text: str) -> list[dict[str, Any]]:
        """Each line; one that is no object fails."""
        found = [json.loads(line) for line in text.splitlines()]
        for line in found:
            self.assertLessEqual({"time", "level", "namespace", "message"}, set(line))
        return found

    def test_the_web_side_and_a_worker_log_nothing_but_json(self) -> None:
        (self.rig.folder / "talks.py").write_text(
            "from twisted.logger import Logger\n"
            "def handle(job):\n"
            "    print('printed', job.body)\n"
            "    Logger().info('has {size} bytes', size=len(job.body))\n"
            "    raise ValueError('no \\x1b[31m')\n"
        )
        port = free_port()
        worker = self.rig.start(
            "worker", [*TWISTD, "zpipe-worker", f"--port={port}", "--handler=talks:handle", "--log-json"], port
        )
        web = self.rig.web([port], "--log-json", "--access-log", "--attempts=1")
        self.rig.until_ready(web, 1)
        post(web.port, b"a job")
        self.rig.until("the job is dead", lambda: "is dead" in web.log)
        self.assertEqual((web.end(), worker.end()), (0, 0))
        of_worker, of_web = self.lines(worker.log), self.lines(web.log)
        self.assertIn(("stdout", "printed b'a job'"), [(line["namespace"], line["message"]) for line in of_worker])
        self.assertIn({"size": 5}, [line.get("fields") for line in of_worker])
        dead = next(line for line in of_web if "is dead" in line["message"])
        self.assertEqual(dead["level"], "error")
        self.assertIn("Traceback", dead["message"])
        self.assertTrue(any('"POST / HTTP/1.1" 202' in line["message"] for line in of_web))

    def zpipe(self, *twistd: object) -> Process:
        port = free_port()
        options = [f"--listen=tcp:{port}:interface=127.0.0.1", f"--first-port={free_port()}", "--workers=1"]
        return self.rig.start("zpipe", [*TWISTD, *twistd, "zpipe", "--log-json", *options], port)

    def assert_worker_speaks(self, lines: list[dict[str, Any]]) -> None:
        """Under its name, in an object of its own."""
        spoken = [line for line in lines if line["message"].endswith(": hello")]
        self.assertEqual(len(spoken), 1)
        self.assertEqual(spoken[0]["namespace"], "zpipeline.handlers")
        self.assertRegex(spoken[0]["system"], r"^worker \d+$")
        self.assertEqual(spoken[0]["fields"]["body"], "hello")

    def test_the_workers_of_zpipe_log_json_to_the_console(self) -> None:
        zpipe = self.zpipe()
        self.rig.until("a worker is ready", lambda: ready_workers(zpipe) == 1)
        get(zpipe.port, "/?hello")
        self.rig.until("the job is logged", lambda: ": hello" in zpipe.log)
        self.assertEqual(zpipe.end(), 0)
        self.assert_worker_speaks(self.lines(zpipe.log))

    def test_the_workers_of_zpipe_log_json_to_its_logfile(self) -> None:
        log = self.rig.folder / "it.log"
        zpipe = self.zpipe(f"--logfile={log}")
        self.rig.until("a worker is ready", lambda: ready_workers(zpipe) == 1)
        long = b"x" * 100_000  # a line of more than Twisted's own 16,384 bytes
        post(zpipe.port, long)
        get(zpipe.port, "/?hello")
        self.rig.until("the job is logged", lambda: ": hello" in log.read_text())
        zpipe.signal(signal.SIGUSR1)
        self.rig.until("a new file is begun", lambda: Path(f"{log}.1").exists())
        self.assertEqual(zpipe.end(), 0)
        self.assertEqual(zpipe.log, "")
        self.assert_worker_speaks(self.lines(Path(f"{log}.1").read_text() + log.read_text()))

    def test_a_daemon_logs_json_to_its_file(self) -> None:
        port, log, pid = free_port(), self.rig.folder / "it.log", self.rig.folder / "it.pid"
        command = [*TWISTD[:-1], f"--logfile={log}", f"--pidfile={pid}", "zpipe-worker", "--log-json", f"--port={port}"]
        self.assertEqual(self.rig.start("daemon", command, port).wait(), 0)
        self.rig.until("it runs", lambda: log.exists() and "worker at" in log.read_text())
        os.kill(int(pid.read_text()), signal.SIGTERM)
        self.rig.until("it has ended", lambda: not pid.exists() and "Server Shut Down" in log.read_text())
        self.lines(log.read_text())

    def test_a_worker_of_zpipe_that_cannot_start_says_so_in_json(self) -> None:
        (self.rig.folder / "picky.py").write_text(
            "import os\n"
            "from zpipeline.handlers import log\n"
            "if 'ZPIPE_LOG_NAME' in os.environ: raise OSError('no model')\n"
        )
        port = free_port()
        options = [f"--listen=tcp:{port}:interface=127.0.0.1", f"--first-port={free_port()}", "--workers=1"]
        zpipe = self.rig.start("zpipe", [*TWISTD, "zpipe", "--log-json", "--handler=picky:log", *options], port)
        self.rig.until("it has said so", lambda: "cannot start" in zpipe.log)
        self.assertEqual(zpipe.end(), 0)
        lines = [line for line in self.lines(zpipe.log) if line["message"].startswith("cannot start")]
        self.assertIn("no model", lines[0]["fields"]["why"])

    def test_another_logger_is_refused(self) -> None:
        for words in (["--syslog"], ["--logger=zpipeline.tap.child.observer"]):
            port = free_port()
            done = self.rig.start("worker", [*TWISTD, *words, "zpipe-worker", "--log-json", f"--port={port}"], port)
            self.assertEqual(done.wait(), 1)
            self.assertTrue(re.fullmatch(r"zpipe-worker: --log-json goes to .*\n", done.log), done.log)
