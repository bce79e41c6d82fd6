"""What a job costs on the ways that every job goes, in bytecode instructions: no machine's speed plays a part in that.

A budget is half as much again as was counted when it was set (Python 3.11; other versions count somewhat less or more):
what doubles a cost is caught. Where one is exceeded for good reason, it is set anew, and the change says why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from zpipeline import protocol
from zpipeline.entry import Entry
from zpipeline.handlers import discard
from zpipeline.journal.opening import open_journal
from zpipeline.journal.tables import Tables
from zpipeline.pipeline import Pipeline
from zpipeline.pipeline.sending import to_messages
from zpipeline.store import Facts, Limits
from zpipeline.upstream import Upstream
from zpipeline.web import make_site
from zpipeline.worker import Worker

JOBS = 600
BODY = b'{"n":1}'


def instructions(call: Callable[[], object]) -> int:
    """How many bytecode instructions this runs."""
    return _monitored(call) if sys.version_info >= (3, 12) else _traced(call)


def _monitored(call: Callable[[], object]) -> int:
    count = 0

    def look(*_: object) -> None:
        nonlocal count
        count += 1

    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]  # of Python 3.12
    tool = monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "zpipeline")
    try:
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, look)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        call()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    return count


def _traced(call: Callable[[], object]) -> int:
    count = 0

    def look(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            count += 1
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


class CostCase(SynchronousTestCase):
    def assert_costs(self, budget: int, call: Callable[[], object], jobs: int = JOBS) -> None:
        """No more than so many instructions a job."""
        each = instructions(call) / jobs
        self.assertLess(each, budget)
        self.assertGreater(each, budget / 4, "the budget is so large that it would catch nothing")


class WebSideTests(CostCase):
    """In memory: what the journal adds is counted by itself."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pipeline = Pipeline(self.clock, [], journal=None)
        self.dispatcher = self.pipeline._dispatcher
        self.jobs = self.pipeline._jobs
        for number in (1, 2, 3):
            self.dispatcher.ready(number, JOBS, 0.0)
        self.site = make_site(self.pipeline, reactor=self.clock)

    def connection(self) -> tuple[Any, StringTransport]:
        channel = self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        channel.makeConnection(transport)
        return channel, transport

    def test_a_request(self) -> None:
        connections = [self.connection() for _ in range(JOBS)]

        def ask() -> None:
            for channel, _ in connections:
                channel.dataReceived(b"GET /?n=1 HTTP/1.1\r\nHost: 127.0.0.1:4567\r\nAccept: */*\r\n\r\n")
            self.clock.advance(0)

        self.assert_costs(2600, ask)
        self.assertEqual([transport.value()[9:12] for _, transport in connections], [b"202"] * JOBS)

    def test_a_line_of_a_batch(self) -> None:
        channel, transport = self.connection()
        lines = (BODY + b"\n") * JOBS
        head = b"POST /batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        head += b"Content-Length: %d\r\n\r\n" % len(lines)
        self.assert_costs(230, lambda: channel.dataReceived(head + lines))
        self.assertEqual(transport.value()[9:12], b"202")

    def test_from_push_to_settlement(self) -> None:
        bodies = [BODY] * JOBS
        self.assert_costs(150, lambda: self.pipeline.push_many(bodies, {"a": "b"}))
        given: list[Any] = []
        self.assert_costs(75, lambda: given.extend(self.jobs.hand_out()))
        self.assertEqual([len(entries) for _, entries in given], [JOBS // 3] * 3)
        self.assert_costs(85, lambda: [list(to_messages(session.number, entries)) for session, entries in given])

        def settle() -> None:
            for session, entries in given:
                done = protocol.encode(protocol.Done(session.number, [entry.sequence for entry in entries]))
                message = protocol.decode_for_sink(done)
                assert isinstance(message, protocol.Done)
                self.jobs.done(session, message.sequences)

        self.assert_costs(145, settle)
        self.assertEqual(self.pipeline.pending, 0)


class JournalTests(CostCase):
    def test_accepting_and_settling(self) -> None:
        connection, _ = open_journal(self.mktemp())
        self.addCleanup(connection.close)
        tables = Tables(connection, Limits(3600, 1000, 1000, 1000))
        entries = [Entry(number, BODY, b"{}", 0.0) for number in range(1, JOBS + 1)]
        statements: list[str] = []
        connection.set_trace_callback(statements.append)

        def accept() -> None:
            tables.begin()
            tables.accept(entries, None, 0.0)
            tables.finish()
            tables.commit()

        def settle() -> None:
            tables.begin()
            tables.write(Facts(done=entries))
            tables.finish()
            tables.commit()

        self.assert_costs(40, accept)
        for entry in entries:
            entry.settled_at = 1.0
        self.assert_costs(80, settle)
        self.assertEqual(connection.execute("SELECT count(*) FROM settled").fetchone(), (JOBS,))
        self.assertLess(len(statements), JOBS / 10, "statements, of many rows each")


class WorkerTests(CostCase):
    def test_a_job_that_does_nothing(self) -> None:
        clock = Clock()
        worker = Worker(clock, discard)
        upstream = Upstream(clock, None, 7, worker)
        sent: list[Any] = []

        class Sink:
            def send(self, frames: list[bytes]) -> bool:
                sent.append(protocol.decode_for_sink(frames))
                return True

        upstream.session, upstream.takes_jobs = 5, True
        upstream._link, upstream._connected = Sink(), True
        worker._upstreams[7] = upstream
        bodies = [BODY] * JOBS
        frames = protocol.encode_jobs(5, range(1, JOBS + 1), [1] * JOBS, [1.0] * JOBS, [b'{"a":"b"}'] * JOBS, bodies)

        def run() -> None:
            worker._received(frames, lambda: None)
            while len(sent) == 0 or sum(len(done.sequences) for done in sent) < JOBS:
                clock.advance(0)

        self.assert_costs(350, run)
