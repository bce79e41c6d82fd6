"""What handlers start and leave behind, and handlers that never end: their worker goes on, or ends, all the same."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import SkipTest

from tests.faults.case import RigCase
from tests.faults.load import get, post, request
from tests.faults.rig import ROOT, TWISTD, Process, free_port
from tests.processes import is_gone

HANDLERS = "tests.faults.children"

HELD_UP = "leaving takes longer than 6 seconds: it is held up"
UNDONE = "leaving with work undone"

#: What is run by it is the first process of a container.
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


class ChildrenCase(RigCase):
    """With handlers that make children."""

    def setUp(self) -> None:
        super().setUp()
        self.told = self.rig.folder / "told"
        self.told.mkdir()
        self.environment = {"CHILDREN": str(self.told), "PYTHONWARNINGS": "ignore::DeprecationWarning"}
        self.addCleanup(self.end_children)

    def end_children(self) -> None:
        """Those that outlive their worker because a test has it so."""
        for path in self.told.iterdir():
            pid = int(path.read_text())
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)
        self.rig.until("they have ended", lambda: all(is_gone(int(path.read_text())) for path in self.told.iterdir()))

    def zpipe(self, *options: object, handler: str = "handle", name: str = "zpipe") -> Process:
        """zpipe with one worker, that is ready."""
        port, first = free_port(), free_port()
        places = [f"--listen=tcp:{port}:interface=127.0.0.1", f"--first-port={first}", f"--journal={port}.sqlite"]
        words = [*TWISTD, "zpipe", *places, "--workers=1", f"--handler={HANDLERS}:{handler}", *options]
        zpipe = self.rig.start(name, words, port, **self.environment)
        self.rig.until_ready(zpipe, 1)
        return zpipe

    def worker(self, *options: object, handler: str = "handle") -> Process:
        """A worker by hand."""
        port = free_port()
        words = [*TWISTD, "zpipe-worker", f"--port={port}", f"--handler={HANDLERS}:{handler}", *options]
        return self.rig.start("worker", words, port, **self.environment)

    def web(self, worker: Process) -> Process:
        """A web side for it, to which it is ready."""
        web = self.rig.web([worker.port])
        self.rig.until_ready(web, 1)
        return web

    def run_job(self, web: Process, body: str) -> object:
        """Have it run: its result, once it is done."""
        status, _, answer = request(web.port, "POST", "/", body.encode(), "Prefer: wait=30\r\n", seconds=40)
        self.assertIn(status, (200, 204), (body, answer, self.rig.logs()))
        return json.loads(answer) if answer else None

    def child(self) -> int:
        """Who it is that a handler has told of."""
        path = self.told / "child"
        self.rig.until("the handler has told who its child is", path.exists)
        return int(path.read_text())

    def ends_within(self, process: Process, seconds: float) -> int:
        """SIGTERM: its exit status, and it takes no longer."""
        process.signal(signal.SIGTERM)
        return process.wait(seconds)


class Left(ChildrenCase):
    """Processes that handlers of zpipe's workers leave behind."""

    def dies_and_is_started_again(self, body: str) -> tuple[Process, int]:
        """A worker has run that, and was killed; another has taken its place: zpipe, and the child that was left."""
        zpipe = self.zpipe()
        worker = self.run_job(zpipe, "pid")
        assert isinstance(worker, int)
        self.run_job(zpipe, body)
        child = self.child()
        self.assertFalse(is_gone(child))
        os.kill(worker, signal.SIGKILL)
        self.rig.until("it is told", lambda: "has ended (SIGKILL), is started again" in zpipe.log, 10)
        self.assertNotEqual(self.run_job(zpipe, "pid"), worker)
        return zpipe, child

    def test_the_worker_that_left_them_is_started_again_and_they_are_ended(self) -> None:
        """Though they hold its pipes."""
        _, child = self.dies_and_is_started_again("sleeper")
        self.rig.until("the child has ended", lambda: is_gone(child), 10)

    def test_those_that_hold_no_pipe_are_ended_too(self) -> None:
        """Nothing but their group tells of them."""
        _, child = self.dies_and_is_started_again("sleeper in silence")
        self.rig.until("the child has ended", lambda: is_gone(child), 10)

    def test_a_child_by_fork_keeps_neither_the_port_nor_its_life(self) -> None:
        """The next worker binds where the one before it did."""
        zpipe, child = self.dies_and_is_started_again("stay")
        self.assertNotIn("cannot be bound", zpipe.log)
        self.rig.until("the child has ended", lambda: is_gone(child), 10)

    def test_those_of_another_session_go_on_and_hold_up_nothing(self) -> None:
        """A daemon that a handler starts is nobody's but its own."""
        zpipe, child = self.dies_and_is_started_again("sleeper outside")
        self.assertFalse(is_gone(child))
        self.assertIn("has left processes outside its process group", zpipe.log)
        self.assertEqual(self.ends_within(zpipe, 10), 0, zpipe.log)
        self.assertFalse(is_gone(child))

    def test_they_end_with_zpipe(self) -> None:
        """Which ends in time, with exit status 0."""
        for body in ("sleeper", "sleeper in silence", "stay"):
            zpipe = self.zpipe()
            self.run_job(zpipe, body)
            child = self.child()
            self.assertEqual(self.ends_within(zpipe, 10), 0, zpipe.log)
            self.rig.until("the child has ended", lambda child=child: is_gone(child), 10)
            (self.told / "child").unlink()

    def test_they_end_when_zpipe_is_killed(self) -> None:
        """By the worker, that finds itself alone: idle, or blocked."""
        for block in (False, True):
            zpipe = self.zpipe()
            worker = self.run_job(zpipe, "pid")
            self.run_job(zpipe, "sleeper")
            child = self.child()
            if block:
                (self.told / "child").unlink()
                post(zpipe.port, b"block")
                self.child()
            zpipe.signal(signal.SIGKILL)
            self.rig.until("both have ended", lambda c=child, w=worker: is_gone(c) and is_gone(w), 15)
            (self.told / "child").unlink(missing_ok=True)

    def test_a_worker_by_hand_ends_no_group(self) -> None:
        """What it has started belongs to who started it."""
        worker = self.worker()
        self.run_job(self.web(worker), "sleeper")
        child = self.child()
        self.assertEqual(self.ends_within(worker, 10), 0, worker.log)
        self.assertFalse(is_gone(child))


