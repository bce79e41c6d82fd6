"""The routes in a site of twisted.web, below a path of somebody's own application."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.peers import until
from tests.test_web import Connection, MemoryPipeline
from tests.test_web_observe import Observed
from zpipeline.errors import Full
from zpipeline.job import make_id
from zpipeline.web import make_resource


class ResourceCase(TestCase):
    """Two of them, at the root and at two segments, one of which has to be escaped."""

    timeout = 30

    def setUp(self) -> None:
        self.pipeline = self.make_pipeline()
        root = self.serve(make_resource(self.pipeline, max_body=100, hosts=["here"], reactor=reactor))
        above, middle = Resource(), Resource()
        above.putChild(b"my app", middle)
        middle.putChild(b"jobs", make_resource(self.pipeline, max_body=100, reactor=reactor))
        below = self.serve(above)
        self.places = {root: "", f"{below}/my%20app/jobs": "/my%20app/jobs"}

    def make_pipeline(self) -> Any:
        return MemoryPipeline()

    def serve(self, resource: Any) -> str:
        """Where it is."""
        port = reactor.listenTCP(0, Site(resource), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    async def ask(self, method: str, url: str, **more: Any) -> Any:
        """The answer, on a connection of its own."""
        headers = {"Connection": "close", **more.pop("headers", {})}
        return await treq.request(method, url, headers=headers, allow_redirects=False, **more)

    def header(self, answer: Any, name: str) -> str:
        (value,) = answer.headers.getRawHeaders(name)
        return str(value)


class RouteTests(ResourceCase):
    async def test_jobs_are_pushed_and_found_where_the_answer_says(self) -> None:
        for number, (url, place) in enumerate(self.places.items(), 1):
            job_id = make_id(7, number)
            answer = await self.ask("POST", f"{url}/", data=b"a", headers={"X-A": "1", "Content-Type": "text/x"})
            self.assertEqual((answer.code, await answer.json()), (202, {"id": job_id}))
            self.assertEqual(self.header(answer, "Location"), f"{place}/jobs/{job_id}")
            self.assertEqual(self.header(answer, "Content-Type"), "application/json")
            body, headers = self.pipeline.jobs[-1]
            expected = {"x-a": "1", "content-type": "text/x", "zpipe-method": "POST", "zpipe-path": "/"}
            self.assertEqual((body, headers), (b"a", expected))

    async def test_queries_batches_and_results(self) -> None:
        for url in self.places:
            self.pipeline.jobs.clear()
            self.assertEqual((await self.ask("GET", f"{url}/?n=%201")).code, 202)
            headers = {"Content-Type": "application/x-ndjson"}
            answer = await self.ask("POST", f"{url}/batch", data=b"1\n2\n", headers=headers)
            self.assertEqual((answer.code, len((await answer.json())["ids"])), (202, 2))
            self.assertEqual(self.pipeline.bodies, [b"n=%201", b"1", b"2"])
            self.pipeline.outcomes["a"] = b"\0result"
            answer = await self.ask("GET", f"{url}/jobs/a/result")
            self.assertEqual((answer.code, await answer.content()), (200, b"\0result"))
            self.assertEqual(self.header(answer, "X-Content-Type-Options"), "nosniff")

    async def test_head_has_no_content(self) -> None:
        for url in self.places:
            answer = await self.ask("HEAD", f"{url}/health/live")
            self.assertEqual((answer.code, self.header(answer, "Content-Length")), (200, "18"))
            self.assertEqual(await answer.content(), b"")

    async def test_the_page_is_there(self) -> None:
        for url in self.places:
            answer = await self.ask("GET", f"{url}/ui")
            self.assertIn(b"<title>", await answer.content())
            tag = self.header(answer, "ETag")
            answer = await self.ask("GET", f"{url}/ui", headers={"If-None-Match": tag})
            self.assertEqual((answer.code, answer.headers.getRawHeaders("Content-Type")), (304, None))

    async def test_errors_are_problems(self) -> None:
        for url in self.places:
            for method, path, status in (
                ("GET", "/nothing", 404),
                ("GET", "/jobs/%62", 404),
                ("GET", "//batch", 404),
                ("DELETE", "/batch", 405),
                ("POST", "/batch", 415),
                ("GET", "/dead?x=1", 400),
            ):
                answer = await self.ask(method, url + path)
                self.assertEqual((answer.code, (await answer.json())["status"]), (status, status), path)
                self.assertEqual(self.header(answer, "Content-Type"), "application/problem+json")
            answer = await self.ask("POST", f"{url}/", data=b"x" * 101)
            self.assertEqual(answer.code, 413)
        self.assertEqual((self.pipeline.jobs, self.pipeline.measures.refused["too_large"]), ([], 2))

    async def test_a_full_pipeline_says_when_to_come_again(self) -> None:
        self.pipeline.error = Full("1 jobs are not settled", 3)
        for url in self.places:
            answer = await self.ask("POST", f"{url}/", data=b"a")
            self.assertEqual(answer.code, 503)
            self.assertTrue(self.header(answer, "Retry-After"))

    async def test_pages_of_others_and_other_hosts_are_refused(self) -> None:
        root, below = self.places
        for headers, status in (({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 421)):
            for url in self.places:
                answer = await self.ask("POST", f"{url}/", data=b"a", headers=headers)
                self.assertEqual(answer.code, status)
        self.assertEqual((await self.ask("POST", f"{root}/", headers={"Host": "here"})).code, 202)
        self.assertEqual((await self.ask("POST", f"{below}/", headers={"Host": "here"})).code, 421)

    async def test_a_client_that_goes_waits_no_longer(self) -> None:
        for url in self.places:
            asked = Deferred.fromCoroutine(self.ask("GET", f"{url}/jobs/b/result", headers={"Prefer": "wait=60"}))
            asked.addErrback(lambda _: None)
            await until(lambda: self.pipeline.waits)
            asked.cancel()
            await until(lambda: self.pipeline.cancelled == ["b"])
            self.pipeline.cancelled.clear()
            self.pipeline.waits.clear()


class EventTests(ResourceCase):
    def make_pipeline(self) -> Any:
        return Observed()

    async def test_events_come_until_the_reader_goes(self) -> None:
        for url, place in self.places.items():
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", urlsplit(url).port)
            reader = await connectProtocol(endpoint, Connection())
            reader.send(f"GET {place}/events")
            await until(lambda reader=reader: reader.received.count(b"event: snapshot") == 1)
            self.assertIn(b"\r\nContent-Type: text/event-stream\r\n", reader.received)
            self.pipeline.second()
            await until(lambda reader=reader: reader.received.count(b"event: snapshot") == 2)
            await reader.hang_up()
            await until(lambda: self.pipeline._observer._watchers == [])

    async def test_they_end_with_the_pipeline(self) -> None:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", urlsplit(next(iter(self.places))).port)
        reader = await connectProtocol(endpoint, Connection())
        reader.send("GET /events", "Connection: close")
        await until(lambda: b"event: snapshot" in reader.received)
        self.pipeline.startService()
        await self.pipeline.stopService()
        await reader.end()
        self.assertTrue(reader.received.endswith(b"0\r\n\r\n"))
