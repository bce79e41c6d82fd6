"""What is seen of a pipeline over HTTP: as JSON, as events, and as Prometheus reads it."""

from __future__ import annotations

import json
import re
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import until
from tests.test_web import NDJSON, Answer, Connection, WebTestCase
from zpipeline import Pipeline
from zpipeline.entry import Cause
from zpipeline.histogram import SECONDS
from zpipeline.metrics import Exposition, PipelineCollector, WorkerCollector, format_of
from zpipeline.web import observe
from zpipeline.web.exposed import MOST_FORMATS, Exposed
from zpipeline.web.http.channel import KEPT_OF_STREAM
from zpipeline.worker import Worker

OPENMETRICS = "accept: application/openmetrics-text; version=1.0.0"


class Observed(Pipeline):
    """A pipeline without workers, in memory, whose seconds begin when a test says so."""

    def __init__(self) -> None:
        super().__init__(reactor, ["tcp://127.0.0.1:1"], journal=None, max_pending=3, max_body=1 << 20, drain=0.0)

    def second(self) -> None:
        self._observer._tick()


class ObserveTestCase(WebTestCase):
    make_pipeline = Observed
    pipeline: Observed

    async def events(self, *headers: str) -> Connection:
        """One that reads events; the head is read already."""
        connection: Connection = await self.connect()
        connection.send("GET /events", *headers)
        while b"\r\n\r\n" not in connection.received:
            await connection.change()
        return connection

    async def has(self, connection: Connection, count: int) -> None:
        """Wait until it has got so many snapshots."""
        while connection.received.count(b"}\n\n") < count:
            await connection.change()

    async def snapshots(self, connection: Connection, count: int) -> list[Any]:
        """The first so many that came to it."""
        await self.has(connection, count)
        return [json.loads(data) for data in re.findall(rb"event: snapshot\ndata: (.*)\n\n", connection.received)]


class JsonTests(ObserveTestCase):
    async def test_stats_are_one_object(self) -> None:
        answer = await self.ask("GET /stats")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"))
        stats = answer.json()
        members = (
            "version host pid time uptime accepting draining trouble accepted refused done dead failed redelivered "
            "redeliveries bad_messages pending waiting oldest_waiting in_flight dead_letters ready_workers rates "
            "latency journal"
        )
        self.assertEqual(list(stats), members.split())
        reasons = "full draining too_large journal journal_full key_reused keys_full"
        self.assertEqual(list(stats["refused"]), reasons.split())
        self.assertEqual(stats["redeliveries"], {"lost": 0, "returned": 0, "retry": 0})
        self.assertEqual(stats["rates"], {"accepted": 0.0, "settled": 0.0})
        nothing = {"p50": None, "p90": None, "p99": None}
        self.assertEqual(stats["latency"], {"start": nothing, "run": nothing, "settle": nothing})

    async def test_what_was_pushed_is_in_them(self) -> None:
        await self.ask("GET /?a")
        stats = (await self.ask("GET /stats")).json()
        self.assertEqual((stats["accepted"], stats["pending"], stats["waiting"]), (1, 1, 1))
        self.assertGreater(stats["oldest_waiting"], 0)

    async def test_redeliveries_are_told_by_cause_and_in_all(self) -> None:
        self.pipeline.measures.redeliveries.update({Cause.LOST: 3, Cause.RETURNED: 1, Cause.RETRY: 10})
        stats = (await self.ask("GET /stats")).json()
        self.assertEqual((stats["redelivered"], list(stats["redeliveries"].values())), (14, [3, 1, 10]))

    async def test_workers_are_a_list(self) -> None:
        answer = await self.ask("GET /workers")
        self.assertEqual(answer.status, 200)
        [worker] = answer.json()["workers"]
        members = (
            "address state why since host pid version handler concurrency window in_flight done failed returned share "
            "rate latency"
        )
        self.assertEqual(list(worker), members.split())
        self.assertEqual((worker["address"], worker["state"]), ("tcp://127.0.0.1:1", "connecting"))
        self.assertEqual(list(worker["latency"]), ["start", "run"])

    async def test_each_is_read_and_not_written(self) -> None:
        for path in ("/stats", "/workers", "/events", "/metrics"):
            answer = await self.post(path, b"")
            self.assert_problem(answer, 405)
            self.assertEqual(answer.headers["allow"], "GET, HEAD")
            head = await self.ask(f"HEAD {path}")
            self.assertEqual((head.status, head.body), (200, b""))

    async def test_what_http_refuses_before_it_is_pushed_counts_as_refused(self) -> None:
        large = b"x" * ((1 << 20) + 1)
        self.assertEqual((await self.ask("POST /", f"content-length: {len(large)}")).status, 413)
        self.assertEqual((await self.post("/batch", b'"%b"\n' % large, NDJSON)).status, 413)
        self.assertEqual((await self.ask("POST /dead/retry", f"content-length: {len(large)}")).status, 413)
        self.assertEqual((await self.post("/batch", b"1\n2\n3\n4\n", NDJSON)).status, 503)
        refused = (await self.ask("GET /stats")).json()["refused"]
        self.assertEqual({name: count for name, count in refused.items() if count}, {"too_large": 2, "full": 4})


