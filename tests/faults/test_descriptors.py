"""A web side that has as many descriptors open as it may: it goes on, and leaves nothing open for good."""

from __future__ import annotations

import resource
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex

from tests.faults.case import RigCase
from tests.faults.load import get, pushed
from tests.faults.rig import TWISTD, Process, free_port
from tests.open_files import count
from tests.test_notify import Systemd

#: How often the watchdog hears of it, in seconds.
OFTEN = 0.1


class Descriptors(RigCase):
    def setUp(self) -> None:
        super().setUp()
        self.clients = ExitStack()
        self.addCleanup(self.clients.close)
        self.systemd = Systemd(f"@zpipeline-test-{token_hex(8)}")
        self.addCleanup(self.systemd.close)

    def web(self, *options: object) -> tuple[Process, Process]:
        """A web side with one worker, and an address where none is; and that worker. The watchdog watches it."""
        worker, port = self.rig.worker(), free_port()
        addresses = [f"--worker=tcp://127.0.0.1:{port}" for port in (worker.port, free_port())]
        journal = f"--journal=journal-{port}.sqlite"
        command = [*TWISTD, "zpipe-web", f"--listen=tcp:{port}:interface=127.0.0.1", journal, *addresses, *options]
        told = {"NOTIFY_SOCKET": self.systemd.address, "WATCHDOG_USEC": str(int(OFTEN * 2e6))}
        web = self.rig.start("web", command, port, **told)
        self.systemd.until("READY=1")
        self.rig.until_ready(web, 1)
        return web, worker

    def limit(self, web: Process, most: int) -> None:
        """Let it have no more descriptors than so many."""
        _, hard = resource.prlimit(web.popen.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(web.popen.pid, resource.RLIMIT_NOFILE, (most, hard))

    def clients_come(self, web: Process, how_many: int) -> None:
        """So many connect, and stay."""
        for _ in range(how_many):
            self.clients.enter_context(socket.create_connection(("127.0.0.1", web.port)))

    def no_socket_can_be_made(self, web: Process, most: int) -> None:
        """It says so. What it gives back when a try has failed halfway is taken by another client."""

        def is_said() -> bool:
            if count(web.popen.pid) < most:
                self.clients_come(web, 1)
            return "too many open files: no socket can be made" in web.log

        self.rig.until("no socket can be made", is_said)

    def watchdog_hears(self, times: int = 5) -> None:
        """So often, from now on."""
        self.systemd.heard()
        for _ in range(times):
            self.assertIn("WATCHDOG=1", self.systemd.hear())

    def ends_in_order(self, web: Process) -> None:
        """With exit status 0, and its journal closed: nothing is beside it any more but its lock."""
        self.assertEqual(web.end(), 0, web.log)
        left = sorted(path.name for path in self.rig.folder.glob(f"journal-{web.port}*"))
        self.assertEqual(left, [f"journal-{web.port}.sqlite", f"journal-{web.port}.sqlite.lock"])

    def test_it_goes_on_and_leaves_nothing_open(self) -> None:
        web, worker = self.web()
        pid = web.popen.pid
        before = min(count(pid) for _ in range(100))
        self.limit(web, before + 12)
        self.clients_come(web, 50)
        self.rig.until("no descriptor is left", lambda: count(pid) >= before + 11)
        self.watchdog_hears()
        self.no_socket_can_be_made(web, before + 11)
        worker.signal(signal.SIGKILL)
        worker.wait()
        self.rig.until("the loss of the worker is found", lambda: f"{worker.port}: disconnected; trying" in web.log)
        self.clients_come(web, 50)  # in the place of what was the worker's
        worker = self.rig.again(worker)
        self.watchdog_hears()
        self.clients.close()
        self.rig.until_ready(web, 1)
        self.rig.until_all_ran([pushed(web.port, b"job")])
        self.rig.until("all that was opened is closed", lambda: count(pid) <= before)
        self.assertLess(web.log.count("no socket can be made"), 10, "it is said when it begins")
        self.ends_in_order(web)
        self.assertNotIn("Traceback", web.log)

    def test_it_can_be_stopped_while_none_is_left(self) -> None:
        web, _ = self.web()
        before = count(web.popen.pid)
        self.limit(web, before + 12)
        self.clients_come(web, 50)
        self.no_socket_can_be_made(web, before + 11)
        self.ends_in_order(web)

    def test_who_listens_and_cannot_accept_waits_and_serves_again_when_it_can(self) -> None:
        """Twisted has a descriptor in reserve to turn clients away; it may be lost to others, as with a limit of 3."""
        web, _ = self.web()
        self.limit(web, 3)
        self.clients_come(web, 1)
        self.rig.until("it cannot accept", lambda: "Could not accept new connection" in web.log)
        used, said = self.cpu(web), len(web.log)
        self.watchdog_hears(10)  # that is a second
        self.assertLess(self.cpu(web) - used, 0.5)
        self.assertLess(len(web.log) - said, 10_000)
        self.limit(web, 1000)
        self.assertEqual(get(web.port, "/health/live")[0], 200)
        self.ends_in_order(web)

    def cpu(self, process: Process) -> float:
        """How many seconds it has computed."""
        fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def test_connections_over_the_bound_leave_descriptors_for_workers(self) -> None:
        web, worker = self.web("--max-connections=20")
        self.clients_come(web, 19)
        self.rig.until("they are open", lambda: self.open_connections(web) == 20)
        with socket.create_connection(("127.0.0.1", web.port)) as last:
            self.rig.until("it is full", lambda: get(web.port, "/health/live")[0] == 503)
            worker.end()
            self.rig.again(worker)
            self.rig.until("it takes part again", lambda: web.log.count(f"{worker.port}: ready (") == 2)
            last.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            self.assertIn(b" 200 OK\r\n", last.recv(1000))
        self.rig.until("there is room", lambda: get(web.port, "/health/live")[0] == 200)
        self.ends_in_order(web)

    def open_connections(self, web: Process) -> int:
        """How many it says that it has, this one included."""
        lines = get(web.port, "/metrics")[2].decode().splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("zpipeline_connections_open "))