class Forked(ChildrenCase):
    """Children by fork."""

    def test_one_that_comes_back_out_of_the_handler_ends_with_its_status(self) -> None:
        """However it comes back, and wherever the handler runs; and the job is done once, by its parent."""
        statuses = {"sys.exit": 3, "sys.exit text": 1, "return": 0, "raise": 1}
        for handler, options in (
            ("handle", []),
            ("handle", ["--threads=2"]),
            ("handle_async", []),
            ("handle_later", []),
        ):
            worker = self.worker(*options, handler=handler)
            web = self.web(worker)
            pid = self.run_job(web, "pid")
            for body, status in statuses.items():
                self.assertEqual(self.run_job(web, body), status, (handler, options, body))
            self.assertEqual(self.run_job(web, "pid"), pid)
            self.assertEqual(json.loads(get(web.port, "/stats")[2])["done"], 6)
            self.assertIn("a last word", worker.log)
            self.assertIn("ValueError: in the child", worker.log)
            self.assertEqual(self.ends_within(worker, 10), 0, worker.log)
            self.assertEqual(worker.log.count("Main loop terminated"), 1)

    def test_one_that_waits_for_something_ends_with_a_line_that_says_why(self) -> None:
        """The reactor is its parent's."""
        worker = self.worker(handler="handle_async")
        web = self.web(worker)
        self.assertEqual(self.run_job(web, "wait"), 1)
        self.assertIn("a child by os.fork has no reactor", worker.log)
        self.assertEqual(self.run_job(web, "return"), 0)

    def test_the_death_of_its_parent_shows_and_the_ports_are_free(self) -> None:
        """Of a worker by hand, whose child goes on; though it had no descriptor to spare."""
        for body in ("stay", "stay without descriptors"):
            metrics = free_port()
            worker = self.worker(f"--metrics={metrics}")
            web = self.web(worker)
            with socket.create_connection(("127.0.0.1", worker.port)) as connection:
                connection.recv(1)  # the greeting: it is accepted
                self.run_job(web, body)
                child = self.child()
                worker.signal(signal.SIGKILL)
                worker.wait()
                connection.settimeout(10)
                while connection.recv(1024):
                    pass
            for port in (worker.port, metrics):
                with self.assertRaises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port))
            self.assertFalse(is_gone(child))
            self.rig.again(worker)
            self.rig.until_ready(web, 1)
            os.kill(child, signal.SIGKILL)
            (self.told / "child").unlink()

    def test_it_ends_at_sigterm_and_its_parent_goes_on(self) -> None:
        """As any program does."""
        worker = self.worker()
        web = self.web(worker)
        self.run_job(web, "stay")
        os.kill(child := self.child(), signal.SIGTERM)
        self.rig.until("the child has ended", lambda: is_gone(child), 10)
        self.assertEqual(self.run_job(web, "return"), 0)
        self.assertNotIn("leaving", worker.log)

    def test_processes_and_pools_work_as_anywhere(self) -> None:
        """multiprocessing and concurrent.futures, by fork and spawn; in the reactor and in threads."""
        for options in ([], ["--threads=1"]):
            worker = self.worker("--drain=1", *options)
            web = self.web(worker)
            for kind in ("fork", "spawn"):
                self.assertEqual(self.run_job(web, f"process {kind}"), [[1, 2, 3], -signal.SIGTERM])
                self.assertEqual(self.run_job(web, f"pool {kind}"), [1, 2, 3])
            self.assertEqual(self.ends_within(worker, 10), 0, worker.log)

    def test_programs_that_it_runs_get_none_of_its_descriptors(self) -> None:
        """Though they are started with close_fds=False."""
        for handler, options in (("handle", []), ("handle", ["--threads=2"])):
            worker = self.worker(f"--metrics={free_port()}", *options, handler=handler)
            files = self.run_job(self.web(worker), "open files")
            assert isinstance(files, list)
            found = re.findall(r"(\d+) -> (.*)", "\n".join(files))
            opened = [target for fd, target in found if int(fd) > 2]
            self.assertRegex("\n".join(opened), r"\A/proc/\d+/fd\Z")