class EventTests(ObserveTestCase):
    async def test_a_snapshot_comes_at_once_and_then_each_second(self) -> None:
        connection = await self.events()
        [first] = await self.snapshots(connection, 1)
        self.assertEqual(list(first), ["stats", "workers"])
        self.assertEqual(list(first["stats"]), list((await self.ask("GET /stats")).json()))
        self.assertEqual(first["workers"], (await self.ask("GET /workers")).json()["workers"])
        await self.ask("GET /?a")
        self.pipeline.second()
        self.assertEqual((await self.snapshots(connection, 2))[1]["stats"]["accepted"], 1)

    async def test_the_head_says_what_follows(self) -> None:
        connection = await self.events()
        head, _, body = connection.received.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Type: text/event-stream\r\n", head + b"\r\n")
        self.assertIn(b"Cache-Control: no-store\r\n", head)
        self.assertIn(b"Connection: close\r\n", head)
        self.assertNotIn(b"Content-Length", head)
        while not body:
            await connection.change()
            body = connection.received.partition(b"\r\n\r\n")[2]
        self.assertTrue(body.startswith(b"retry: 2000\n\nevent: snapshot\ndata: {"), body[:100])

    async def test_one_snapshot_is_made_for_all_readers(self) -> None:
        made = 0
        stats_of = observe.stats_of

        def counted(pipeline: Any) -> Any:
            nonlocal made
            made += 1
            return stats_of(pipeline)

        connections = [await self.events() for _ in range(5)]
        for connection in connections:
            await self.snapshots(connection, 1)
        self.patch(observe, "stats_of", counted)
        self.pipeline.second()
        seconds = [(await self.snapshots(connection, 2))[1] for connection in connections]
        self.assertEqual(made, 1)
        self.assertEqual(seconds, [seconds[0]] * 5)

    async def test_nothing_is_made_when_nobody_reads_any_more(self) -> None:
        connection = await self.events()
        await connection.hang_up()
        await until(lambda: not self.channels)
        self.patch(observe, "stats_of", lambda pipeline: self.fail("nobody reads it"))
        self.pipeline.second()
        self.assertEqual(self.pipeline._observer._watchers, [])

    async def test_a_reader_that_does_not_read_gets_fewer_and_the_others_get_all(self) -> None:
        lazy = await self.events()
        await self.snapshots(lazy, 1)
        [channel] = self.channels
        lazy.transport.pauseProducing()
        eager = await self.events()
        await self.snapshots(eager, 1)
        large = {"stats": "x" * 500_000}
        self.patch(observe, "stats_of", lambda pipeline: large)
        seconds = 0
        while not channel.is_behind:
            self.pipeline.second()
            seconds += 1
            await self.has(eager, 1 + seconds)
            self.assertLess(seconds, 100)

        def held() -> int:
            return len(channel.transport.dataBuffer) + sum(map(len, channel.transport._tempDataBuffer))

        before = held()
        for missed in range(1, 11):
            self.pipeline.second()
            await self.has(eager, 1 + seconds + missed)
        self.assertLessEqual(held(), before)
        lazy.transport.resumeProducing()
        await until(lambda: not channel.is_behind)
        self.pipeline.second()
        await self.has(eager, 12 + seconds)
        self.assertEqual(len(await self.snapshots(lazy, 2 + seconds)), 2 + seconds, "ten it has never got")

    async def test_the_kernel_keeps_little_for_a_reader(self) -> None:
        await self.events()
        [channel] = self.channels
        kept = channel.transport.getHandle().getsockopt(SOL_SOCKET, SO_SNDBUF)
        self.assertLessEqual(kept, 2 * KEPT_OF_STREAM, "Linux doubles what it is told")

    async def test_the_idle_do_not_end(self) -> None:
        connection = await self.events()
        [channel] = self.channels
        channel.was_idle()
        self.pipeline.second()
        await self.snapshots(connection, 2)
        self.assertIsNone(connection.lost)

    async def test_too_many_readers_are_told_to_come_later(self) -> None:
        self.patch(observe, "MAX_READERS", 2)
        connections = [await self.events() for _ in range(2)]
        answer = await self.ask("GET /events")
        self.assert_problem(answer, 503, "2 clients read events already")
        self.assertEqual(answer.headers["retry-after"], "5")
        await connections[0].hang_up()
        await until(lambda: len(self.channels) == 2)
        await self.events()

    async def test_it_goes_on_while_the_pipeline_drains_and_ends_with_it(self) -> None:
        pipeline = self.pipeline
        pipeline.startService()
        await self.ask("GET /?a")
        pipeline._drain_seconds = 30.0
        connection = await self.events()
        stopped = pipeline.stopService()
        pipeline.second()
        await until(lambda: b'"draining": true' in connection.received)
        self.assertIsNone(connection.lost)
        pipeline._drained.callback(None)  # type: ignore[union-attr]
        await stopped
        await connection.end()
        self.assertTrue(connection.received.endswith(b"}\n\n"))
        self.assertEqual((await self.ask("GET /health/live")).status, 200)

    async def test_after_the_end_there_is_one_snapshot_and_no_more(self) -> None:
        self.pipeline.startService()
        await self.pipeline.stopService()
        connection = await self.events()
        await connection.end()
        self.assertEqual(len(await self.snapshots(connection, 1)), 1)

    async def test_http_1_0_gets_them_too(self) -> None:
        connection = await self.connect()
        connection.transport.write(b"GET /events HTTP/1.0\r\n\r\n")
        await self.snapshots(connection, 1)


