"""What systemd is told, on real datagram sockets, and by real processes."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from select import select
from tempfile import TemporaryDirectory

from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.load import get, post
from tests.faults.rig import TWISTD, Rig, free_port
from tests.open_files import no_more_files
from zpipeline.tap.notify import Notifier


class Systemd:
    """The socket where it is told.

    :ivar address: for NOTIFY_SOCKET.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(60)

    def hear(self) -> list[str]:
        """The lines of the next message; it is waited for."""
        return self._socket.recv(4096).decode().split("\n")

    def heard(self) -> list[list[str]]:
        """The lines of each message that is there."""
        return list(self._heard())

    def _heard(self) -> Iterator[list[str]]:
        while select([self._socket], [], [], 0)[0]:
            yield self._socket.recv(4096).decode().split("\n")

    def until(self, line: str) -> list[str]:
        """Hear until this line has come: all lines up to it."""
        lines: list[str] = []
        while line not in lines:
            lines += self.hear()
        return lines

    def close(self) -> None:
        self._socket.close()


class NotifyCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()  # not trial's: the name of a socket may have 107 bytes
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def systemd(self, address: str | None = None) -> Systemd:
        systemd = Systemd(address or str(self.folder / f"{token_hex(4)}.socket"))
        self.addCleanup(systemd.close)
        return systemd


