"""The HTTP interface, over real connections."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from attrs import define
from klein import Klein
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from zpipeline.errors import Draining, Full, Refused, TooLarge
from zpipeline.job import JobStatus, make_id
from zpipeline.stats import Measures
from zpipeline.web import batch, make_site, site
from zpipeline.web.http import channel

NDJSON = "content-type: application/x-ndjson"


class MemoryPipeline:
    """A pipeline that keeps what it takes and runs nothing.

    :ivar keys: the idempotency keys of pushes, and the ids of their jobs.
    :ivar held: None, or a list: then pushes stay pending, and it gets what completes each.
    :ivar error: what every push and question fails with, if anything.
    :ivar outcomes: results of jobs, or errors in their place; who asks for another one waits.
    :ivar waits: how long each of those waits, and for what.
    :ivar cancelled: for which jobs nobody waits any longer.
    """

    def __init__(self) -> None:
        self.jobs: list[tuple[bytes, Mapping[str, str]]] = []
        self.accepting = True
        self.draining = False
        self.ready_workers = 3
        self.trouble: str | None = None
        self.keys: dict[str, str] = {}
        self.held: list[Callable[[], None]] | None = None
        self.error: Exception | None = None
        self.plain = False
        self.statuses: dict[str, JobStatus] = {}
        self.outcomes: dict[str, Any] = {}
        self.waits: list[tuple[float | None, Deferred[Any]]] = []
        self.cancelled: list[str] = []
        self.pushed: list[Deferred[None]] = []
        self.measures = Measures()

    @property
    def bodies(self) -> list[bytes]:
        return [body for body, _ in self.jobs]

    def push(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, idempotency_key: str | None = None
    ) -> Deferred[str]:
        if idempotency_key in self.keys:
            return succeed(self.keys[idempotency_key])
        pushed = self.push_many([body], headers).addCallback(lambda ids: ids[0])
        if idempotency_key is not None and self.error is None:
            self.keys[idempotency_key] = make_id(7, len(self.jobs))
        return pushed

    def push_many(self, bodies: Iterable[bytes], headers: Mapping[str, str] | None = None) -> Deferred[list[str]]:
        if self.error is not None:
            return fail(self.error)
        first = len(self.jobs) + 1
        self.jobs.extend((body, headers or {}) for body in bodies)
        ids = [make_id(7, number) for number in range(first, len(self.jobs) + 1)]
        answer: Deferred[list[str]] = Deferred()
        if self.held is None:
            answer.callback(ids)
        else:
            self.held.append(lambda: answer.callback(ids))
        for waiting in self.pushed:
            waiting.callback(None)
        self.pushed.clear()
        return answer

    def job(self, job_id: str) -> Deferred[JobStatus | None]:
        return succeed(self.statuses.get(job_id)) if self.error is None else fail(self.error)

    def result(self, job_id: str, timeout: float | None = None) -> Deferred[Any]:
        if job_id not in self.outcomes:
            self.waits.append((timeout, Deferred(lambda _: self.cancelled.append(job_id))))
            return self.waits[-1][1]
        outcome = self.outcomes[job_id]
        return fail(outcome) if isinstance(outcome, Exception) else succeed(outcome)

    def next_push(self) -> Deferred[None]:
        self.pushed.append(Deferred())
        return self.pushed[-1]


@define
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection(Protocol):
    """A client that sends what it is told to, byte for byte, and reads answers."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None
        self._changed: list[Deferred[None]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._change()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, []
        for waiting in changed:
            waiting.callback(None)

    async def change(self) -> None:
        waiting: Deferred[None] = Deferred()
        self._changed.append(waiting)
        await waiting

    def send(self, start: str, *headers: str, body: bytes = b"") -> None:
        host = [] if any(header.lower().startswith("host:") for header in headers) else ["host: localhost"]
        lines = [f"{start} HTTP/1.1", *host, *headers]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def post(self, path: str, body: bytes, *headers: str) -> None:
        self.send(f"POST {path}", *headers, f"content-length: {len(body)}", body=body)

    def post_chunks(self, path: str, chunks: Iterable[bytes], *headers: str) -> None:
        self.send(f"POST {path}", *headers, "transfer-encoding: chunked")
        for chunk in chunks:
            self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    async def answer(self, *, body: bool = True) -> Answer:
        """The next answer; one to HEAD has no body."""
        while b"\r\n\r\n" not in self.received:
            assert self.lost is None, f"{self.lost} after {self.received!r}"
            await self.change()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0)) if body else 0
        while len(self.received) < length:
            assert self.lost is None, f"{self.lost} within {self.received!r}"
            await self.change()
        content, self.received = self.received[:length], self.received[length:]
        return Answer(int(status.split()[1]), headers, content)

    async def end(self) -> None:
        while self.lost is None:
            await self.change()

    async def hang_up(self) -> None:
        self.transport.abortConnection()
        await self.end()


@implementer(IHalfCloseableProtocol)
class PatientConnection(Connection):
    """A client that does not hang up when the server has nothing more to say."""

    server_is_done = False

    def readConnectionLost(self) -> None:
        self.server_is_done = True
        self._change()

    def writeConnectionLost(self) -> None:
        pass


def next_turn() -> Deferred[None]:
    return deferLater(reactor, 0)


