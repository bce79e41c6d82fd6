"""Bodies that are being received: how much room all of them have together, and each of them takes."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.test_web import MemoryPipeline
from tests.test_web_channel import Transport, statuses
from zpipeline.web import make_site

HOST = b"Host: localhost\r\n"
ROOM = 1000


class IncomingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pipeline = MemoryPipeline()
        self.site = make_site(self.pipeline, max_body=1 << 20, max_incoming=ROOM, reactor=Clock())

    def connect(self) -> tuple[object, Transport]:
        channel = self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = Transport()
        channel.makeConnection(transport)
        return channel, transport

    def begin(self, length: int, *headers: bytes) -> tuple[object, Transport]:
        """A client that announces a body."""
        channel, transport = self.connect()
        lines = [b"POST / HTTP/1.1\r\n", HOST, *headers, b"Content-Length: %d\r\n\r\n" % length]
        channel.dataReceived(b"".join(lines))
        return channel, transport

    def assert_refused(self, transport: Transport) -> None:
        self.assertEqual(statuses(transport.value()), [503])
        self.assertIn(b"Retry-After: ", transport.value())
        self.assertIn(b"1000 bytes together are being received", transport.value())
        self.assertIn(b"Connection: close", transport.value())

    def test_a_body_for_which_there_is_no_room_is_refused_before_it_is_read(self) -> None:
        first, answer = self.begin(900)
        _, second = self.begin(101, b"Expect: 100-continue\r\n")
        self.assert_refused(second)
        first.dataReceived(b"x" * 900)
        self.assertEqual(statuses(answer.value()), [202])
        self.assertEqual(self.site.incoming.held, 0)
        third, answer = self.begin(1000)
        third.dataReceived(b"x" * 1000)
        self.assertEqual(statuses(answer.value()), [202])

    def test_one_that_comes_in_chunks_counts_as_it_comes(self) -> None:
        self.begin(500)
        channel, transport = self.connect()
        channel.dataReceived(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        channel.dataReceived(b"1f4\r\n" + b"x" * 500 + b"\r\n")
        self.assertEqual((transport.value(), self.site.incoming.held), (b"", 1000))
        channel.dataReceived(b"1\r\nx\r\n")
        self.assert_refused(transport)
        self.assertEqual(self.site.incoming.held, 500)

    def test_one_that_could_never_be_held_is_too_large(self) -> None:
        _, transport = self.begin(ROOM + 1)
        self.assertEqual(statuses(transport.value()), [413])

    def test_its_room_is_free_when_the_client_goes_or_is_refused(self) -> None:
        first, _ = self.begin(600)
        second, transport = self.begin(400)
        second.dataReceived(b"x" * 400 + b"no request at all\r\n\r\n")
        self.assertEqual(statuses(transport.value()), [202, 400])
        first.connectionLost()
        self.assertEqual(self.site.incoming.held, 0)

    def test_its_room_is_taken_until_its_job_is_accepted(self) -> None:
        self.pipeline.held = []
        channel, transport = self.begin(900)
        channel.dataReceived(b"x" * 900)
        self.assertEqual((self.pipeline.bodies, self.site.incoming.held), ([b"x" * 900], 900))
        self.pipeline.held[0]()
        self.assertEqual((statuses(transport.value()), self.site.incoming.held), ([202], 0))

    def test_who_waits_for_what_comes_of_a_job_takes_no_room(self) -> None:
        channel, transport = self.begin(900, b"Prefer: wait=60\r\n")
        channel.dataReceived(b"x" * 900)
        self.assertEqual((transport.value(), self.site.incoming.held), (b"", 0))
        self.assertEqual(self.pipeline.bodies, [b"x" * 900])

    def test_requests_without_a_body_are_answered_when_there_is_no_room(self) -> None:
        self.begin(ROOM)
        channel, transport = self.connect()
        channel.dataReceived(b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n")
        self.assertEqual(statuses(transport.value()), [200])


class SmallChunksTests(SynchronousTestCase):
    def test_a_body_in_small_chunks_takes_about_its_size(self) -> None:
        pipeline = MemoryPipeline()
        channel = make_site(pipeline, reactor=Clock()).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = Transport()
        channel.makeConnection(transport)
        channel.dataReceived(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(200):
            channel.dataReceived(b"".join(b"2\r\n%02d\r\n" % (number % 100) for _ in range(1000)))
        self.assertLess(len(channel._coming._parts), 20, "objects, for a body of 400,000 bytes")
        channel.dataReceived(b"0\r\n\r\n")
        self.assertEqual(statuses(transport.value()), [202])
        self.assertEqual(pipeline.bodies, [b"".join(b"%02d" % (number % 100) * 1000 for number in range(200))])
