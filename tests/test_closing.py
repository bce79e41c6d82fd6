"""What is stopped closes all that it has, whatever fails, and says that something failed."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed

from tests.faults.case import RigCase
from tests.faults.load import post
from tests.faults.rig import Process, free_port
from tests.open_files import count
from tests.peers import turns, until
from tests.pipeline_kit import JournalCase
from tests.zmq_kit import LogTestCase
from zpipeline.closing import Closing
from zpipeline.errors import NotClosed
from zpipeline.journal.tables import Tables
from zpipeline.sockets import Factory, Pull, Push
from zpipeline.worker import Worker


class ForTheTest(Exception):
    """Raised by parts that fail here."""


def fails(*_: object) -> None:
    """A part that cannot be closed."""
    raise ForTheTest


class ClosingTests(LogTestCase):
    async def test_each_part_is_closed_and_the_end_says_which_failed(self) -> None:
        closing = Closing()
        self.assertEqual(await closing.close("one", lambda: 1), 1)
        self.assertIsNone(await closing.close("two", fails))
        self.assertEqual(await closing.close("three", succeed, 3), 3)
        waiting: Deferred[None] = Deferred()
        waiting.errback(ForTheTest())
        self.assertIsNone(await closing.close("four", lambda: waiting))
        error = self.assertRaises(NotClosed, closing.check)
        self.assertEqual(str(error), "not closed: two, four; the log has why")
        self.assertEqual(len(self.flushLoggedErrors(ForTheTest)), 2)

    def test_when_nothing_failed_there_is_nothing_to_say(self) -> None:
        Closing().check()

    async def test_a_socket_that_fails_does_not_keep_the_others_open(self) -> None:
        await turns()
        before = count()
        factory = Factory(reactor)
        for address in ["tcp://127.0.0.1:*"] * 3:
            Pull(factory, address, fails)
        for connection in list(factory.connections)[:2]:
            connection.close = fails
        error = await self.assertFailure(factory.close(), NotClosed)
        self.assertIn("not closed: a socket, a socket;", str(error))
        self.assertEqual(len(self.flushLoggedErrors(ForTheTest)), 2)
        await until(lambda: count() == before)

    async def test_a_worker_closes_its_sockets_though_its_runner_fails(self) -> None:
        await turns()
        before = count()
        worker = Worker(reactor, len, "tcp://127.0.0.1:*")
        worker.startService()
        self.patch(worker._runner, "stop", fails)
        await self.assertFailure(worker.stopService(), NotClosed)
        self.assertEqual(len(self.flushLoggedErrors(ForTheTest)), 1)
        await until(lambda: count() == before)


class PipelineTests(JournalCase):
    async def closes_all_but(self, owner: Any, method: str) -> None:
        """Whatever this part does, the journal is closed, and can be opened again."""
        pipeline, _, _ = await self.pair()
        self.patch(owner(pipeline), method, fails)
        await self.assertFailure(pipeline.stopService(), NotClosed)
        self.assertTrue(self.flushLoggedErrors(ForTheTest))  # the clock is looked at each second, too
        self.assertEqual(len(self.log_lines("could not be closed; all else is closed nevertheless")), 1)
        self.assertTrue(pipeline.ended)

    async def test_the_journal_is_closed_though_the_way_to_the_workers_fails(self) -> None:
        await self.closes_all_but(lambda pipeline: pipeline._sessions, "_end_session")
        self.assert_closed()

    async def test_the_journal_is_closed_though_a_socket_fails(self) -> None:
        await self.closes_all_but(lambda pipeline: Push, "push")
        self.assert_closed()

    async def test_the_journal_is_closed_though_the_clock_cannot_be_looked_at(self) -> None:
        await self.closes_all_but(lambda pipeline: pipeline._clock_watch, "look")
        self.assert_closed()

    async def test_all_else_is_closed_though_the_journals_file_fails(self) -> None:
        close = Tables.close

        def fails_after(tables: Tables) -> None:
            close(tables)
            raise ForTheTest

        pipeline = self.start()
        await pipeline.push(b"")
        self.patch(Tables, "close", fails_after)
        await self.assertFailure(pipeline.stopService(), NotClosed)
        self.assertEqual(len(self.flushLoggedErrors(ForTheTest)), 1)
        self.patch(Tables, "close", close)
        self.assert_closed()
        pipeline.startService()
        self.assertEqual(pipeline.pending, 1)
        await pipeline.stopService()

    def assert_closed(self) -> None:
        """SQLite has brought its log into the file, and nobody has the lock."""
        self.assertEqual(sorted(os.listdir(self.folder)), ["jobs.sqlite", "jobs.sqlite.lock"])


class ProcessTests(RigCase):
    """The exit status."""

    def start(self, command: str, broken: str, *options: object) -> Process:
        """Start a command of twistd, in which a part fails when it is closed."""
        owner, _, method = broken.rpartition(".")
        program = (
            "from twisted.python.reflect import namedAny\n"
            "from twisted.scripts.twistd import run\n"
            "def fails(*_):\n"
            "    raise ValueError('for the test')\n"
            f"setattr(namedAny({owner!r}), {method!r}, fails)\n"
            "run()\n"
        )
        return self.rig.start("it", [sys.executable, "-c", program, "-n", command, *options], free_port())

    def test_a_web_side_closes_its_journal_though_its_sessions_fail_and_says_so(self) -> None:
        port = free_port()
        web = self.start(
            "zpipe-web",
            "zpipeline.pipeline.sessions.Sessions.stop",
            f"--listen=tcp:{port}:interface=127.0.0.1",
            "--journal=it.sqlite",
            f"--worker=tcp://127.0.0.1:{free_port()}",
        )
        self.rig.until("it serves", lambda: "serving HTTP" in web.log)
        self.assertEqual(post(port, b"")[0], 202)
        self.assertEqual(web.end(), 1, web.log)
        self.assertIn("the way to the workers could not be closed; all else is closed nevertheless", web.log)
        self.assertIn("1 jobs wait in the journal for the next start", web.log)
        left = sorted(path.name for path in self.rig.folder.glob("it.sqlite*"))
        self.assertEqual(left, ["it.sqlite", "it.sqlite.lock"])

    def test_a_service_that_does_not_stop_is_said_and_the_others_are_stopped(self) -> None:
        port = free_port()
        web = self.start(
            "zpipe-web",
            "zpipeline.tap.services.Listener.stopService",
            f"--listen=tcp:{port}:interface=127.0.0.1",
            "--journal=it.sqlite",
        )
        self.rig.until("it serves", lambda: "serving HTTP" in web.log)
        self.assertEqual(web.end(), 1, web.log)
        self.assertIn("did not stop in order", web.log)
        self.assertFalse((self.rig.folder / "it.sqlite-wal").exists())

    def test_a_worker_says_that_a_part_of_it_failed(self) -> None:
        worker = self.start("zpipe-worker", "zpipeline.runner.Runner.stop", f"--port={free_port()}")
        self.rig.until("it listens", lambda: "worker at" in worker.log)
        self.assertEqual(worker.end(), 1, worker.log)
        self.assertIn("the runner of jobs could not be closed; all else is closed nevertheless", worker.log)