class NotifierTests(NotifyCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.status = "well"
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def notifier(self, **environment: str) -> Notifier:
        return Notifier(self.clock, lambda: self.status, environment)

    def test_nobody_asks_and_nothing_is_done(self) -> None:
        notifier = self.notifier()
        notifier.ready()
        notifier.stopping("leaving")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ready_is_said_with_how_it_does(self) -> None:
        for address in (None, f"@zpipeline-test-{token_hex(8)}"):
            systemd = self.systemd(address)
            self.notifier(NOTIFY_SOCKET=systemd.address).ready()
            self.assertEqual(systemd.heard(), [["READY=1"], ["STATUS=well"]])

    def test_how_it_does_is_said_when_that_changes(self) -> None:
        systemd = self.systemd()
        self.notifier(NOTIFY_SOCKET=systemd.address).ready()
        systemd.heard()
        self.clock.pump([5] * 3)
        self.assertEqual(systemd.heard(), [])
        self.status = "in \ntrouble"
        self.clock.pump([5] * 3)
        self.assertEqual(systemd.heard(), [[r"STATUS=in \ntrouble"]])

    def test_the_watchdog_hears_twice_in_its_time_also_while_it_is_stopped(self) -> None:
        systemd = self.systemd()
        notifier = self.notifier(NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
        notifier.ready()
        self.assertEqual(systemd.heard(), [["READY=1"], ["WATCHDOG=1", "STATUS=well"]])
        self.clock.pump([0.5] * 12)
        self.assertEqual(systemd.heard(), [["WATCHDOG=1"]] * 4)
        notifier.stopping("leaving")
        self.assertEqual(systemd.heard(), [["STOPPING=1"]])
        self.clock.pump([0.5] * 6)
        self.assertEqual(systemd.heard(), [["WATCHDOG=1", "STATUS=leaving"], ["WATCHDOG=1"]])

    def test_a_watchdog_of_another_process_or_of_no_time_hears_nothing(self) -> None:
        for watchdog in (
            {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "x"},
        ):
            systemd = self.systemd()
            self.notifier(NOTIFY_SOCKET=systemd.address, **watchdog).ready()
            self.clock.pump([5] * 3)
            self.assertEqual(systemd.heard(), [["READY=1"], ["STATUS=well"]])

    def test_what_is_asked_is_taken_from_the_environment(self) -> None:
        environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
        Notifier(self.clock, lambda: "", environment)
        self.assertEqual(environment, {"HOME": "/"})

    def test_a_socket_that_is_full_is_told_the_next_time(self) -> None:
        systemd = self.systemd()
        notifier = self.notifier(NOTIFY_SOCKET=systemd.address)
        notifier.ready()
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other:
            other.setblocking(False)
            with self.assertRaises(BlockingIOError):
                while True:
                    other.sendto(b"x", systemd.address)
        self.status = "busy"
        self.clock.advance(5)
        systemd.heard()
        self.clock.advance(5)
        self.assertEqual(systemd.heard(), [["STATUS=busy"]])

    def test_a_socket_that_is_gone_is_told_again_when_it_is_back_and_the_log_has_it_once(self) -> None:
        systemd = self.systemd()
        notifier = self.notifier(NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="3000000")
        notifier.ready()
        why = "No such file or directory"
        for _ in range(2):
            os.unlink(systemd.address)
            self.logged.clear()
            self.clock.pump([1.5] * 5)
            self.assertEqual(
                [formatEvent(event) for event in self.logged],
                [f"systemd cannot be told how this service does: {why} (NOTIFY_SOCKET); trying again"],
            )
            systemd = self.systemd(systemd.address)
            self.clock.advance(1.5)
            self.assertEqual(systemd.heard(), [["WATCHDOG=1"]])

    def test_what_nobody_heard_is_said_before_all_else(self) -> None:
        systemd = self.systemd()
        os.unlink(systemd.address)
        notifier = self.notifier(NOTIFY_SOCKET=systemd.address)
        notifier.ready()
        systemd = self.systemd(systemd.address)
        self.clock.advance(5)
        self.assertEqual(systemd.heard(), [["READY=1"], ["STATUS=well"]])
        os.unlink(systemd.address)
        notifier.stopping("leaving")
        systemd = self.systemd(systemd.address)
        self.clock.advance(5)
        self.assertEqual(systemd.heard(), [["STOPPING=1"], ["STATUS=leaving"]])

    def test_it_goes_on_when_no_file_can_be_opened(self) -> None:
        systemd = self.systemd()
        notifier = self.notifier(NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="3000000")
        with no_more_files():
            notifier.ready()
            self.clock.pump([1.5] * 2)
        self.assertEqual(systemd.heard(), [["READY=1"], ["WATCHDOG=1", "STATUS=well"], ["WATCHDOG=1"], ["WATCHDOG=1"]])


class ProcessTests(NotifyCase):
    def setUp(self) -> None:
        super().setUp()
        self.rig = Rig().__enter__()
        self.addCleanup(self.rig.close)

    def test_the_web_side_is_ready_when_http_listens_and_its_journal_is_open(self) -> None:
        systemd = self.systemd()
        port, journal = free_port(), self.rig.folder / "it.sqlite"
        options = [f"--listen=tcp:{port}:interface=127.0.0.1", f"--worker=tcp://127.0.0.1:{free_port()}"]
        command = [*TWISTD, "zpipe-web", f"--journal={journal}", *options]
        web = self.rig.start("web", command, port, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="200000")
        self.assertEqual(systemd.hear(), ["READY=1"])
        self.assertEqual(get(port, "/health/ready")[0], 200)
        with closing(sqlite3.connect(journal)) as connection:
            self.assertEqual(connection.execute("SELECT count(*) FROM jobs").fetchall(), [(0,)])
        self.assertEqual(systemd.hear(), ["WATCHDOG=1", "STATUS=0 workers ready, 0 jobs not settled"])
        self.assertEqual(post(port, b"x")[0], 202)
        systemd.until("STATUS=0 workers ready, 1 jobs not settled")
        systemd.heard()
        systemd.until("WATCHDOG=1")
        self.assertEqual(web.end(), 0)
        lines = [line for message in systemd.heard() for line in message]
        self.assertIn("STOPPING=1", lines)

    def test_a_process_that_stands_still_tells_the_watchdog_nothing(self) -> None:
        """No thread says that it is well: a handler in the reactor holds up all of it."""
        systemd = self.systemd()
        port = free_port()
        command = [*TWISTD, "zpipe-worker", f"--port={port}", "--handler=tests.faults.handlers:record"]
        record = str(self.rig.folder / "record")
        told = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "200000"}
        self.rig.start("worker", command, port, RECORD=record, SECONDS="1.5", **told)
        systemd.until("WATCHDOG=1")
        web = self.rig.web([port])
        self.rig.until_ready(web, 1)
        post(web.port, b"")
        self.rig.until("the job has begun", lambda: Path(record).exists() and "begin" in Path(record).read_text())
        systemd.heard()
        self.rig.until("it has ended", lambda: " end " in Path(record).read_text())
        self.assertLess(len(systemd.heard()), 5, "in a second and a half there are fifteen, and a few come after it")
        systemd.until("WATCHDOG=1")

    def test_a_worker_is_ready_when_its_port_is_bound(self) -> None:
        systemd = self.systemd()
        port = free_port()
        worker = self.rig.start(
            "worker", [*TWISTD, "zpipe-worker", f"--port={port}"], port, NOTIFY_SOCKET=systemd.address
        )
        self.assertEqual(systemd.hear(), ["READY=1"])
        socket.create_connection(("127.0.0.1", port)).close()
        where = f"tcp://127.0.0.1:{port}"
        self.assertEqual(systemd.hear(), [f"STATUS=handler zpipeline.handlers:log at {where}"])
        self.assertEqual(worker.end(), 0)
        self.assertIn(["STOPPING=1"], systemd.heard())

    def test_who_cannot_start_is_never_ready(self) -> None:
        systemd = self.systemd()
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            port = other.getsockname()[1]
            command = [*TWISTD, "zpipe-worker", f"--port={port}"]
            worker = self.rig.start("worker", command, port, NOTIFY_SOCKET=systemd.address)
            self.assertEqual(worker.wait(), 1)
        self.assertEqual(systemd.heard(), [])

    def test_the_workers_of_zpipe_tell_nobody(self) -> None:
        systemd = self.systemd()
        first, port = free_port(), free_port()
        options = [f"--listen=tcp:{port}:interface=127.0.0.1", f"--first-port={first}", "--workers=1"]
        zpipe = self.rig.start("zpipe", [*TWISTD, "zpipe", *options], port, NOTIFY_SOCKET=systemd.address)
        systemd.until("STATUS=1 workers ready, 0 jobs not settled")
        children = Path(f"/proc/{zpipe.popen.pid}/task/{zpipe.popen.pid}/children").read_text().split()
        self.assertEqual(len(children), 1)
        self.assertNotIn(b"NOTIFY_SOCKET", Path(f"/proc/{children[0]}/environ").read_bytes())
        self.assertEqual(zpipe.end(), 0)