class WebTestCase(TestCase):
    timeout = 15
    max_body = 1 << 20
    max_connections: int | None = None
    access_log = False
    hosts: tuple[str, ...] = ()

    make_pipeline: Callable[[], Any] = MemoryPipeline

    def setUp(self) -> None:
        self.pipeline = self.make_pipeline()
        self.serve(reactor)

    def serve(self, clock: Any) -> None:
        """Serve the pipeline, on this clock."""
        self.channels: dict[Any, Deferred[None]] = {}
        web = make_site(
            self.pipeline,
            max_body=self.max_body,
            max_connections=self.max_connections,
            access_log=self.access_log,
            hosts=self.hosts,
            reactor=clock,
        )
        build = web.buildProtocol

        def watched(address: Any) -> Any:
            channel = build(address)
            lost = channel.connectionLost

            def connection_lost(reason: Failure) -> None:
                lost(reason)
                self.channels.pop(channel).callback(None)

            channel.connectionLost = connection_lost
            self.channels[channel] = Deferred()
            return channel

        web.buildProtocol = watched
        self.port = reactor.listenTCP(0, web, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.all_gone()))

    async def connect(self, client: type[Connection] = Connection) -> Any:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        connection = await connectProtocol(endpoint, client())
        self.addCleanup(lambda: Deferred.fromCoroutine(connection.hang_up()))
        return connection

    async def all_gone(self) -> None:
        """The server knows that no client is left."""
        for lost in list(self.channels.values()):
            waiting: Deferred[None] = Deferred()
            lost.addCallback(lambda _, waiting=waiting: waiting.callback(None))
            await waiting

    async def ask(self, start: str, *headers: str, body: bytes = b"") -> Answer:
        connection = await self.connect()
        connection.send(start, *headers, body=body)
        return await connection.answer(body=not start.startswith("HEAD"))

    async def post(self, path: str, body: bytes, *headers: str) -> Answer:
        return await self.ask(f"POST {path}", *headers, f"content-length: {len(body)}", body=body)

    def assert_problem(self, answer: Answer, status: int, detail: str = "", **more: object) -> None:
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        members = answer.json()
        self.assertEqual(sorted(members), sorted(["detail", "status", "title", "type", *more]))
        self.assertEqual({name: members[name] for name in more}, more)
        self.assertEqual((members["type"], members["status"]), ("about:blank", status))
        self.assertTrue(members["title"])
        self.assertIn(detail, members["detail"])


class PushTests(WebTestCase):
    async def test_get_pushes_the_query_string(self) -> None:
        answer = await self.ask("GET /?n=1&n=2")
        job_id = make_id(7, 1)
        self.assertEqual((answer.status, answer.json()), (202, {"id": job_id}))
        self.assertEqual(answer.headers["location"], f"/jobs/{job_id}")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(self.pipeline.bodies, [b"n=1&n=2"])

    async def test_the_query_string_is_taken_as_it_was_sent(self) -> None:
        await self.ask("GET /?a+b%20c%zz?%00%b0;&&=")
        self.assertEqual(self.pipeline.bodies, [b"a+b%20c%zz?%00%b0;&&="])

    async def test_get_without_a_query_pushes_an_empty_job(self) -> None:
        await self.ask("GET /")
        await self.ask("GET /?")
        self.assertEqual(self.pipeline.bodies, [b"", b""])

    async def test_the_body_of_a_get_is_ignored(self) -> None:
        connection = await self.connect()
        connection.send("GET /?a", "content-length: 3", body=b"xyz")
        connection.send("GET /?b")
        self.assertEqual([(await connection.answer()).status for _ in "ab"], [202, 202])
        self.assertEqual(self.pipeline.bodies, [b"a", b"b"])

    async def test_post_pushes_the_body(self) -> None:
        body = bytes(range(256))
        answer = await self.post("/", body)
        self.assertEqual((answer.status, answer.json()), (202, {"id": make_id(7, 1)}))
        self.assertEqual(answer.headers["location"], "/jobs/" + make_id(7, 1))
        self.assertEqual(self.pipeline.bodies, [body])

    async def test_post_without_a_body_pushes_an_empty_job(self) -> None:
        self.assertEqual((await self.ask("POST /?not=this")).status, 202)
        self.assertEqual(self.pipeline.bodies, [b""])

    async def test_forms_are_not_parsed(self) -> None:
        for content_type in (
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "application/x-www-form-urlencoded",
        ):
            await self.post("/", b"--x\r\nno form", f"content-type: {content_type}")
        self.assertEqual(self.pipeline.bodies, [b"--x\r\nno form"] * 3)

    async def test_a_body_that_comes_byte_by_byte_is_put_together(self) -> None:
        connection = await self.connect()
        for byte in b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nslow":
            connection.transport.write(bytes([byte]))
            connection.transport.doWrite()
            await next_turn()
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(self.pipeline.bodies, [b"slow"])

    async def test_a_chunked_body_is_put_together(self) -> None:
        connection = await self.connect()
        connection.post_chunks("/", [b"one", b"two", b""])
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(self.pipeline.bodies, [b"onetwo"])

    async def test_no_body_goes_to_a_temporary_file(self) -> None:
        self.patch(tempfile, "tempdir", self.mktemp())  # there is no such folder
        connection = await self.connect()
        connection.post("/", b"x" * 200_000)
        self.assertEqual((await connection.answer()).status, 202)
        connection.post_chunks("/", [b"y" * 200_000, b""])
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual([len(body) for body in self.pipeline.bodies], [200_000, 200_000])

    async def test_head_pushes_nothing(self) -> None:
        connection = await self.connect()
        connection.send("HEAD /?a")
        answer = await connection.answer(body=False)
        self.assertEqual((answer.status, answer.headers["allow"]), (405, "GET, POST"))
        connection.send("GET /?b")
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(self.pipeline.bodies, [b"b"])

    async def test_other_methods_push_nothing(self) -> None:
        for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "REPORT"):
            answer = await self.ask(f"{method} /?a")
            self.assert_problem(answer, 405, "GET, POST")
            self.assertEqual(answer.headers["allow"], "GET, POST")
        self.assertEqual(self.pipeline.jobs, [])


