"""How bytes become requests: what two readers might take for two things is refused, and nothing is taken twice."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection as TCPConnection
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.test_web import MemoryPipeline, WebTestCase, next_turn
from zpipeline.job import make_id
from zpipeline.web import app, make_site, page
from zpipeline.web.http.channel import READ_AT_ONCE

CHUNKED = "transfer-encoding: chunked"


def talk(*pieces: bytes) -> tuple[bytes, MemoryPipeline, StringTransport]:
    """What a client that sends these pieces gets."""
    pipeline = MemoryPipeline()
    served = make_site(pipeline, reactor=Clock()).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    transport = Transport()
    served.makeConnection(transport)
    for piece in pieces:
        served.dataReceived(piece)
    return transport.value(), pipeline, transport


class Transport(StringTransport):
    """One that can close its half."""

    aborted = False

    def loseWriteConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True


def statuses(answers: bytes) -> list[int]:
    """Of all answers; none of them has a status line in its body."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


class StrictTests(SynchronousTestCase):
    """Each is a request that must not be taken for anything."""

    def assert_refused(self, request: bytes, status: int = 400) -> None:
        # What follows would be taken for a request by a reader who sees the end elsewhere.
        for pieces in (
            [request + b"GET /?smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"],
            [request[i : i + 1] for i in range(len(request))],
        ):
            answers, pipeline, transport = talk(*pieces)
            self.assertEqual((statuses(answers), pipeline.bodies), ([status], []), request)
            self.assertTrue(transport.disconnecting, request)
            self.assertIn(b"\r\nConnection: close\r\n", answers)

    def assert_head_refused(self, *lines: bytes, body: bytes = b"abc", status: int = 400) -> None:
        self.assert_refused(b"\r\n".join([b"POST / HTTP/1.1", b"host: localhost", *lines, b"", body]), status)

    def test_lengths_that_contradict_each_other(self) -> None:
        self.assert_head_refused(b"content-length: 3", b"content-length: 4")
        self.assert_head_refused(b"content-length: 3", b"content-length: 3")
        self.assert_head_refused(b"content-length: 3, 3")

    def test_lengths_that_are_no_numbers(self) -> None:
        for length in (b"+3", b"-3", b"0x3", b"3_0", b"3.0", b"1e1", b"", b"3 3", b"\xb2", b"three"):
            self.assert_head_refused(b"content-length: " + length)

    def test_a_length_and_chunks(self) -> None:
        chunks = b"3\r\nabc\r\n0\r\n\r\n"
        self.assert_head_refused(b"content-length: 3", b"transfer-encoding: chunked", body=chunks)
        self.assert_head_refused(b"transfer-encoding: chunked", b"content-length: 3", body=chunks)

    def test_transfer_codings_that_others_may_not_see(self) -> None:
        for coding in (b"\x0bchunked", b"chunked, chunked", b"chunked, identity", b"chun\x00ked", b"chunked;a=\x00"):
            self.assert_head_refused(b"transfer-encoding: " + coding, body=b"0\r\n\r\n")
        self.assert_head_refused(b"transfer-encoding: chunked", b"transfer-encoding: chunked", body=b"0\r\n\r\n")

    def test_transfer_codings_that_are_not_understood(self) -> None:
        for coding in (b"gzip, chunked", b"identity,\tChunked"):
            self.assert_head_refused(b"transfer-encoding: " + coding, body=b"0\r\n\r\n", status=501)
        for coding in (b"identity", b"gzip", b"xchunked", b"chunked, gzip"):  # where such a body ends is not known
            self.assert_head_refused(b"transfer-encoding: " + coding, body=b"0\r\n\r\n")

    def test_transfer_codings_over_two_lines(self) -> None:
        self.assert_head_refused(b"transfer-encoding: gzip", b"transfer-encoding: chunked", body=b"0\r\n\r\n")

    def test_chunks_in_http_1_0(self) -> None:
        self.assert_refused(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")

    def test_headers_whose_names_or_ends_are_in_doubt(self) -> None:
        for header in (
            b"content-length : 3",
            b" content-length: 3",
            b"content-length\t: 3",
            b"content\x00-length: 3",
            b"x-a: 1\r\n content-length: 3",
            b"x-a: 1\rcontent-length: 3",
            b"x-a: 1\ncontent-length: 3",
            b"x-a: \x00",
            b"no colon",
            b": 3",
        ):
            self.assert_head_refused(header)

    def test_lines_without_a_carriage_return(self) -> None:
        self.assert_refused(b"GET / HTTP/1.1\nhost: localhost\n\n")
        self.assert_refused(b"GET / HTTP/1.1\r\nhost: localhost\n\r\n")

    def test_chunks_whose_size_is_in_doubt(self) -> None:
        for size in (b"0x3", b"+3", b"-3", b"3 ", b" 3", b"3_0", b"", b"g", b"\xb23", b"3\n", b"f" * 17, b"3;\x00"):
            self.assert_head_refused(b"transfer-encoding: chunked", body=size + b"\r\nabc\r\n0\r\n\r\n")

    def test_chunks_that_do_not_end_where_they_say(self) -> None:
        for chunks in (b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n"):
            self.assert_head_refused(b"transfer-encoding: chunked", body=chunks)

    def test_request_lines_that_are_none(self) -> None:
        for line in (
            b"GET",
            b"GET / HTTP/1.1 x",
            b"GET / HTTP/11",
            b"GET / http/1.1",
            b"GET / RTSP/1.0",
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b"GET nothing HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET ftp://localhost/ HTTP/1.1",
            b"GET http:///x HTTP/1.1",
            b"GET http://me@localhost/ HTTP/1.1",
            b"G\x00T / HTTP/1.1",
        ):
            self.assert_refused(line + b"\r\nhost: localhost\r\n\r\n")
        self.assert_refused(b"GET /?\xff HTTP/1.1\r\nhost: localhost\r\n\r\n")

    def test_other_versions(self) -> None:
        for version in (b"2.0", b"0.9", b"1.2"):
            self.assert_refused(b"GET / HTTP/" + version + b"\r\nhost: localhost\r\n\r\n", 505)

    def test_methods_that_nobody_knows(self) -> None:
        for method in (b"get", b"FROBNICATE", b"PRI"):
            answers, pipeline, _ = talk(method + b" / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            self.assertEqual((statuses(answers), pipeline.jobs), ([405], []))

    def test_a_host_that_is_missing(self) -> None:
        self.assert_refused(b"GET /?a HTTP/1.1\r\naccept: */*\r\n\r\n")

    def test_more_than_one_empty_line_before_a_request(self) -> None:
        self.assert_refused(b"\r\n\r\nGET / HTTP/1.1\r\nhost: localhost\r\n\r\n")


class BoundTests(SynchronousTestCase):
    def test_headers_are_bounded_in_size(self) -> None:
        fits = (
            b"GET / HTTP/1.1\r\nhost: localhost\r\n"
            + b"x-%d: %b\r\n" * 4 % tuple(v for n in range(4) for v in (n, b"v" * 4000))
            + b"\r\n"
        )
        self.assertEqual(statuses(talk(fits)[0]), [202])
        for pieces in (
            [fits[:-2] + b"x-4: %b\r\n\r\n" % (b"v" * 400)],
            [b"GET / HTTP/1.1\r\nx: ", *[b"v" * 1000] * 20],
        ):
            answers, pipeline, _ = talk(*pieces)
            self.assertEqual((statuses(answers), pipeline.jobs), ([431], []))

    def test_headers_are_bounded_in_number(self) -> None:
        for number, status in ((500, 202), (501, 431)):
            self.assertEqual(
                statuses(talk(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * (number - 1) + b"\r\n")[0]),
                [status],
            )

    def test_a_request_line_without_end(self) -> None:
        self.assertEqual(statuses(talk(b"GET /?", *[b"x" * 1000] * 17)[0]), [431])

    def test_fields_after_a_body_are_bounded_and_of_no_use(self) -> None:
        start = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        answers, pipeline, _ = talk(start + b"x-late: 1\r\n\r\n")
        self.assertEqual(statuses(answers), [202])
        self.assertEqual(pipeline.jobs, [(b"a", {"zpipe-method": "POST", "zpipe-path": "/"})])
        for late in ([b"x-late: 1\r\n" * 2000], [b"x-late: ", *[b"v" * 1000] * 17]):
            self.assertEqual(statuses(talk(start, *late)[0]), [431])
        for late in (b"no colon\r\n\r\n", b" x: 1\r\n\r\n", b"x: \x00\r\n\r\n"):
            self.assertEqual(statuses(talk(start, late)[0]), [400])

    def test_chunk_extensions_without_end(self) -> None:
        start = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1;"
        for rest in ([b"x" * 1000] * 2, [b"x" * 2000 + b"\r\n"]):
            self.assertEqual(statuses(talk(start, *rest)[0]), [400])


class UpgradeTests(WebTestCase):
    """Java's client, and `curl --http2`, ask for HTTP/2 with their first request."""

    UPGRADE = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")

    async def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one(self) -> None:
        connection = await self.connect()
        connection.send("GET /?a", *self.UPGRADE)
        connection.post("/", b"GET /?no HTTP/1.1\r\n\r\n", *self.UPGRADE)
        connection.post_chunks("/", [b"POST ", b"/ HTTP", b""], CHUNKED, *self.UPGRADE[:2])
        connection.send("GET /?c")
        for number in range(1, 3):
            self.assertEqual((await connection.answer()).json(), {"id": make_id(7, number)})

    async def test_bodies_of_such_requests_are_bodies(self) -> None:
        for split in (1, 7, 10_000):
            self.pipeline.jobs.clear()
            start = "\r\n".join(["POST / HTTP/1.1", "host: localhost", *self.UPGRADE])
            stream = (
                f"{start}\r\ncontent-length: 6\r\n\r\nGET / {start}\r\n{CHUNKED}\r\n\r\n3\r\nPOS\r\n0\r\n\r\n".encode()
            )
            stream += b"GET /?last HTTP/1.1\r\nhost: localhost\r\n\r\n"
            connection = await self.connect()
            for start_of_piece in range(0, len(stream), split):
                connection.transport.write(stream[start_of_piece : start_of_piece + split])
                await next_turn()
            for _ in range(3):
                self.assertEqual((await connection.answer()).status, 202)
            self.assertEqual(self.pipeline.bodies, [b"GET / ", b"POS", b"last"])

    async def test_such_a_body_has_its_limit(self) -> None:
        connection = await self.connect()
        connection.post("/", b"x" * (self.max_body + 1), *self.UPGRADE)
        self.assert_problem(await connection.answer(), 413)

    async def test_a_tunnel_is_not_to_be_had(self) -> None:
        connection = await self.connect()
        connection.send("CONNECT elsewhere:1")
        connection.send("GET /?a")
        self.assert_problem(await connection.answer(), 404)
        self.assertEqual((await connection.answer()).status, 202)


class OrderTests(WebTestCase):
    async def test_what_is_refused_waits_for_the_answers_before_it(self) -> None:
        for refused, status in (
            (b"junk\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n", 413),
        ):
            self.pipeline.held = []
            pushed = self.pipeline.next_push()
            connection = await self.connect()
            connection.transport.write(b"GET /?a HTTP/1.1\r\nhost: localhost\r\n\r\n" + refused)
            await pushed
            self.assertEqual(connection.received, b"")
            self.pipeline.held[0]()
            self.assertEqual((await connection.answer()).status, 202)
            self.assert_problem(await connection.answer(), status)

    async def test_nothing_after_the_last_request_is_begun(self) -> None:
        connection = await self.connect()
        connection.transport.write(
            b"GET /?a HTTP/1.1\r\nhost: localhost\r\nconnection: x, Close\r\n\r\nGET /?b HTTP/1.1\r\n\r\njunk"
        )
        self.assertEqual((await connection.answer()).headers["connection"], "close")
        await connection.end()
        self.assertEqual((self.pipeline.bodies, connection.received), ([b"a"], b""))

    async def test_a_client_that_waits_to_be_told_to_go_on_is_told_after_the_answer_before(self) -> None:
        self.pipeline.held = []
        pushed = self.pipeline.next_push()
        connection = await self.connect()
        connection.transport.write(
            b"GET /?a HTTP/1.1\r\nhost: localhost\r\n\r\n"
            b"POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"
        )
        await pushed
        self.assertEqual(connection.received, b"")
        held, self.pipeline.held = self.pipeline.held, None
        held[0]()
        self.assertEqual([(await connection.answer()).status for _ in range(2)], [202, 100])
        connection.transport.write(b"b")
        self.assertEqual((await connection.answer()).status, 202)

    async def test_a_client_that_sends_on_and_on_is_held_back(self) -> None:
        self.pipeline.held = []
        pushed = self.pipeline.next_push()
        connection = await self.connect()
        connection.send("GET /?a")
        await pushed
        (served,) = self.channels
        connection.transport.write(b"GET /?b HTTP/1.1\r\nhost: localhost\r\n\r\n" * 10_000)
        while not served._is_paused:
            await next_turn()
        held, self.pipeline.held = self.pipeline.held, None
        held[0]()
        for _ in range(10_001):
            self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(len(self.pipeline.jobs), 10_001)

    async def test_a_client_that_does_not_read_is_not_read_from(self) -> None:
        connection = await self.connect()
        connection.transport.pauseProducing()
        (served,) = self.channels
        sent = 0
        while not served._is_paused and sent < 200_000:
            connection.transport.write(b"GET /?b HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000)
            sent += 1000
            await next_turn()
        self.assertTrue(served._is_paused)
        connection.transport.resumeProducing()
        for _ in range(sent):
            self.assertEqual((await connection.answer()).status, 202)


class DeadlineTests(SynchronousTestCase):
    """Each wait for a client has an end."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pipeline = MemoryPipeline()
        self.served = make_site(self.pipeline, reactor=self.clock).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        self.transport = Transport()
        self.served.makeConnection(self.transport)

    def assert_told(self, detail: str) -> None:
        """The client is told that it was too late, and may read that."""
        answers = self.transport.value()
        self.assertEqual(statuses(answers)[-1], 408)
        self.assertIn(detail, answers.decode())
        self.assertIn(b"Connection: close", answers)
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.transport.producerState, "producing")

    def test_a_connection_ends_that_is_idle_for_long(self) -> None:
        self.pipeline.held = []
        self.clock.advance(74)
        self.served.dataReceived(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        self.clock.pump([30] * 10)
        self.assertFalse(self.transport.disconnecting, "it is being answered")
        self.pipeline.held[0]()
        self.clock.advance(74)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(self.transport.disconnecting)

    def test_an_empty_line_is_no_beginning_of_a_head(self) -> None:
        self.served.dataReceived(b"\r\n")
        self.clock.advance(74)
        self.assertEqual((self.transport.value(), self.transport.disconnecting), (b"", False))

    def test_a_head_that_comes_byte_by_byte_has_30_seconds(self) -> None:
        for byte in b"GET / HTTP/1.1\r\nx: 12345678901":
            self.assertEqual(self.transport.value(), b"")
            self.served.dataReceived(bytes([byte]))
            self.clock.advance(1)
        self.assert_told("the head of a request takes 30 seconds")

    def test_each_head_has_its_own(self) -> None:
        for _ in range(3):
            self.served.dataReceived(b"GET / HTTP/1.1\r\n")
            self.clock.advance(29)
            self.served.dataReceived(b"host: localhost\r\n\r\n")
        self.assertEqual(statuses(self.transport.value()), [202] * 3)

    def test_a_body_has_a_least_rate(self) -> None:
        for framing, part in (
            (b"content-length: 600000", b"x" * 16_000),
            (b"transfer-encoding: chunked", b"3e80\r\n" + b"x" * 16_000 + b"\r\n"),
        ):
            self.setUp()
            self.served.dataReceived(b"POST / HTTP/1.1\r\nhost: localhost\r\n%b\r\n\r\n" % framing)
            for _ in range(10):
                self.clock.advance(14.9)
                self.served.dataReceived(part)
            self.assertEqual(self.transport.value(), b"", "it comes fast enough")
            self.clock.pump([1] * 60)
            self.assert_told("30720 bytes each 30 seconds")
            self.assertEqual(self.pipeline.jobs, [])

    def test_a_large_body_takes_the_room_of_others_for_ten_minutes_at_most(self) -> None:
        self.served.dataReceived(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n")
        for _ in range(30):
            self.served.dataReceived(b"x" * 1200)
            self.clock.advance(1)
        self.assert_told("50000 bytes each 30 seconds")

    def test_a_word_that_its_client_does_not_read_has_a_deadline(self) -> None:
        request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
        self.served.dataReceived(request)
        producer = self.transport.producer
        assert producer is not None
        self.patch(self.transport, "write", lambda data: producer.pauseProducing())
        self.served.dataReceived(
            b"POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"
        )
        self.clock.advance(30)
        self.assertTrue(self.transport.aborted)

    def test_one_that_does_not_go_when_it_is_ended_is_cut_off(self) -> None:
        self.clock.advance(75)
        self.assertEqual((self.transport.disconnecting, self.transport.aborted), (True, False))
        self.clock.advance(10)
        self.assertTrue(self.transport.aborted)

    def test_each_body_has_its_own_time(self) -> None:
        head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\na"
        self.served.dataReceived(head)
        for _ in range(5):
            self.clock.advance(29)
            self.served.dataReceived(b"b" + head)
        self.assertEqual(statuses(self.transport.value()), [202] * 5)

    def test_a_client_that_has_closed_its_half_waits_for_30_seconds(self) -> None:
        self.pipeline.held = []
        self.served.dataReceived(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2)
        self.served.readConnectionLost()
        self.clock.advance(29)
        self.pipeline.held.pop()()
        self.assertEqual(statuses(self.transport.value()), [202])
        self.clock.advance(29)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(1)
        self.assertTrue(self.transport.aborted)

    def test_an_answer_that_is_not_read_for_30_seconds_is_the_last(self) -> None:
        request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
        self.served.dataReceived(request)
        producer = self.transport.producer
        assert producer is not None
        for _ in range(3):
            producer.pauseProducing()
            self.served.dataReceived(request)
            self.clock.advance(29)
            producer.resumeProducing()
        self.assertEqual(statuses(self.transport.value()), [202] * 4)
        producer.pauseProducing()
        self.clock.advance(30)
        self.assertTrue(self.transport.aborted)


class ShareTests(WebTestCase):
    """What one client asks for takes nothing from others."""

    async def test_a_long_row_of_requests_gives_others_their_turn(self) -> None:
        row = await self.connect()
        row.transport.write(b"GET /?a HTTP/1.1\r\nhost: localhost\r\n\r\n" * 10_000)
        most = before = 0
        while before < 10_000:
            await next_turn()
            most, before = max(most, len(self.pipeline.jobs) - before), len(self.pipeline.jobs)
        self.assertLess(most, 1000)
        for _ in range(10_000):
            self.assertEqual((await row.answer()).status, 202)

    async def test_many_small_chunks_give_others_their_turn(self) -> None:
        clock = Clock()
        site = make_site(self.pipeline, reactor=clock)
        served = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        served.makeConnection(Transport())
        self.patch(clock, "seconds", lambda: float(served._coming.size if served._coming else 0))
        served.dataReceived(b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        served.dataReceived(b"2\r\nab\r\n" * 9000)
        self.assertLess(served._coming.size, 2000)
        while served._coming.size < 18_000:
            size = served._coming.size
            site.turns._next()
            self.assertTrue(size < served._coming.size < size + 2000)

    async def test_who_goes_while_others_have_their_turn_leaves_nothing(self) -> None:
        clock = Clock()
        site = make_site(self.pipeline, reactor=clock)
        served = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        served.makeConnection(Transport())
        self.patch(clock, "seconds", lambda: float(len(self.pipeline.jobs)))
        served.dataReceived(b"GET /?b HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)
        answered = len(self.pipeline.jobs)
        self.assertLess(answered, 10)
        served.connectionLost()
        clock.advance(0)
        self.assertEqual(len(self.pipeline.jobs), answered)
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_nothing_of_what_was_read_is_kept(self) -> None:
        connection = await self.connect()
        connection.post("/", b"x" * 1_000_000)
        connection.post_chunks("/", [b"x" * 100_000, b""])
        connection.transport.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000)
        for _ in range(1002):
            self.assertEqual((await connection.answer()).status, 202)
        (served,) = self.channels
        self.assertEqual(served._parser._data, b"")

    async def test_much_is_read_at_once_of_a_long_body_and_of_nothing_else(self) -> None:
        connection = await self.connect()
        connection.send("POST /", "content-length: 1000000", "expect: 100-continue")
        self.assertEqual((await connection.answer()).status, 100)
        (served,) = self.channels
        self.assertEqual(served.transport.bufferSize, READ_AT_ONCE)
        connection.transport.write(b"x" * 1_000_000)
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(served.transport.bufferSize, TCPConnection.bufferSize)

    async def test_a_large_answer_that_is_not_read_is_there_once_for_all(self) -> None:
        connection = await self.connect()
        connection.transport.pauseProducing()
        for _ in range(60):
            connection.send("GET /ui/chart.js")
        (served,) = self.channels
        while not served.is_behind:
            await next_turn()
        file = page.find("chart.js")
        assert file is not None
        self.assertIs(served._out._unsent[0].obj, file.content)

    async def test_no_request_is_begun_while_answers_are_not_read(self) -> None:
        begun: list[None] = []

        def large(pipeline: object) -> dict[str, str]:
            begun.append(None)
            return {"stats": "x" * 1_000_000}

        self.patch(app, "stats_of", large)
        connection = await self.connect()
        connection.transport.pauseProducing()
        for _ in range(60):
            connection.send("GET /stats")
        (served,) = self.channels
        while not served.is_behind:
            await next_turn()
        for _ in range(100):
            await next_turn()
        self.assertLess(len(begun), 60)
        connection.transport.resumeProducing()
        for _ in range(60):
            self.assertEqual(len((await connection.answer()).body), 1_000_013)


STREAM = (
    b"GET /?a HTTP/1.1\r\nhost: localhost\r\nx-a: 1\r\n\r\n\r\n"
    b"POST / HTTP/1.1\r\nhost: localhost\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2;x=y\r\nbc\r\n1\r\nd\r\n0\r\nx: y\r\n\r\n"
    b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: 4\r\n\r\n1\n2\n"
    b"PUT / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx"
    b"GET /?e HTTP/1.0\r\n\r\n"
)


class CutTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, len(STREAM))))
    def test_it_does_not_matter_where_a_stream_is_cut(self, cuts: list[int]) -> None:
        ends = [0, *sorted(cuts), len(STREAM)]
        answers, pipeline, _ = talk(*(STREAM[start:end] for start, end in pairwise(ends)))
        self.assertEqual(statuses(answers), [202, 202, 202, 202, 405, 202])
        self.assertEqual(pipeline.bodies, [b"a", b"GET / HTTP/1.1\r\n\r\n", b"bcd", b"1", b"2", b"e"])

    @given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\r\n", b" ", b"GET / HTTP/1.1\r\n", STREAM, b"0\r\n"])))
    def test_nothing_that_comes_breaks_it(self, pieces: list[bytes]) -> None:
        answers, _, transport = talk(*pieces)
        self.assertEqual([status for status in statuses(answers) if status >= 500], [])
        self.assertTrue(transport.disconnecting or not statuses(answers) or statuses(answers)[-1] != 400)