class Lint:
    """Prometheus's conventions for names ("Metric and label naming"), as ``promtool check metrics`` looks for them."""

    units = re.compile(r"_(milliseconds|ms|minutes|hours|days|kilobytes|kb|mb|megabytes|percent)(_|$)")

    def __init__(self, families: Any) -> None:
        self.families = list(families)

    def complaints(self) -> list[str]:
        found = []
        for family in self.families:
            name = family.name
            if not family.documentation:
                found.append(f"{name}: no help")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                found.append(f"{name}: not lower case with underscores")
            if self.units.search(name):
                found.append(f"{name}: not a base unit")
            if family.type != "counter" and name.endswith("_total"):
                found.append(f"{name}: _total is for counters")
            if re.search(r"(counter|gauge|histogram)", name):
                found.append(f"{name}: its type is in its name")
            for sample in family.samples:
                if family.type == "counter" and not sample.name.endswith(("_total", "_created")):
                    found.append(f"{sample.name}: a counter without _total")
                if family.type == "gauge" and sample.name.endswith(("_count", "_sum", "_bucket")):
                    found.append(f"{sample.name}: as of a histogram")
        return found


class MetricTests(ObserveTestCase):
    def families(self, answer: Answer) -> dict[str, Any]:
        self.assertEqual(answer.status, 200)
        read = read_openmetrics if "openmetrics" in answer.headers["content-type"] else read_text
        return {family.name: family for family in read(answer.body.decode())}

    def values(self, family: Any) -> dict[Any, float]:
        return {next(iter(sample.labels.values()), None): sample.value for sample in family.samples}

    async def test_prometheus_gets_the_format_that_it_asks_for(self) -> None:
        for accept, content_type in (
            ((), "text/plain; version=0.0.4; charset=utf-8"),
            (("accept: */*",), "text/plain; version=0.0.4; charset=utf-8"),
            (("accept: text/plain; version=nonsense",), "text/plain; version=0.0.4; charset=utf-8"),
            (("accept: application/openmetrics-text; version=x",), "text/plain; version=0.0.4; charset=utf-8"),
            ((OPENMETRICS,), "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            (("accept: text/html", OPENMETRICS), "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ):
            answer = await self.ask("GET /metrics", *accept)
            self.assertTrue(answer.headers["content-type"].startswith(content_type), (accept, answer.headers))
            self.families(answer)

    async def test_the_names_are_those_of_the_documentation(self) -> None:
        families = self.families(await self.ask("GET /metrics", OPENMETRICS))
        names = (
            "zpipeline_build zpipeline_jobs_accepted zpipeline_jobs_refused zpipeline_jobs_settled "
            "zpipeline_attempts_failed zpipeline_jobs_redelivered zpipeline_jobs_waiting "
            "zpipeline_oldest_waiting_seconds zpipeline_jobs_in_flight "
            "zpipeline_dead_letters zpipeline_workers_ready zpipeline_bad_messages zpipeline_job_start_seconds "
            "zpipeline_job_run_seconds zpipeline_job_settle_seconds "
            "zpipeline_connections_open zpipeline_connections_refused"
        )
        self.assertEqual([name for name in families if name.startswith("zpipeline_")], names.split())
        self.assertIn("process_cpu_seconds", families)
        self.assertIn("python_gc_collections", families)

    async def test_values_are_those_of_the_pipeline(self) -> None:
        self.pipeline.measures.done, self.pipeline.measures.dead = 5, 2
        self.pipeline.measures.refused["full"] = 9
        self.pipeline.measures.redeliveries[Cause.LOST] = 4
        self.pipeline.measures.settle.observe([0.02, 0.02, 1000.0])
        await self.ask("GET /?a")
        families = self.families(await self.ask("GET /metrics"))
        self.assertEqual(self.values(families["zpipeline_jobs_settled"]), {"done": 5, "dead": 2})
        self.assertEqual(self.values(families["zpipeline_jobs_refused"])["full"], 9)
        redelivered = self.values(families["zpipeline_jobs_redelivered"])
        self.assertEqual(redelivered, {"lost": 4, "returned": 0, "retry": 0})
        self.assertGreater(self.values(families["zpipeline_oldest_waiting_seconds"])[None], 0)
        self.assertEqual(self.values(families["zpipeline_jobs_accepted"]), {None: 1})
        self.assertEqual(self.values(families["zpipeline_jobs_waiting"]), {None: 1})
        settle = {
            (sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value
            for sample in families["zpipeline_job_settle_seconds"].samples
        }
        self.assertEqual([settle["bucket", bound] for bound in ("0.01", "0.025", "300.0", "+Inf")], [0, 2, 2, 3])
        self.assertEqual((settle["count", None], settle["sum", None]), (3, 1000.04))
        self.assertEqual(sum(name == "bucket" for name, _ in settle), len(SECONDS) + 1)


class ConventionTests(SynchronousTestCase):
    def test_names_are_by_prometheus_conventions(self) -> None:
        pipeline = Pipeline(reactor, [], journal=self.mktemp())
        worker = Worker(reactor, print)
        for collector in (PipelineCollector(pipeline), WorkerCollector(worker)):
            for accept, read in (("", read_text), ("application/openmetrics-text; version=1.0.0", read_openmetrics)):
                text, _ = Exposition(collector).text(accept)
                families = [family for family in read(text.decode()) if family.name.startswith("zpipeline")]
                self.assertGreater(len(families), 5)
                self.assertEqual(Lint(families).complaints(), [])

    def test_there_are_those_of_the_journal_where_there_is_one(self) -> None:
        pipeline = Pipeline(reactor, [], journal=self.mktemp())
        pipeline.measures.commits.observe(0.002, 40)
        text = Exposition(PipelineCollector(pipeline)).text("")[0].decode()
        self.assertIn('zpipeline_journal_commit_seconds_bucket{le="0.0025"} 1.0\n', text)
        self.assertIn('zpipeline_journal_commit_jobs_bucket{le="25.0"} 0.0\n', text)
        self.assertIn("zpipeline_journal_commit_jobs_sum 40.0\n", text)


class Counting(Exposition):
    """Metrics that count how often they were made."""

    made = 0

    def text(self, accept: str) -> tuple[bytes, bytes]:
        self.made += 1
        return b"%d" % self.made, format_of(accept)[1].encode()


class ExposedTests(SynchronousTestCase):
    """However many ask in one turn of the reactor."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.counting = Counting()
        self.exposed = Exposed(self.clock, self.counting)

    def test_they_are_made_once_in_a_turn(self) -> None:
        self.assertEqual({self.exposed.text("")[0] for _ in range(1000)}, {b"1"})
        self.clock.advance(0)
        self.assertEqual(self.exposed.text("")[0], b"2")

    def test_each_gets_the_format_it_asked_for(self) -> None:
        for accept in ("", "application/openmetrics-text; version=1.0.0") * 2:
            self.assertEqual(self.exposed.text(accept)[1], format_of(accept)[1].encode())
        self.assertEqual(self.counting.made, 2)

    def test_formats_are_few_though_clients_think_of_many(self) -> None:
        for number in range(1000):
            self.exposed.text(f"application/openmetrics-text; version=1.0.{number}")
        self.assertEqual(self.counting.made, MOST_FORMATS)
