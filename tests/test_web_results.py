"""Results over HTTP, and requests that wait for them."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.peers import until
from tests.test_web import Answer, Connection, WebTestCase
from zpipeline import Pipeline, Worker
from zpipeline.errors import JobDead, JournalError, NotSettled, ResultGone, UnknownJob
from zpipeline.job import make_id
from zpipeline.web.prefer import MAX_WAIT, wait_of

JOB = make_id(7, 1)
PATH = f"/jobs/{JOB}/result"


class ResultTests(WebTestCase):
    """GET /jobs/ID/result"""

    async def result(self, outcome: object, *headers: str) -> Answer:
        self.pipeline.outcomes[JOB] = outcome
        return await self.ask(f"GET {PATH}", *headers)

    async def test_each_kind_has_its_content_type(self) -> None:
        for result, content_type, body in (
            (b"\0\xff", "application/octet-stream", b"\0\xff"),
            (b"", "application/octet-stream", b""),
            ("t\xebxt", "text/plain; charset=utf-8", "t\xebxt".encode()),
            ({"a": [1, "\xeb"]}, "application/json", b'{"a": [1, "\\u00eb"]}'),
            (False, "application/json", b"false"),
            (None, "application/json", b"null"),
        ):
            answer = await self.result(result)
            self.assertEqual((answer.status, answer.body), (200, body))
            self.assertEqual(answer.headers["content-type"], content_type)
            self.assertEqual(answer.headers["location"], f"/jobs/{JOB}")
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            self.assertNotIn("preference-applied", answer.headers)

    async def test_head_has_the_length_and_no_body(self) -> None:
        self.pipeline.outcomes[JOB] = b"12345"
        answer = await self.ask(f"HEAD {PATH}")
        self.assertEqual((answer.status, answer.headers["content-length"], answer.body), (200, "5", b""))

    async def test_a_job_that_is_not_settled_is_202_with_its_state(self) -> None:
        answer = await self.result(NotSettled(JOB, "retrying"))
        self.assertEqual((answer.status, answer.json()), (202, {"id": JOB, "state": "retrying"}))
        self.assertEqual(answer.headers["location"], f"/jobs/{JOB}")

    async def test_a_result_that_is_gone_is_410(self) -> None:
        answer = await self.result(ResultGone(JOB, "newer ones took its room"))
        self.assert_problem(answer, 410, "newer ones took its room", id=JOB)
        self.assertEqual(answer.headers["location"], f"/jobs/{JOB}")

    async def test_a_dead_job_is_500_with_its_error_and_no_trace_in_the_log(self) -> None:
        answer = await self.result(JobDead(JOB, "KeyError: 'width'", 5))
        self.assert_problem(answer, 500, "KeyError: 'width'", id=JOB, error="KeyError: 'width'", attempts=5)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_an_unknown_job_is_404(self) -> None:
        self.assert_problem(await self.result(UnknownJob(JOB)), 404, "no job of this id is known")

    async def test_a_journal_that_cannot_be_read_is_503(self) -> None:
        self.assert_problem(await self.result(JournalError("the journal x: it is damaged")), 503, "the journal x")

    async def test_it_can_be_read_and_nothing_else(self) -> None:
        for method in ("POST", "DELETE"):
            self.assert_problem(await self.ask(f"{method} {PATH}"), 405)

    async def test_without_a_preference_nothing_is_waited_for(self) -> None:
        connection = await self.connect()
        for header in ((), ("Prefer: wait=0",), ("Prefer: respond-async",)):
            connection.send(f"GET {PATH}", *header)
            await until(lambda: self.pipeline.waits)
            ((timeout, waiting),) = self.pipeline.waits
            self.assertEqual(timeout, 0)
            self.pipeline.waits.clear()
            waiting.errback(NotSettled(JOB, "waiting"))
            self.assertEqual((await connection.answer()).status, 202)

    async def test_with_one_it_is_waited_for_so_long(self) -> None:
        connection = await self.connect()
        connection.send(f"GET {PATH}", "Prefer: wait=7")
        await until(lambda: self.pipeline.waits)
        ((timeout, waiting),) = self.pipeline.waits
        self.assertEqual(timeout, 7)
        waiting.callback("x")
        answer = await connection.answer()
        self.assertEqual((answer.status, answer.body, answer.headers["preference-applied"]), (200, b"x", "wait=7"))

    async def test_when_the_time_is_up_it_is_202_as_ever(self) -> None:
        answer = await self.result(NotSettled(JOB, "in flight"), "Prefer: wait=7")
        self.assertEqual((answer.status, answer.json()), (202, {"id": JOB, "state": "in flight"}))
        self.assertNotIn("preference-applied", answer.headers)


class PushTests(WebTestCase):
    """Prefer: wait=SECONDS on a push"""

    async def pushed(self, start: str, *headers: str) -> tuple[Any, Any]:
        """The connection of a push that waits, and for what."""
        connection = await self.connect()
        connection.send(start, *headers)
        await until(lambda: self.pipeline.waits)
        return connection, self.pipeline.waits.pop()

    async def test_the_answer_is_the_result(self) -> None:
        for start in ("POST /", "GET /?x"):
            connection, (timeout, waiting) = await self.pushed(start, "prefer: wait=12")
            self.assertEqual(timeout, 12)
            waiting.callback({"n": 1})
            answer = await connection.answer()
            self.assertEqual((answer.status, answer.json()), (200, {"n": 1}))
            self.assertEqual(answer.headers["preference-applied"], "wait=12")
            self.assertEqual(answer.headers["location"], f"/jobs/{make_id(7, len(self.pipeline.jobs))}")

    async def test_a_wait_that_is_too_long_is_cut_and_says_so(self) -> None:
        connection, (timeout, waiting) = await self.pushed("POST /", "Prefer: wait=86400")
        self.assertEqual(timeout, 600)
        waiting.callback(None)
        self.assertEqual((await connection.answer()).headers["preference-applied"], "wait=600")

    async def test_when_the_time_is_up_it_is_202_as_ever(self) -> None:
        connection, (_, waiting) = await self.pushed("POST /", "Prefer: wait=1")
        waiting.errback(NotSettled(JOB, "waiting"))
        answer = await connection.answer()
        self.assertEqual((answer.status, answer.json()), (202, {"id": JOB}))
        self.assertEqual(answer.headers["location"], f"/jobs/{JOB}")
        self.assertNotIn("preference-applied", answer.headers)

    async def test_a_dead_job_is_500(self) -> None:
        connection, (_, waiting) = await self.pushed("POST /", "Prefer: wait=9")
        waiting.errback(JobDead(JOB, "KeyError", 2))
        answer = await connection.answer()
        self.assert_problem(answer, 500, "KeyError", id=JOB, error="KeyError", attempts=2)
        self.assertEqual((answer.headers["location"], answer.headers["preference-applied"]), (f"/jobs/{JOB}", "wait=9"))

    async def test_a_result_that_could_not_be_carried_is_410(self) -> None:
        connection, (_, waiting) = await self.pushed("POST /", "Prefer: wait=9")
        waiting.errback(ResultGone(JOB, "2000000 bytes are over 1048576"))
        answer = await connection.answer()
        self.assert_problem(answer, 410, "2000000 bytes are over 1048576", id=JOB)
        self.assertEqual(answer.headers["location"], f"/jobs/{JOB}")

    async def test_what_is_refused_is_refused_at_once(self) -> None:
        self.pipeline.error = JournalError("the journal x: no")
        self.assert_problem(await self.post("/", b"x", "Prefer: wait=9"), 503, "the journal x: no")
        self.assertEqual(self.pipeline.waits, [])

    async def test_other_preferences_and_malformed_ones_are_ignored(self) -> None:
        for preference in ("respond-async", "wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", "wait=0", '"wait=9"'):
            answer = await self.post("/", b"x", f"Prefer: {preference}")
            self.assertEqual((answer.status, list(answer.json())), (202, ["id"]), preference)
        self.assertEqual(self.pipeline.waits, [])

    async def test_several_headers_are_one(self) -> None:
        _, (timeout, _) = await self.pushed("POST /", "Prefer: respond-async", "Prefer: wait=3", "Prefer: wait=4")
        self.assertEqual(timeout, 3)

    async def test_where_nobody_reports_nobody_waits(self) -> None:
        self.pipeline.plain = True
        answer = await self.post("/", b"x", "Prefer: wait=9")
        self.assertEqual((answer.status, self.pipeline.waits), (202, []))

    async def test_a_batch_does_not_wait(self) -> None:
        answer = await self.post("/batch", b"1\n2\n", "Prefer: wait=9", "content-type: application/x-ndjson")
        self.assertEqual((answer.status, self.pipeline.waits), (202, []))

    async def test_a_client_that_goes_away_is_not_waited_for(self) -> None:
        for start in ("POST /", f"GET {PATH}"):
            connection, _ = await self.pushed(start, "Prefer: wait=60")
            await connection.hang_up()
            await self.all_gone()
        self.assertEqual(self.pipeline.cancelled, [JOB, JOB])


class RunningTests(WebTestCase):
    """With a pipeline and a worker that run."""

    make_pipeline = staticmethod(lambda: None)  # type: ignore[assignment]

    def setUp(self) -> None:
        self.held: list[Deferred[Any]] = []
        self.worker = Worker(reactor, self.handle, "tcp://127.0.0.1:*", concurrency=1000, drain=1.0)
        self.worker.startService()
        self.addCleanup(self.worker.stopService)
        self.pipeline = Pipeline(reactor, [self.worker.address], journal=None, drain=0.0, attempts=1)
        self.pipeline.startService()
        self.addCleanup(self.pipeline.stopService)
        self.serve(reactor)

    def handle(self, job: Any) -> Any:
        if job.body == b"hold":
            self.held.append(Deferred())
            return self.held[-1]
        if job.body == b"fail":
            raise ValueError("as it was told to")
        return job.json()

    async def waits(self) -> Connection:
        """A client that waits for a job that runs."""
        connection = await self.connect()
        connection.post("/", b"hold", "Prefer: wait=60")
        await until(lambda: self.held and self.pipeline._jobs.waiting)
        return connection

    async def test_results_come_back(self) -> None:
        answer = await self.post("/", b'{"a": 1}', "Prefer: wait=60")
        self.assertEqual((answer.status, answer.json()), (200, {"a": 1}))
        answer = await self.ask(f"GET {answer.headers['location']}/result")
        self.assertEqual((answer.status, answer.json()), (200, {"a": 1}))

    async def test_a_failure_comes_back(self) -> None:
        answer = await self.post("/", b"fail", "Prefer: wait=60")
        self.assertEqual((answer.status, answer.json()["error"]), (500, "ValueError: as it was told to"))

    async def test_when_the_time_is_up_the_job_goes_on(self) -> None:
        answer = await self.post("/", b"hold", "Prefer: wait=1")
        self.assertEqual(answer.status, 202)
        self.assertFalse(self.pipeline._jobs.waiting)
        (held,) = self.held
        held.callback("late")
        answer = await self.ask(f"GET {answer.headers['location']}/result", "Prefer: wait=60")
        self.assertEqual((answer.status, answer.body), (200, b"late"))

    async def test_the_same_key_is_the_same_result(self) -> None:
        first = await self.post("/", b"[1]", "Prefer: wait=60", 'Idempotency-Key: "k"')
        second = await self.post("/", b"[1]", "Prefer: wait=60", 'Idempotency-Key: "k"')
        self.assertEqual(second.headers["location"], first.headers["location"])
        self.assertEqual((first.body, second.body), (b"[1]", b"[1]"))

    async def test_nothing_is_left_of_a_client_that_goes_away(self) -> None:
        connection = await self.waits()
        await connection.hang_up()
        await self.all_gone()
        self.assertFalse(self.pipeline._jobs.waiting)
        self.held[0].callback(None)
        await until(lambda: not self.pipeline.pending)

    async def test_who_waits_when_the_pipeline_ends_gets_202(self) -> None:
        connection = await self.waits()
        await self.pipeline.stopService()
        answer = await connection.answer()
        self.assertEqual((answer.status, list(answer.json())), (202, ["id"]))
        self.held[0].callback(None)


class PreferTests(SynchronousTestCase):
    """What is read of the header (RFC 7240)."""

    def test_how_it_may_be_written(self) -> None:
        for value, seconds in (
            (b"wait=10", 10),
            (b"WAIT=10", 10),
            (b' wait = "10" ', 10),
            (b"wait=0010", 10),
            (b"wait=10;foo=bar; x", 10),
            (b"respond-async, wait=10", 10),
            (b'foo="a, wait=5", wait=10', 10),
            (b'foo="\\", wait=5", wait=10', 10),
            (b",, wait=10,", 10),
            (b"wait=1, wait=2", 1),
            (b"wait=600", 600),
            (b"wait=601", MAX_WAIT),
            (b"wait=" + b"9" * 5000, MAX_WAIT),
            (b"wait=" + b"0" * 5000 + b"5", 5),
        ):
            self.assertEqual(wait_of(value), seconds, value)

    def test_what_is_ignored(self) -> None:
        for value in (
            b"",
            b"wait",
            b"wait=",
            b"wait=x",
            b"wait=-5",
            b"wait=1 2",
            b"waiting=5",
            b"a;wait=5",
            b"wait=\xb2",
        ):
            self.assertEqual(wait_of(value), 0, value)

    @given(st.binary(max_size=40) | st.text('wait=,;" \\0123456789', max_size=40).map(str.encode))
    @example(b'"' * 16_000)
    @example(b'"\\' * 8000)
    @example(b"," * 16_000)
    def test_anything_is_a_number_of_seconds_or_ignored(self, value: bytes) -> None:
        self.assertIn(wait_of(value), range(MAX_WAIT + 1))
