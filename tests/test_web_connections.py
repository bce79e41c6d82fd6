"""How many connections there may be, and what becomes of one that is too many: real sockets."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import until
from tests.test_web import Connection, PatientConnection, WebTestCase
from tests.test_web_observe import Observed
from tests.zmq_kit import LogTestCase
from zpipeline.web.http import connections
from zpipeline.web.http.connections import Connections


class ConnectionsTests(WebTestCase, LogTestCase):
    max_connections = 2
    make_pipeline = Observed

    def setUp(self) -> None:
        LogTestCase.setUp(self)
        WebTestCase.setUp(self)

    async def served(self) -> Connection:
        """One that has its answer, and stays open."""
        connection: Connection = await self.connect()
        connection.send("GET /health/live")
        self.assertEqual((await connection.answer()).status, 200)
        return connection

    async def test_one_too_many_gets_503_whatever_it_asks_and_those_that_are_open_go_on(self) -> None:
        first, second = await self.served(), await self.served()
        for _ in range(3):
            answer = await self.post("/", b"not pushed")
            self.assert_problem(answer, 503, "too many connections")
            self.assertEqual((answer.headers["retry-after"], answer.headers["connection"]), ("5", "close"))
        for connection in (first, second):
            connection.post("/", b"pushed")
            self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(self.pipeline.pending, 2)

    async def test_a_place_that_is_left_is_taken_by_the_next(self) -> None:
        first, _ = await self.served(), await self.served()
        await first.hang_up()
        await until(lambda: len(self.channels) == 1)
        await self.served()
        self.assertEqual((await self.ask("GET /health/live")).status, 503)

    async def test_it_is_logged_once_until_there_is_room_again(self) -> None:
        for _ in range(2):
            self.logged.clear()
            first, second = await self.served(), await self.served()
            for _ in range(3):
                self.assertEqual((await self.ask("GET /")).status, 503)
            await first.hang_up()
            await second.hang_up()
            await until(lambda: not self.channels)
            self.assertEqual(
                self.lines("zpipeline.web.http.connections"),
                [
                    "2 connections are open, and more are refused (--max-connections)",
                    "connections are taken again: 3 were refused",
                ],
            )

    async def test_they_are_in_the_metrics(self) -> None:
        first, _ = await self.served(), await self.served()
        self.assertEqual((await self.ask("GET /")).status, 503)
        first.send("GET /metrics")
        lines = (await first.answer()).body.decode().splitlines()
        self.assertIn("zpipeline_connections_open 2.0", lines)
        self.assertIn("zpipeline_connections_refused_total 1.0", lines)

    async def test_a_client_that_is_still_sending_can_read_its_answer(self) -> None:
        _, _ = await self.served(), await self.served()
        refused = await self.connect()
        refused.send("POST /", "content-length: 300000")
        await until(lambda: b"503" in refused.received)
        refused.transport.write(b"x" * 300_000)
        self.assert_problem(await refused.answer(), 503)
        await refused.end()

    async def test_one_that_does_not_go_is_cut_off(self) -> None:
        self.patch(connections, "PATIENCE", 0.1)
        _, _ = await self.served(), await self.served()
        refused = await self.connect(PatientConnection)
        self.assert_problem(await refused.answer(), 503)
        await until(lambda: len(self.channels) == 2)

    async def test_when_too_many_do_not_go_the_next_is_closed_at_once(self) -> None:
        self.patch(connections, "MOST_REFUSED", 1)
        self.patch(connections, "PATIENCE", 600)
        _, _ = await self.served(), await self.served()
        waits = await self.connect(PatientConnection)
        self.assert_problem(await waits.answer(), 503)
        closed = await self.connect()
        self.assert_problem(await closed.answer(), 503)
        await closed.end()
        self.assertIsNone(waits.lost)
        await waits.hang_up()


class OverTLS(SynchronousTestCase):
    """What is no TCP connection has no half to close."""

    def test_it_is_closed_when_its_answer_is_written(self) -> None:
        clock = Clock()
        refused, transport = Connections(1, clock).refuse(), StringTransport()
        refused.makeConnection(transport)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 503 "))
        self.assertTrue(transport.disconnecting)
        clock.advance(connections.PATIENCE)
        self.assertTrue(transport.disconnected)  # by abortConnection: a client may not answer TLS's end
        refused.connectionLost()
        self.assertEqual(clock.getDelayedCalls(), [])