class Leaving(ChildrenCase):
    """SIGTERM while handlers run that never end."""

    def leaves(self, worker: Process, body: bytes, why: str, *, drain: float = 1) -> None:
        """It has begun that job, and ends after --drain, with exit status 1 and a line that says why."""
        post(self.web(worker).port, body)
        self.child()
        began = time.monotonic()
        self.assertEqual(self.ends_within(worker, drain + 15), 1, worker.log)
        self.assertGreater(time.monotonic() - began, drain)
        self.assertIn(why, worker.log)

    def test_one_that_blocks_the_reactor(self) -> None:
        """The log says where it was."""
        worker = self.worker("--drain=1")
        self.leaves(worker, b"block", HELD_UP)
        self.assertRegex(worker.log.split(HELD_UP)[1], r'children.py", line \d+, in stay\n')

    def test_one_that_waits_in_c_and_keeps_signals_from_being_handled(self) -> None:
        """A thread hears of them."""
        self.leaves(self.worker("--drain=1"), b"block in C", HELD_UP)

    def test_one_in_which_c_code_holds_the_interpreter(self) -> None:
        """No thread of Python runs then, and the log has where each of them is."""
        self.leaves(self.worker("--drain=1"), b"hold", "Timeout (0:00:08)!")

    def test_one_in_a_thread(self) -> None:
        """--threads."""
        self.leaves(self.worker("--drain=1", "--threads=2"), b"block", UNDONE)

    def test_one_that_is_asynchronous(self) -> None:
        """It waits for what never comes."""
        self.leaves(self.worker("--drain=1", handler="handle_async"), b"block", UNDONE)

    def test_a_thread_that_a_handler_left(self) -> None:
        """Python waits for such, for ever."""
        self.leaves(self.worker("--drain=1", handler="handle_in_thread_left"), b"", HELD_UP)

    def test_zpipe_ends_in_time_with_a_worker_that_is_blocked(self) -> None:
        """What it ran is in the journal."""
        zpipe = self.zpipe("--drain=1")
        post(zpipe.port, b"block")
        self.child()
        self.assertEqual(self.ends_within(zpipe, 15), 0, zpipe.log)
        self.assertIn("1 jobs wait in the journal for the next start", zpipe.log)

    def test_its_drain_counts_from_the_signal(self) -> None:
        """Not from the end of the handler that blocked the reactor then: no second such handler gets as long again."""
        worker = self.worker("--drain=3")
        web = self.web(worker)
        for _ in range(3):
            post(web.port, b"two seconds")
        self.child()
        self.assertEqual(self.ends_within(worker, 15), 1, worker.log)
        self.assertIn(UNDONE, worker.log)


class FirstProcess(ChildrenCase):
    """zpipe as the first process of a container, which is given all orphans."""

    def test_what_handlers_leave_behind_is_reaped_and_its_own_workers_are_as_ever(self) -> None:
        """None of them stays a zombie, and the end of a worker is told of."""
        in_container()
        self.rig.inside = CONTAINER
        zpipe = self.zpipe()
        orphan = self.run_job(zpipe, "orphan")
        self.rig.until("it is reaped", lambda: str(orphan) not in self.states(zpipe), 20)
        self.run_job(zpipe, "sleeper")
        post(zpipe.port, b"die")
        self.rig.until("it is told", lambda: "has ended (exit status 3), is started again" in zpipe.log, 20)
        self.rig.until("no zombie is left", lambda: "Z" not in self.states(zpipe).values(), 30)
        (self.told / "child").unlink()  # its number is one of the container's
        first = Path(f"/proc/{zpipe.popen.pid}/task/{zpipe.popen.pid}/children").read_text()
        os.kill(int(first), signal.SIGTERM)
        self.assertEqual(zpipe.wait(15), 0, zpipe.log)

    def states(self, zpipe: Process) -> dict[str, str]:
        states = self.run_job(zpipe, "states")
        assert isinstance(states, dict)
        return states

    def test_workers_end_with_zpipe_where_the_first_process_does_nothing(self) -> None:
        """It neither reaps what it is given, nor is of another session, so that frozen workers would be hung up on."""
        in_container()
        first = [sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"]
        trial = [sys.executable, "-m", "twisted.trial", f"--temp-directory={self.rig.folder / 'trial'}"]
        name = "tests.test_tap.Zpipe.test_killed_it_takes_its_workers_with_it"
        done = subprocess.run([*CONTAINER, *first, *trial, name], capture_output=True, text=True, cwd=ROOT)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


def in_container() -> None:
    """:raises SkipTest: no namespaces can be made here."""
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run([*CONTAINER, "true"]).returncode:
        raise SkipTest("a container takes Linux, root and unshare(1)")