class JobHeadersTests(WebTestCase):
    async def headers_of(self, start: str, *headers: str) -> Mapping[str, str]:
        self.assertEqual((await self.ask(start, *headers)).status, 202)
        return self.pipeline.jobs[-1][1]

    async def test_a_job_knows_its_method_and_path(self) -> None:
        self.assertEqual(await self.headers_of("GET /?a"), {"zpipe-method": "GET", "zpipe-path": "/"})
        self.assertEqual(await self.headers_of("POST /?a"), {"zpipe-method": "POST", "zpipe-path": "/"})

    async def test_content_type_and_headers_of_ones_own_are_kept(self) -> None:
        sent = ("Content-Type: text/plain; charset=utf-8", "Content-Encoding: gzip", "X-One: 1", "ZPIPE-Two: 2")
        kept = await self.headers_of("POST /", *sent)
        self.assertEqual(kept["content-encoding"], "gzip")
        self.assertEqual(kept["content-type"], "text/plain; charset=utf-8")
        self.assertEqual((kept["x-one"], kept["zpipe-two"]), ("1", "2"))

    async def test_other_headers_are_not_kept(self) -> None:
        sent = (
            "authorization: secret",
            "cookie: a=b",
            "accept: */*",
            "xylophone: 1",
            "zpipeline: 1",
            "content-length: 0",
        )
        self.assertEqual(sorted(await self.headers_of("POST /", *sent)), ["zpipe-method", "zpipe-path"])

    async def test_repeated_headers_are_joined(self) -> None:
        self.assertEqual((await self.headers_of("GET /", "x-a: 1", "X-B: 2", "X-A: 3, 4"))["x-a"], "1, 3, 4")

    async def test_values_are_latin_1_so_that_no_byte_is_lost(self) -> None:
        kept = await self.headers_of("GET /", "x-a: \xe9\xff\x80")
        self.assertEqual(kept["x-a"].encode("latin-1"), b"\xe9\xff\x80")

    async def test_a_client_cannot_set_the_method_and_path(self) -> None:
        kept = await self.headers_of("GET /", "zpipe-method: DELETE", "Zpipe-Path: /etc")
        self.assertEqual(kept, {"zpipe-method": "GET", "zpipe-path": "/"})

    async def test_the_jobs_of_a_batch_have_its_headers(self) -> None:
        await self.post("/batch", b"1\n2", NDJSON, "x-a: b")
        expected = {
            "content-type": "application/x-ndjson",
            "x-a": "b",
            "zpipe-method": "POST",
            "zpipe-path": "/batch",
        }
        self.assertEqual([headers for _, headers in self.pipeline.jobs], [expected, expected])


