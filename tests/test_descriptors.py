"""Without a file descriptor to be had: nothing is made by halves, and all goes on when there are some again."""

from __future__ import annotations

import os
import resource
import sys
from subprocess import run
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.rig import ROOT, TWISTD, Rig, free_port
from tests.open_files import count, no_more_files
from tests.peers import turns, until
from tests.test_link import LinkTestCase, Owner
from tests.zmq_kit import Inbox, Recorder
from zpipeline.errors import UsageError
from zpipeline.inquest import Inquest
from zpipeline.sockets import Factory, Pull, Push
from zpipeline.tap.descriptors import most_connections
from zpipeline.worker import Worker


class SocketTests(LinkTestCase):
    """Sockets and links in this process."""

    def what_there_is(self) -> tuple[int, int, int]:
        """Descriptors, readers of the reactor, and connections of the factory."""
        return count(), len(reactor.getReaders()), len(self.factory.connections)

    async def test_a_push_that_cannot_be_made_leaves_nothing_behind(self) -> None:
        await turns()  # the reactor runs from now on, with what it opens for that
        pull, _ = self.pull()
        before = self.what_there_is()
        made = 0
        for descriptors in range(8):
            with no_more_files(but=descriptors):
                try:
                    push: Any = Push(self.factory, pull.address, Recorder(reactor))
                except Exception as error:
                    self.assertIn("Too many open files", str(error))
                else:
                    made += 1
                    push.close()
            await until(lambda: self.what_there_is() == before, f"all is closed, of {descriptors}")
        self.assertTrue(0 < made < 8, made)

    async def test_a_pull_that_cannot_be_made_leaves_nothing_behind_and_says_why(self) -> None:
        await turns()  # the reactor runs from now on, with what it opens for that
        self.pull()  # with libzmq's threads
        before = self.what_there_is()
        made = 0
        for descriptors in range(8):
            with no_more_files(but=descriptors):
                try:
                    pull: Any = Pull(self.factory, "tcp://127.0.0.1:*", Inbox(reactor))
                except UsageError as error:
                    self.assertIn("cannot be bound: too many open files", str(error))
                else:
                    made += 1
                    pull.close()
            await until(lambda: self.what_there_is() == before, f"all is closed, of {descriptors}")
        self.assertTrue(0 < made < 8, made)

    def test_a_factory_that_cannot_be_made_says_why(self) -> None:
        with no_more_files():
            error = self.assertRaises(UsageError, Factory, reactor)
        self.assertIn("too many open files: no socket can be made; raise the limit", str(error))

    async def test_a_worker_that_cannot_be_bound_leaves_nothing_behind(self) -> None:
        await turns()  # the reactor runs from now on, with what it opens for that
        before = count()
        worker = Worker(reactor, len, "tcp://127.0.0.1:*")
        with no_more_files(but=1):
            self.assertRaises(UsageError, worker.bind)
        await until(lambda: count() == before)
        worker.bind()
        worker.startService()
        await worker.stopService()

    async def test_a_link_tries_until_there_are_descriptors_and_logs_it_once(self) -> None:
        await turns()  # the reactor runs from now on, with what it opens for that
        pull, _ = self.pull()
        owner = Owner()
        with no_more_files():
            link, _ = self.link(pull.address, owner)
            await owner.until_heard("lost", 4)
            trouble = (
                "too many open files: no socket can be made; raise the limit on them (ulimit -n, systemd's LimitNOFILE)"
            )
            self.assertEqual(self.warnings, [f"{pull.address}: {trouble}; trying again"])
            self.assertEqual(link.trouble, trouble)
        await owner.until_heard("connected")

    async def test_an_inquest_proves_nothing(self) -> None:
        await turns()  # the reactor runs from now on, with what it opens for that
        verdict: Deferred[bool] = Deferred()
        with no_more_files():
            Inquest(reactor, ("127.0.0.1", "1"), verdict.callback)
            self.assertIs(await verdict, False)


class LimitTests(SynchronousTestCase):
    """How many descriptors our processes may have."""

    def limits(self, pid: int) -> tuple[int, int]:
        """The soft and the hard limit of a process."""
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def start(self, rig: Rig, soft: int, hard: int, *words: object) -> Any:
        """Start a command under these limits."""
        program = (
            "import os, resource, sys\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        rig.inside = [sys.executable, "-c", program]
        port = free_port()
        return rig.start("it", [*TWISTD, *words, f"--listen=tcp:{port}:interface=127.0.0.1", "--no-journal"], port)

    def test_the_web_side_takes_what_it_may_and_its_workers_have_what_it_had(self) -> None:
        with Rig() as rig:
            first = free_port()
            zpipe = self.start(rig, 256, 4000, "zpipe", "--workers=1", f"--first-port={first}")
            rig.until("the worker is ready", lambda: ": ready (" in zpipe.log)
            self.assertEqual(self.limits(zpipe.popen.pid), (4000, 4000))
            children = f"/proc/{zpipe.popen.pid}/task/{zpipe.popen.pid}/children"
            with open(children) as file:
                (worker,) = map(int, file.read().split())
            self.assertEqual(self.limits(worker), (256, 4000))
            self.assertEqual(zpipe.end(), 0, zpipe.log)

    def test_a_bound_on_connections_that_cannot_be_reached_is_one_line(self) -> None:
        with Rig() as rig:
            web = self.start(rig, 256, 300, "zpipe-web", "--max-connections=300")
            self.assertEqual(web.wait(), 1)
            self.assertEqual(
                web.log,
                "zpipe-web: --max-connections 300: this process may have 300 file descriptors (choose less, or raise "
                "the hard limit: ulimit -Hn, or systemd's LimitNOFILE)\n",
            )

    def test_connections_get_half_of_them_and_ten_thousand_at_most(self) -> None:
        self.assertEqual([most_connections(n) for n in (1, 256, 1024, 65_536)], [1, 128, 512, 10_000])

    def test_a_reactor_that_calls_select_gets_no_more_than_select_can_watch(self) -> None:
        code = (
            "import resource\n"
            "from twisted.internet.selectreactor import SelectReactor\n"
            "from zpipeline.tap.descriptors import raise_soft_limit\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 3000))\n"
            "print(raise_soft_limit(SelectReactor()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
            "print(raise_soft_limit(object()), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        )
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        done = run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        self.assertEqual((done.stdout, done.stderr), ("1024 2000\n3000 3000\n", ""))