class BatchTests(WebTestCase):
    max_body = 1000

    async def batch(self, body: bytes) -> Answer:
        return await self.post("/batch", body, NDJSON)

    async def assert_refused(self, body: bytes, status: int, detail: str) -> None:
        self.assert_problem(await self.batch(body), status, detail)
        self.assertEqual(self.pipeline.jobs, [])

    async def test_each_line_is_a_job(self) -> None:
        answer = await self.batch(b'{"a": 1}\n[2]\n"\xc3\xa9"\n')
        ids = [make_id(7, 1), make_id(7, 2), make_id(7, 3)]
        self.assertEqual((answer.status, answer.json()), (202, {"ids": ids}))
        self.assertEqual(self.pipeline.bodies, [b'{"a": 1}', b"[2]", b'"\xc3\xa9"'])

    async def test_the_last_line_may_lack_its_end(self) -> None:
        await self.batch(b"1\n2")
        self.assertEqual(self.pipeline.bodies, [b"1", b"2"])

    async def test_lines_may_end_in_crlf_and_are_otherwise_left_as_they_stand(self) -> None:
        await self.batch(b' 1\t\r\n[2,\r3 ]\r\r\n4\r\n"\\u0000"\r')
        self.assertEqual(self.pipeline.bodies, [b" 1\t", b"[2,\r3 ]\r", b"4", b'"\\u0000"'])

    async def test_blank_lines_are_no_jobs(self) -> None:
        await self.batch(b"\n\r\n \t\n1\n\n2\n\n")
        self.assertEqual(self.pipeline.bodies, [b"1", b"2"])

    async def test_a_batch_without_jobs_is_refused(self) -> None:
        for body in (b"", b"\n", b" \r\n\t\n"):
            await self.assert_refused(body, 400, "the batch is empty")

    async def test_a_line_that_is_not_json_is_named_and_nothing_is_taken(self) -> None:
        await self.assert_refused(b"1\n\n{'a': 2}\n4", 400, "line 3 is not JSON")

    async def test_two_values_on_a_line_are_not_json(self) -> None:
        await self.assert_refused(b"1 2", 400, "line 1 is not JSON: Extra data, at character 3")

    async def test_nan_and_infinity_are_not_json(self) -> None:
        for constant in (b"NaN", b"Infinity", b"-Infinity"):
            await self.assert_refused(b'1\n{"a": [%b]}' % constant, 400, f"line 2 is not JSON: {constant.decode()}")

    async def test_a_line_that_is_not_utf_8_is_named(self) -> None:
        await self.assert_refused(b'1\n"\xff"', 400, "line 2 is not UTF-8, at byte 2")
        await self.assert_refused('"\xe9"'.encode("utf-16"), 400, "line 1 is not UTF-8")
        await self.assert_refused(b"\xef\xbb\xbf1", 400, "line 1 is not JSON")

    async def test_numbers_of_any_length_are_json(self) -> None:
        number = b"-" + b"9" * 900
        self.assertEqual((await self.batch(number + b"\n1e99999\n0.5")).status, 202)
        self.assertEqual(self.pipeline.bodies, [number, b"1e99999", b"0.5"])

    async def test_a_line_may_be_as_long_as_a_body_and_no_longer(self) -> None:
        line = b'"%b"' % (b"x" * 998)
        self.assertEqual((await self.batch(line + b"\r\n" + line)).status, 202)
        self.pipeline.jobs.clear()
        await self.assert_refused(b"1\n2\n " + line, 413, "line 3 is over 1000 bytes")

    async def test_a_batch_may_be_64_times_a_body_and_no_longer(self) -> None:
        lines = (b"1" * 999 + b"\n") * 64
        self.assertEqual((await self.batch(lines)).status, 202)
        self.assertEqual(len(self.pipeline.jobs), 64)
        self.pipeline.jobs.clear()
        await self.assert_refused(lines + b"\n", 413, "the body is over 64000 bytes")
        connection = await self.connect()
        connection.post_chunks("/batch", [lines, b"\n"], NDJSON)
        self.assert_problem(await connection.answer(), 413, "the body is over 64000 bytes")

    async def test_a_chunked_batch_is_read_as_any_other(self) -> None:
        connection = await self.connect()
        connection.post_chunks("/batch", [b"[1", b"]\n2", b"\n", b""], NDJSON)
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(self.pipeline.bodies, [b"[1]", b"2"])

    async def test_a_batch_may_hold_so_many_jobs_and_no_more(self) -> None:
        self.patch(batch, "MAX_LINES", 3)
        self.assertEqual((await self.batch(b"1\n2\n3")).status, 202)
        self.pipeline.jobs.clear()
        await self.assert_refused(b"1\n2\n3\n4", 413, "the batch is over 3 lines")
        await self.assert_refused(b"\n\n\n1", 413, "the batch is over 3 lines")

    async def test_a_batch_needs_its_content_type(self) -> None:
        self.assert_problem(await self.post("/batch", b"1"), 415, "application/x-ndjson")
        self.assert_problem(await self.post("/batch", b"1", "content-type: application/json"), 415)
        self.assertEqual(self.pipeline.jobs, [])

    async def test_the_content_type_may_have_parameters(self) -> None:
        answer = await self.post("/batch", b"1", "content-type: Application/X-NDJSON ; charset=utf-8")
        self.assertEqual(answer.status, 202)

    async def test_a_batch_is_not_encoded(self) -> None:
        self.assert_problem(await self.post("/batch", b"1", NDJSON, "content-encoding: gzip"), 415, "content-encoding")
        self.assertEqual((await self.post("/batch", b"1", NDJSON, "content-encoding: identity")).status, 202)

    async def test_a_batch_that_the_pipeline_refuses_is_refused(self) -> None:
        self.pipeline.error = Full("too many", retry_after=4)
        answer = await self.batch(b"1\n2")
        self.assert_problem(answer, 503, "too many")
        self.assertEqual(answer.headers["retry-after"], "4")

    async def test_only_post_pushes_a_batch(self) -> None:
        for method in ("GET", "HEAD", "PUT"):
            answer = await self.ask(f"{method} /batch")
            self.assertEqual((answer.status, answer.headers["allow"]), (405, "POST"))


class BigBatchTests(WebTestCase):
    async def test_deep_nesting_is_refused_and_does_no_harm(self) -> None:
        deep = b"[" * 200_000 + b"]" * 200_000
        self.assert_problem(await self.post("/batch", b"1\n" + deep, NDJSON), 400, "line 2 is nested too deeply")
        answer = await self.post("/batch", b"[" * 500 + b"]" * 500, NDJSON)
        self.assertEqual(answer.status, 202)

    async def test_a_number_as_long_as_a_body_is_read_at_once(self) -> None:
        # Converted to an integer it would take longer than this test may.
        self.assertEqual((await self.post("/batch", b"9" * self.max_body, NDJSON)).status, 202)


class TurnTests(WebTestCase):
    def setUp(self) -> None:
        self.pipeline = MemoryPipeline()
        test = self
        self.turns = 0

        class SlowClock:
            """Time passes when somebody looks: a millisecond each time."""

            now = 0.0

            def seconds(self) -> float:
                self.now += 0.001
                return self.now

            def callLater(self, delay: float, *call: Any, **named: Any) -> Any:
                test.turns += delay == 0
                return reactor.callLater(delay, *call, **named)

        self.serve(SlowClock())

    async def test_a_long_batch_gives_others_their_turn(self) -> None:
        answer = await self.post("/batch", b"1\n" * 500_000, NDJSON)
        self.assertEqual((answer.status, len(self.pipeline.jobs)), (202, 500_000))
        self.assertGreaterEqual(self.turns, 10)

    async def test_blank_lines_take_their_turns_and_no_more_of_them_than_others(self) -> None:
        answer = await self.post("/batch", b"\n" * 400_000 + b"1", NDJSON)
        self.assertEqual((answer.status, len(self.pipeline.jobs)), (202, 1))
        self.assertGreaterEqual(self.turns, 4)
        self.assert_problem(await self.post("/batch", b"\n" * (64 * self.max_body), NDJSON), 413, "lines")

    async def test_batches_share_their_turns(self) -> None:
        connections = [await self.connect() for _ in range(10)]
        for connection in connections:
            connection.post("/batch", b"1\n" * 100_000, NDJSON)
        for connection in connections:
            self.assertEqual((await connection.answer()).status, 202)
        # each look at the clock takes a millisecond here, and all of them have five of a turn
        self.assertGreaterEqual(self.turns, 10 * 200_000 // batch._AT_ONCE // 6)

    async def test_a_batch_whose_client_goes_in_the_middle_is_not_pushed(self) -> None:
        connection = await self.connect()
        connection.post("/batch", b"1\n" * 500_000, NDJSON)
        while not self.turns:
            await next_turn()
        connection.transport.abortConnection()
        await connection.end()
        await self.all_gone()
        self.assertEqual(self.pipeline.jobs, [])


class JobTests(WebTestCase):
    async def test_a_jobs_status_is_told_with_what_is_not_known_yet(self) -> None:
        self.pipeline.statuses["0a"] = JobStatus("0a", "in flight", 0, 1700000000.25, None, None)
        answer = await self.ask("GET /jobs/0a")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"))
        expected = {
            "id": "0a",
            "state": "in flight",
            "attempts": 0,
            "accepted_at": 1700000000.25,
            "settled_at": None,
            "error": None,
        }
        self.assertEqual(answer.json(), expected)

    async def test_errors_with_odd_characters_are_told(self) -> None:
        self.pipeline.statuses["0a"] = JobStatus("0a", "dead", 1, 1.0, 2.0, 'a "\ud800\u2026"\n')
        self.assertEqual((await self.ask("GET /jobs/0a")).json()["error"], 'a "\ud800\u2026"\n')

    async def test_head_answers_as_get_does_but_for_the_body(self) -> None:
        self.pipeline.statuses["0a"] = JobStatus("0a", "done", 1, 1.0, 2.0, None)
        connection = await self.connect()
        connection.send("GET /jobs/0a")
        got = await connection.answer()
        connection.send("HEAD /jobs/0a")
        head = await connection.answer(body=False)
        self.assertEqual((head.status, head.headers["content-length"]), (200, str(len(got.body))))
        connection.send("GET /jobs/0a")
        self.assertEqual((await connection.answer()).body, got.body)

    async def test_an_unknown_job_is_not_found(self) -> None:
        self.assert_problem(await self.ask("GET /jobs/0a"), 404, "no job of this id")

    async def test_jobs_can_only_be_read(self) -> None:
        answer = await self.ask("DELETE /jobs/0a")
        self.assert_problem(answer, 405)
        self.assertEqual(answer.headers["allow"], "GET, HEAD")


class HealthTests(WebTestCase):
    async def test_live(self) -> None:
        self.pipeline.accepting = False
        answer = await self.ask("GET /health/live")
        self.assertEqual((answer.status, answer.json()), (200, {"status": "live"}))

    async def test_ready_while_jobs_are_accepted(self) -> None:
        answer = await self.ask("GET /health/ready")
        self.assertEqual((answer.status, answer.json()), (200, {"status": "ready", "ready_workers": 3}))

    async def test_ready_without_workers_as_jobs_wait_for_them(self) -> None:
        self.pipeline.ready_workers = 0
        answer = await self.ask("GET /health/ready")
        self.assertEqual((answer.status, answer.json()), (200, {"status": "ready", "ready_workers": 0}))

    async def test_not_ready_while_the_pipeline_is_full(self) -> None:
        self.pipeline.accepting = False
        answer = await self.ask("GET /health/ready")
        self.assertEqual((answer.status, answer.json()), (503, {"status": "full", "ready_workers": 3}))

    async def test_not_ready_while_the_pipeline_drains(self) -> None:
        self.pipeline.accepting = False
        self.pipeline.draining = True
        answer = await self.ask("GET /health/ready")
        self.assertEqual((answer.status, answer.json()), (503, {"status": "draining", "ready_workers": 3}))

    async def test_head_is_answered_without_a_body(self) -> None:
        connection = await self.connect()
        for path in ("/health/live", "/health/ready"):
            connection.send(f"HEAD {path}")
            self.assertEqual((await connection.answer(body=False)).status, 200)


class ProblemTests(WebTestCase):
    async def test_unknown_paths_are_not_found(self) -> None:
        paths = ["/nothing", "/batch/", "/jobs", "/jobs/", "/jobs/a/b", "/health", "//", "//batch", "/./", "/jobs//a"]
        for path in paths:
            self.assert_problem(await self.ask(f"GET {path}"), 404)
            self.assert_problem(await self.post(path, b"1", NDJSON), 404)
        self.assertEqual(self.pipeline.jobs, [])

    async def test_paths_that_cannot_be_decoded_are_not_found(self) -> None:
        for path in ("/%ff", "/jobs/%ff", "/%2F", "/%62atch", "http://localhost//"):
            self.assert_problem(await self.ask(f"POST {path}"), 404)
        self.assertEqual(self.pipeline.jobs, [])

    async def test_head_of_an_unknown_path_has_no_body(self) -> None:
        connection = await self.connect()
        for path in ("/nothing", "/%ff"):
            connection.send(f"HEAD {path}")
            self.assertEqual((await connection.answer(body=False)).status, 404)
        connection.send("GET /health/live")
        self.assertEqual((await connection.answer()).status, 200)

    async def test_a_full_pipeline_says_when_to_try_again(self) -> None:
        self.pipeline.error = Full("1000 jobs are not settled", retry_after=3)
        connection = await self.connect()
        for _ in range(2):
            connection.send("GET /")
            answer = await connection.answer()
            self.assert_problem(answer, 503, "1000 jobs are not settled")
            self.assertEqual(answer.headers["retry-after"], "3")

    async def test_a_draining_pipeline_ends_the_connection(self) -> None:
        self.pipeline.error = Draining("it is being stopped")
        connection = await self.connect()
        connection.post("/", b"a")
        answer = await connection.answer()
        self.assert_problem(answer, 503, "it is being stopped")
        self.assertEqual((answer.headers["retry-after"], answer.headers["connection"]), ("5", "close"))
        await connection.end()

    async def test_other_refusals_of_the_pipeline(self) -> None:
        self.pipeline.error = TooLarge("over 5 bytes")
        self.assert_problem(await self.post("/", b"123456"), 413, "over 5 bytes")
        self.pipeline.error = Refused("not today")
        self.assert_problem(await self.post("/", b"a"), 503, "not today")

    async def test_an_unexpected_error_is_logged_and_not_told(self) -> None:
        self.pipeline.error = KeyError("secret")
        for path in ("/", "/jobs/a"):
            answer = await self.ask(f"GET {path}")
            self.assert_problem(answer, 500)
            self.assertNotIn(b"secret", answer.body)
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    async def test_an_error_before_any_route_is_a_problem_too(self) -> None:
        self.patch(Klein, "execute_endpoint", lambda *_, **__: 1 / 0)
        answer = await self.ask("GET /")
        self.assert_problem(answer, 500)
        self.assertNotIn(b"Zero", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_a_request_line_that_is_too_long_is_answered(self) -> None:
        connection = await self.connect()
        connection.send("GET /?" + "x" * 100_000, body=b"y" * 1_000_000)
        self.assert_problem(await connection.answer(), 431, "over 16384 bytes")
        self.assertEqual(self.pipeline.jobs, [])

    async def test_a_header_that_is_too_long_is_answered(self) -> None:
        connection = await self.connect()
        connection.send("GET /", "x-a: " + "x" * 17_000)
        connection.send("GET /")
        self.assert_problem(await connection.answer(), 431, "over 16384 bytes")
        self.assertEqual((connection.received, self.pipeline.jobs), (b"", []))

    async def test_what_is_no_http_is_refused(self) -> None:
        for junk in (b"junk\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\x00\xff\r\n\r\n"):
            connection = await self.connect()
            connection.transport.write(junk)
            self.assertEqual((await connection.answer()).status, 400)
            await connection.end()
        self.assertEqual(self.pipeline.jobs, [])

    async def test_what_is_no_chunk_is_refused(self) -> None:
        connection = await self.connect()
        connection.send("POST /", "transfer-encoding: chunked", body=b"junk\r\n\r\n")
        self.assertEqual((await connection.answer()).status, 400)
        await connection.end()
        self.assertEqual(self.pipeline.jobs, [])


class LimitTests(WebTestCase):
    async def test_a_body_at_the_limit_is_taken(self) -> None:
        connection = await self.connect()
        connection.post("/", b"x" * (1 << 20))
        self.assertEqual((await connection.answer()).status, 202)
        connection.post_chunks("/", [b"x" * (1 << 19), b"x" * (1 << 19), b""])
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual([len(body) for body in self.pipeline.bodies], [1 << 20, 1 << 20])

    async def test_a_body_over_the_limit_is_refused_before_it_is_sent(self) -> None:
        connection = await self.connect()
        connection.send("POST /", f"content-length: {(1 << 20) + 1}")
        answer = await connection.answer()
        self.assert_problem(answer, 413, "the body is over 1048576 bytes")
        self.assertEqual(answer.headers["connection"], "close")
        await connection.end()

    async def test_a_chunked_body_is_refused_as_soon_as_it_is_over_the_limit(self) -> None:
        connection = await self.connect()
        connection.post_chunks("/", [b"x" * (1 << 20), b"y"])
        answer = await connection.answer()
        self.assert_problem(answer, 413, "the body is over 1048576 bytes")
        self.assertEqual(answer.headers["connection"], "close")
        await connection.end()
        self.assertEqual((connection.received, self.pipeline.jobs), (b"", []))

    async def test_what_follows_a_refused_body_is_not_answered(self) -> None:
        connection = await self.connect()
        connection.post_chunks("/", [b"x" * (1 << 20), b"y", b""])
        connection.send("GET /")
        self.assertEqual((await connection.answer()).status, 413)
        await connection.end()
        self.assertEqual((connection.received, self.pipeline.jobs), (b"", []))

    async def test_every_path_and_method_has_the_limit(self) -> None:
        for start in ("GET /", "HEAD /", "PUT /", "GET /batch", "POST /nothing", "POST /%ff", "GET /health/live"):
            answer = await self.ask(start, f"content-length: {(1 << 20) + 1}")
            self.assertEqual(answer.status, 413)
        self.assertEqual(self.pipeline.jobs, [])

    async def test_a_length_beyond_all_measure_is_refused(self) -> None:
        for length in ("9" * 5000, str(1 << 63), "0" * 4301 + "9" * 20):
            self.assert_problem(await self.ask("POST /batch", f"content-length: {length}"), 413)

    async def test_expect_100_continue(self) -> None:
        connection = await self.connect()
        connection.send("POST /", "content-length: 2", "expect: 100-continue")
        self.assertEqual((await connection.answer()).status, 100)
        self.assertEqual(self.pipeline.jobs, [])
        connection.transport.write(b"ab")
        self.assertEqual((await connection.answer()).status, 202)
        self.assertEqual(self.pipeline.bodies, [b"ab"])

    async def test_no_100_for_what_is_too_large(self) -> None:
        answer = await self.ask("POST /", f"content-length: {(1 << 20) + 1}", "expect: 100-continue")
        self.assert_problem(answer, 413)

    async def test_a_client_that_sends_all_before_it_reads_gets_the_answer(self) -> None:
        port = self.port.getHost().port

        def upload(body: Any) -> tuple[int, bytes]:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                client.request("POST", "/", body=body, encode_chunked=not isinstance(body, bytes))
                answer = client.getresponse()
                return answer.status, answer.read()
            finally:
                client.close()

        status, body = await deferToThread(upload, b"x" * (16 << 20))
        self.assertEqual((status, json.loads(body)["status"]), (413, 413))
        status, body = await deferToThread(upload, iter([b"x" * (1 << 20)] * 16))
        self.assertEqual((status, json.loads(body)["status"]), (413, 413))
        await self.all_gone()


class SmallLimitTests(WebTestCase):
    max_body = 10

    async def test_a_query_string_over_the_limit_is_refused(self) -> None:
        self.assertEqual((await self.ask("GET /?0123456789")).status, 202)
        self.assert_problem(await self.ask("GET /?0123456789x"), 413, "the query string is over 10 bytes")
        self.assertEqual(self.pipeline.bodies, [b"0123456789"])


class LingeringTests(WebTestCase):
    def setUp(self) -> None:
        self.pipeline = MemoryPipeline()
        self.clock = Clock()
        self.serve(self.clock)

    async def refused(self) -> PatientConnection:
        connection = await self.connect(PatientConnection)
        connection.post_chunks("/", [b"x" * (1 << 20), b"y"])
        self.assertEqual((await connection.answer()).status, 413)
        while not connection.server_is_done:
            await connection.change()
        return connection

    async def test_a_refused_client_is_listened_to_for_so_long_and_no_longer(self) -> None:
        await self.refused()
        self.clock.advance(channel.LINGER_SECONDS - 1)
        self.assertEqual(len(self.channels), 1)
        self.clock.advance(1)
        await self.all_gone()  # the client would notice when it sends something

    async def test_a_refused_client_is_listened_to_for_so_many_bytes_and_no_more(self) -> None:
        self.patch(channel, "LINGER_BYTES", 1 << 16)
        connection = await self.refused()
        connection.transport.write(b"z" * (1 << 20))
        await connection.end()
        await self.all_gone()

    async def test_nothing_is_left_of_a_refused_client_that_goes(self) -> None:
        before = len(self.clock.getDelayedCalls())
        connection = await self.refused()
        self.assertEqual(len(self.clock.getDelayedCalls()), before + 1)
        await connection.hang_up()
        await self.all_gone()
        self.assertEqual(len(self.clock.getDelayedCalls()), before)


class ConnectionTests(WebTestCase):
    async def test_a_connection_is_kept_after_each_answer(self) -> None:
        connection = await self.connect()
        for start, status in [("GET /", 202), ("GET /no", 404), ("PUT /", 405), ("POST /batch", 415), ("GET /", 202)]:
            connection.send(start)
            self.assertEqual((await connection.answer()).status, status)
        self.assertEqual(len(self.channels), 1)

    async def test_pipelined_requests_are_answered_in_order(self) -> None:
        connection = await self.connect()
        self.pipeline.held = []
        pushed = self.pipeline.next_push()
        connection.send("GET /?a")
        connection.post("/", b"b")
        connection.send("GET /nothing")
        await pushed
        self.assertEqual(self.pipeline.bodies, [b"a"])
        held, self.pipeline.held = self.pipeline.held, None
        held[0]()
        first, second, third = [await connection.answer() for _ in range(3)]
        self.assertEqual((first.json()["id"], second.json()["id"]), (make_id(7, 1), make_id(7, 2)))
        self.assertEqual(third.status, 404)
        self.assertEqual(self.pipeline.bodies, [b"a", b"b"])

    async def test_many_pipelined_requests_are_answered(self) -> None:
        connection = await self.connect()
        connection.transport.write(
            b"".join(b"GET /?%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % number for number in range(2000))
        )
        ids = [(await connection.answer()).json()["id"] for _ in range(2000)]
        self.assertEqual(ids, [make_id(7, number) for number in range(1, 2001)])
        self.assertEqual(self.pipeline.bodies, [b"%d" % number for number in range(2000)])

    async def test_a_client_that_goes_while_its_job_is_pending_does_no_harm(self) -> None:
        for request in ("GET /?a", "POST /batch"):
            connection = await self.connect()
            self.pipeline.held = []
            pushed = self.pipeline.next_push()
            connection.send(request, NDJSON, "content-length: 1", body=b"1")
            await pushed
            connection.transport.abortConnection()
            await connection.end()
            await self.all_gone()
            self.pipeline.held[0]()
        self.assertEqual(self.pipeline.bodies, [b"a", b"1"])

    async def test_a_client_that_goes_in_the_middle_of_its_body_pushes_nothing(self) -> None:
        connection = await self.connect()
        connection.send("POST /", "content-length: 9", "expect: 100-continue", body=b"abc")
        await connection.answer()
        connection.transport.loseConnection()
        await connection.end()
        await self.all_gone()
        self.assertEqual(self.pipeline.jobs, [])

    async def test_connection_close_is_honoured(self) -> None:
        connection = await self.connect()
        connection.send("GET /", "connection: close")
        self.assertEqual((await connection.answer()).status, 202)
        await connection.end()

    async def test_http_1_0_is_answered(self) -> None:
        connection = await self.connect()
        connection.transport.write(b"GET /?a HTTP/1.0\r\n\r\n")
        self.assertEqual((await connection.answer()).json(), {"id": make_id(7, 1)})
        await connection.end()

    async def test_http_1_0_keeps_its_connection_when_it_asks_for_that(self) -> None:
        connection = await self.connect()
        for number in range(1, 3):
            connection.transport.write(b"GET /?a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            answer = await connection.answer()
            self.assertEqual((answer.headers["connection"], answer.json()), ("keep-alive", {"id": make_id(7, number)}))
        connection.transport.write(b"GET /?a HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n")
        self.assertEqual((await connection.answer()).headers["connection"], "close")
        await connection.end()

    async def test_a_client_that_has_closed_its_half_gets_its_answers(self) -> None:
        self.pipeline.held = []
        pushed = self.pipeline.next_push()
        connection = await self.connect(PatientConnection)
        connection.send("GET /?a")
        connection.send("GET /?b")
        connection.send("POST /", "content-length: 5", body=b"cut")
        connection.transport.loseWriteConnection()
        await pushed
        self.pipeline.held.pop()()
        self.assertEqual((await connection.answer()).json(), {"id": make_id(7, 1)})
        self.pipeline.held.pop()()
        self.assertEqual((await connection.answer()).json(), {"id": make_id(7, 2)})
        while not connection.server_is_done:
            await connection.change()
        self.assertEqual((self.pipeline.bodies, connection.received), ([b"a", b"b"], b""))

    async def test_all_of_a_uri_is_a_target_and_names_the_host(self) -> None:
        self.assertEqual((await self.ask("GET http://LOCALHOST:4567/?a", "Host: evil.example")).status, 202)
        self.assertEqual((await self.ask("GET http://127.0.0.1?b")).status, 202)
        self.assert_problem(await self.ask("GET http://evil.example/?c", "Host: localhost"), 421)
        self.assertEqual(self.pipeline.bodies, [b"a", b"b"])


class LoggedTestCase(WebTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.logged: list[Mapping[str, Any]] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def lines(self) -> list[str]:
        return [text for text in map(formatEvent, self.logged) if "GET" in text]


class NoAccessLogTests(LoggedTestCase):
    async def test_requests_are_not_logged_unless_asked_for(self) -> None:
        await self.ask("GET /?a")
        self.assertEqual(self.lines(), [])


class AccessLogTests(LoggedTestCase):
    access_log = True

    async def test_the_time_of_a_request_is_the_systems(self) -> None:
        """Whatever clock the reactor goes by."""
        self.patch(site, "time", SimpleNamespace(time=lambda: 86400.0 * 365))
        await self.ask("GET /?a")
        (line,) = self.lines()
        self.assertIn(" [01/Jan/1971:00:00:00 +0000] ", line)

    async def test_requests_are_logged_in_the_combined_format(self) -> None:
        await self.ask("GET /?{a}", 'user-agent: te"st', "referer: http://elsewhere/")
        (line,) = self.lines()
        self.assertRegex(
            line,
            r'^"127\.0\.0\.1" - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /\?{a} HTTP/1\.1" 202 42 '
            r'"http://elsewhere/" "te\\"st"$',
        )
