"""Dead letters, idempotency keys, trouble with the journal and draining over HTTP."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from tests.test_web import NDJSON, Answer, MemoryPipeline, PatientConnection, WebTestCase
from zpipeline import Pipeline
from zpipeline.errors import JournalError, JournalFull, KeyReused, KeysFull, Refused
from zpipeline.job import DeadLetter, DeadLetterSummary, make_id
from zpipeline.web.idempotency import key_of
from zpipeline.web.problems import Problem

UNKNOWN = make_id(7, 99)


def letter(number: int, body: bytes = b"", *, handler: str = "photos:resize", error: str = "KeyError") -> DeadLetter:
    """A dead letter."""
    summary = DeadLetterSummary(make_id(7, number), 1000.5, 2000.5, 5, 0, handler, error, len(body))
    return DeadLetter(summary, body, {"content-type": "text/plain"}, "Traceback...\nKeyError\n")


class LetterPipeline(MemoryPipeline):
    """One with dead letters.

    :ivar letters: by their ids, in order of acceptance.
    :ivar retried: the ids of those that became jobs again.
    :ivar selections: what was asked for when all were to be retried.
    """

    def __init__(self, letters: Iterable[DeadLetter] = ()) -> None:
        super().__init__()
        self.letters = {letter.summary.id: letter for letter in letters}
        self.retried: list[str] = []
        self.selections: list[tuple[str | None, str | None]] = []

    def _answer(self, value: Any) -> Deferred[Any]:
        if self.error is not None:
            return fail(self.error)
        answer: Deferred[Any] = Deferred()
        if self.held is None:
            answer.callback(value)
        else:
            self.held.append(lambda: answer.callback(value))
        for waiting in self.pushed:
            waiting.callback(None)
        self.pushed.clear()
        return answer

    def dead_letters(self, after: str | None = None, most: int = 100) -> Deferred[list[DeadLetterSummary]]:
        found = [letter.summary for job_id, letter in sorted(self.letters.items()) if job_id > (after or "")]
        return self._answer(found[:most])

    def dead_letter(self, job_id: str) -> Deferred[DeadLetter | None]:
        return self._answer(self.letters.get(job_id))

    def retry_dead(self, job_id: str) -> Deferred[bool]:
        found = job_id in self.letters
        if found and self.error is None:
            del self.letters[job_id]
            self.retried.append(job_id)
        return self._answer(found)

    def retry_all_dead(self, handler: str | None = None, error: str | None = None) -> Deferred[int]:
        self.selections.append((handler, error))
        chosen = [
            letter.summary.id
            for letter in self.letters.values()
            if (handler is None or letter.summary.handler == handler) and (error or "") in letter.summary.error
        ]
        for job_id in chosen:
            self.retry_dead(job_id)
        return succeed(len(chosen)) if self.error is None else fail(self.error)

    def drop_dead(self, job_id: str) -> Deferred[bool]:
        return self._answer(self.letters.pop(job_id, None) is not None)


class DeadTestCase(WebTestCase):
    make_pipeline = LetterPipeline
    pipeline: LetterPipeline

    def put(self, *letters: DeadLetter) -> None:
        self.pipeline.letters |= {letter.summary.id: letter for letter in letters}

    def put_three(self) -> None:
        """Of two handlers, and two with the same text in their error."""
        self.put(
            letter(1, handler="photos:resize", error="KeyError: 'a&b=c d+é'"),
            letter(2, handler="photos:resize", error="ValueError"),
            letter(3, handler="mail:send", error="KeyError"),
        )

    async def delete(self, path: str) -> Answer:
        return await self.ask(f"DELETE {path}")


class ListTests(DeadTestCase):
    async def test_there_may_be_none(self) -> None:
        answer = await self.ask("GET /dead")
        self.assertEqual((answer.status, answer.json()), (200, {"dead": [], "next": None}))

    async def test_each_is_told_in_short(self) -> None:
        self.put(letter(1, b"abc", error="KeyError: 'width'"))
        expected = {
            "id": make_id(7, 1),
            "accepted_at": 1000.5,
            "settled_at": 2000.5,
            "attempts": 5,
            "strikes": 0,
            "handler": "photos:resize",
            "error": "KeyError: 'width'",
            "size": 3,
        }
        self.assertEqual((await self.ask("GET /dead")).json(), {"dead": [expected], "next": None})

    async def test_pages_follow_one_another_until_there_is_no_next(self) -> None:
        self.put(*map(letter, range(1, 8)))
        path, pages = "/dead?limit=3", []
        while path is not None:
            answer = (await self.ask(f"GET {path}")).json()
            pages.append([row["id"] for row in answer["dead"]])
            path = answer["next"]
        ids = [make_id(7, number) for number in range(1, 8)]
        self.assertEqual(pages, [ids[:3], ids[3:6], ids[6:]])

    async def test_a_page_that_is_just_full_may_be_the_last(self) -> None:
        self.put(*map(letter, range(1, 4)))
        answer = (await self.ask("GET /dead?limit=3")).json()
        self.assertEqual((len(answer["dead"]), answer["next"]), (3, None))

    async def test_a_page_has_100_unless_asked_otherwise_and_1000_at_most(self) -> None:
        self.put(*map(letter, range(1, 1102)))
        for path, count in [("/dead", 100), ("/dead?limit=1000", 1000), ("/dead?limit=1", 1)]:
            answer = (await self.ask(f"GET {path}")).json()
            self.assertEqual(len(answer["dead"]), count)
            self.assertEqual(answer["next"], f"/dead?after={make_id(7, count)}&limit={count}")

    async def test_a_limit_that_is_none_is_refused(self) -> None:
        for limit in ("0", "1001", "-1", "+5", "1.0", "ten", "9" * 5000, "1_0", "%C2%B2", "%D9%A3", "%201"):
            self.assert_problem(await self.ask(f"GET /dead?limit={limit}"), 400, "'limit' is a whole number from 1 to")

    async def test_after_is_an_id(self) -> None:
        for after in ("x", "1", "F" * 32, "0" * 33):
            self.assert_problem(await self.ask(f"GET /dead?after={after}"), 400, "'after' is the id of a job")

    async def test_parameters_that_it_does_not_take_are_refused(self) -> None:
        for query, detail in [
            ("page=2", "after and limit, not 'page'"),
            ("limit=1&limit=2", "'limit' comes twice"),
            ("limit", "'limit' has no value"),
            ("limit=1&", "not ''"),
            ("after=%ff", "not UTF-8"),
            ("%b0=1", "not UTF-8"),
        ]:
            self.assert_problem(await self.ask(f"GET /dead?{query}"), 400, detail)

    async def test_it_can_only_be_read(self) -> None:
        for method in ("POST", "DELETE", "PUT"):
            answer = await self.ask(f"{method} /dead")
            self.assert_problem(answer, 405)
            self.assertEqual(answer.headers["allow"], "GET, HEAD")


class LetterTests(DeadTestCase):
    async def test_all_of_one_is_told(self) -> None:
        self.put(letter(1, "größer".encode()))
        answer = await self.ask(f"GET /dead/{make_id(7, 1)}")
        self.assertEqual(answer.status, 200)
        told = answer.json()
        self.assertEqual((told["id"], told["size"], told["body"]), (make_id(7, 1), 8, "größer"))
        self.assertEqual(
            (told["headers"], told["traceback"]), ({"content-type": "text/plain"}, "Traceback...\nKeyError\n")
        )
        self.assertNotIn("body_base64", told)

    async def test_a_body_that_is_no_text_is_told_in_base64(self) -> None:
        self.put(letter(1, bytes(range(256))))
        told = (await self.ask(f"GET /dead/{make_id(7, 1)}")).json()
        self.assertEqual(b64decode(told["body_base64"]), bytes(range(256)))
        self.assertNotIn("body", told)

    async def test_one_that_is_dropped_is_no_more(self) -> None:
        self.put(letter(1), letter(2))
        connection = await self.connect()
        connection.send(f"DELETE /dead/{make_id(7, 1)}")
        answer = await connection.answer()
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertFalse({"content-type", "content-length", "transfer-encoding"} & set(answer.headers))
        self.assertEqual(list(self.pipeline.letters), [make_id(7, 2)])
        connection.send("GET /health/live")  # it is kept, and the answer had no more to it
        self.assertEqual((await connection.answer()).status, 200)

    async def test_one_that_is_retried_is_a_job_again(self) -> None:
        self.put(letter(1), letter(2))
        answer = await self.post(f"/dead/{make_id(7, 2)}/retry", b"")
        self.assertEqual((answer.status, answer.json()), (202, {"id": make_id(7, 2)}))
        self.assertEqual(answer.headers["location"], f"/jobs/{make_id(7, 2)}")
        self.assertEqual(self.pipeline.retried, [make_id(7, 2)])

    async def test_unknown_ones_are_not_found(self) -> None:
        for start in (f"GET /dead/{UNKNOWN}", f"DELETE /dead/{UNKNOWN}", f"POST /dead/{UNKNOWN}/retry", "GET /dead/x"):
            self.assert_problem(await self.ask(start), 404, "there is no dead letter of this id")

    async def test_paths_beside_them_are_not_found(self) -> None:
        for path in ("/dead/", "/dead/a/b", "/dead//retry", "/dead/a/retry/", "/dead/retry/", "/dead/a/"):
            self.assert_problem(await self.ask(f"POST {path}"), 404, "there is nothing at this path")

    async def test_wrong_methods_are_told_the_right_ones(self) -> None:
        for start, allowed in [
            ("POST /dead/a", "DELETE, GET, HEAD"),
            ("GET /dead/a/retry", "POST"),
            ("DELETE /dead/a/retry", "POST"),
            ("GET /dead/retry", "POST"),
            ("DELETE /dead/retry", "POST"),
        ]:
            answer = await self.ask(start)
            self.assert_problem(answer, 405)
            self.assertEqual(answer.headers["allow"], allowed)

    async def test_what_the_journal_cannot_do_is_told(self) -> None:
        self.pipeline.error = JournalError("jobs.sqlite: disk I/O error: mend the disk")
        for start in ("GET /dead", "GET /dead/a", "DELETE /dead/a", "POST /dead/a/retry", "POST /dead/retry"):
            self.assert_problem(await self.ask(start), 503, "jobs.sqlite: disk I/O error")

    async def test_a_client_that_goes_while_its_answer_is_pending_does_no_harm(self) -> None:
        for start in ("GET /dead", "GET /dead/a", "DELETE /dead/a", "POST /dead/a/retry", "POST /"):
            connection = await self.connect()
            self.pipeline.held = []
            asked = self.pipeline.next_push()
            connection.send(start, 'idempotency-key: "a"' if start == "POST /" else "x-a: b")
            await asked
            await connection.hang_up()
            await self.all_gone()
            self.pipeline.held[0]()  # an error that is logged fails the test
        self.assertEqual(self.pipeline.bodies, [b""])


class RetryAllTests(DeadTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.put_three()

    async def retry(self, query: str = "") -> Any:
        answer = await self.ask(f"POST /dead/retry{query}")
        self.assertEqual(answer.status, 202, answer.body)
        return answer.json()

    async def test_all(self) -> None:
        self.assertEqual(await self.retry(), {"retried": 3})
        self.assertEqual(self.pipeline.selections, [(None, None)])
        self.assertEqual(await self.retry("?"), {"retried": 0})

    async def test_those_of_a_handler(self) -> None:
        self.assertEqual(await self.retry("?handler=photos:resize"), {"retried": 2})
        self.assertEqual(self.pipeline.retried, [make_id(7, 1), make_id(7, 2)])

    async def test_those_with_a_text_in_their_error(self) -> None:
        self.assertEqual(await self.retry("?error=KeyError"), {"retried": 2})
        self.assertEqual(self.pipeline.retried, [make_id(7, 1), make_id(7, 3)])

    async def test_those_that_match_both(self) -> None:
        self.assertEqual(await self.retry("?error=KeyError&handler=mail%3Asend"), {"retried": 1})
        self.assertEqual(self.pipeline.retried, [make_id(7, 3)])

    async def test_the_text_is_escaped_as_urls_and_as_forms_have_it(self) -> None:
        text = "'a&b=c d+é'"
        for escaped in (quote(text), urlencode({"": text})[1:], quote(text, safe="='")):
            await self.retry(f"?error={escaped}")
        self.assertEqual(self.pipeline.selections, [(None, text)] * 3)

    async def test_a_filter_that_is_misspelt_retries_nothing(self) -> None:
        for query in (
            "?handlr=a",
            "?Handler=a",
            "?handler=a&handler=b",
            "?handler=",
            "?error",
            "?handler=a&x=1",
            "?error=%ff",
        ):
            self.assert_problem(await self.ask(f"POST /dead/retry{query}"), 400)
        self.assertEqual((self.pipeline.selections, self.pipeline.retried), ([], []))

    async def test_a_filter_in_the_body_retries_nothing(self) -> None:
        answer = await self.post("/dead/retry", b"handler=mail:send", "content-type: application/x-www-form-urlencoded")
        self.assert_problem(answer, 400, "this path takes no body")
        self.assertEqual((self.pipeline.selections, self.pipeline.retried), ([], []))


class KeyTests(SynchronousTestCase):
    """What a key is."""

    def assert_refused(self, *values: bytes) -> None:
        problem = self.assertRaises(Problem, key_of, values)
        self.assertEqual(problem.status, 400)
        self.assertIn("Idempotency-Key", problem.detail)

    def test_no_header_is_no_key(self) -> None:
        self.assertIsNone(key_of([]))

    def test_it_is_the_same_with_and_without_quotes(self) -> None:
        for key in ("8e03978e-40d5-43dd-bc93-6894a57f9324", "a", "b64+/==", "a:b", "~!#$%&'()*.<>?@[]^_`{|}"):
            self.assertEqual(key_of([key.encode()]), key)
            self.assertEqual(key_of([f'"{key}"'.encode()]), key)

    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
    @example(r"\\\"\"")
    def test_every_string_of_printable_characters_is_one_as_structured_fields_have_it(self, key: str) -> None:
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        self.assertEqual(key_of([f'"{escaped}"'.encode()]), key)

    def test_it_has_1_to_255_characters(self) -> None:
        self.assertEqual(key_of([b"k" * 255]), "k" * 255)
        self.assertEqual(key_of([b'"' + rb"\"" * 255 + b'"']), '"' * 255)
        for value in (b"", b'""', b"k" * 256, b'"' + b"k" * 256 + b'"'):
            self.assert_refused(value)

    def test_what_is_malformed_is_refused(self) -> None:
        for value in (
            b'"a',
            b'a"',
            b'"a"b',
            b'"a"; b=1',
            b'"a", "b"',
            b"a, b",
            b"a,b",
            b"a b",
            b"a;b",
            rb"a\b",
            rb'"a\b"',
            b'"a\\"',
            b'"a\tb"',
            b"a\x7f",
            b'"\xe9"',
            b"\xe9",
            b'"a"\n',
            b"a\n",
        ):
            self.assert_refused(value)

    def test_more_than_one_is_refused(self) -> None:
        self.assert_refused(b"a", b"a")


class IdempotencyTests(WebTestCase):
    pipeline: MemoryPipeline

    async def test_the_same_key_gets_the_first_job(self) -> None:
        first = await self.post("/", b"a", 'Idempotency-Key: "k"')
        again = await self.post("/", b"a", "idempotency-key: k")
        self.assertEqual((again.status, again.body), (202, first.body))
        self.assertEqual(again.headers["location"], first.headers["location"])
        self.assertEqual((self.pipeline.bodies, list(self.pipeline.keys)), ([b"a"], ["k"]))

    async def test_without_a_key_each_request_is_a_job(self) -> None:
        for _ in range(2):
            await self.post("/", b"a")
        self.assertEqual((self.pipeline.bodies, self.pipeline.keys), ([b"a", b"a"], {}))

    async def test_the_key_is_no_header_of_the_job(self) -> None:
        await self.post("/", b"a", "idempotency-key: k")
        self.assertEqual(sorted(self.pipeline.jobs[0][1]), ["zpipe-method", "zpipe-path"])

    async def test_a_malformed_key_pushes_nothing(self) -> None:
        self.assert_problem(await self.post("/", b"a", 'idempotency-key: "k'), 400, "in double quotes, such as")
        self.assert_problem(await self.post("/", b"a", "idempotency-key:"), 400, "Idempotency-Key is malformed")
        answer = await self.post("/", b"a", "idempotency-key: k", "idempotency-key: k")
        self.assert_problem(answer, 400, "more than once")
        self.assertEqual(self.pipeline.jobs, [])

    async def test_where_a_key_has_no_effect_it_is_refused(self) -> None:
        for answer in (
            await self.ask("GET /?a", 'idempotency-key: "k"'),
            await self.post("/batch", b"1", NDJSON, 'idempotency-key: "k"'),
        ):
            self.assert_problem(answer, 400, "on POST / only")
        self.assertEqual(self.pipeline.jobs, [])

    async def test_a_key_of_another_request_is_unprocessable(self) -> None:
        self.pipeline.error = KeyReused("the key was that of a job with another body")
        answer = await self.post("/", b"a", "idempotency-key: k")
        self.assert_problem(answer, 422, "another body")
        self.assertEqual(answer.json()["title"], "Unprocessable Entity")

    async def test_when_no_more_keys_can_be_kept_it_says_when_to_try_again(self) -> None:
        self.pipeline.error = KeysFull("1000000 keys are kept")
        answer = await self.post("/", b"a", "idempotency-key: k")
        self.assert_problem(answer, 503, "1000000 keys are kept")
        self.assertEqual(answer.headers["retry-after"], "60")


class TroubleTests(DeadTestCase):
    async def test_a_journal_that_cannot_be_written_is_named_and_may_be_tried_again(self) -> None:
        self.pipeline.error = JournalError("/var/lib/jobs.sqlite cannot be written: read-only")
        for answer in (
            await self.post("/", b"a"),
            await self.post("/batch", b"1", NDJSON),
            await self.ask("GET /jobs/a"),
        ):
            self.assert_problem(answer, 503, "/var/lib/jobs.sqlite cannot be written: read-only")
            self.assertEqual(answer.headers["retry-after"], "10")
            self.assertNotIn("connection", answer.headers)

    async def test_a_full_disk_is_insufficient_storage(self) -> None:
        self.pipeline.error = JournalFull("no room for jobs.sqlite")
        answer = await self.post("/", b"a")
        self.assert_problem(answer, 507, "no room for jobs.sqlite")
        self.assertEqual((answer.headers["retry-after"], answer.json()["title"]), ("10", "Insufficient Storage"))

    async def test_no_refusal_is_an_unexpected_error(self) -> None:
        for error in Refused.__subclasses__() + JournalError.__subclasses__():
            self.pipeline.error = error("no")
            answer = await self.post("/", b"a")
            self.assertIn(answer.status, (413, 422, 503, 507), error)
            self.assertEqual("retry-after" in answer.headers, answer.status >= 500, error)

    async def test_the_process_is_not_ready_while_its_journal_is_in_trouble(self) -> None:
        for self.pipeline.accepting in (True, False):
            self.pipeline.trouble = "jobs.sqlite: disk full"
            answer = await self.ask("GET /health/ready")
            expected = {"status": "journal", "ready_workers": 3, "trouble": "jobs.sqlite: disk full"}
            self.assertEqual((answer.status, answer.json()), (503, expected))
        self.pipeline.trouble, self.pipeline.accepting = None, True
        self.assertEqual((await self.ask("GET /health/ready")).status, 200)

    async def test_that_it_drains_is_more_important(self) -> None:
        self.pipeline.trouble, self.pipeline.draining = "jobs.sqlite: disk full", True
        self.assertEqual((await self.ask("GET /health/ready")).json()["status"], "draining")


class DrainingTests(DeadTestCase):
    async def test_every_answer_ends_its_connection(self) -> None:
        self.put(letter(1), letter(2))
        requests = [
            ("GET /health/live", 200),
            ("GET /health/ready", 503),
            ("GET /jobs/a", 404),
            ("GET /dead", 200),
            (f"DELETE /dead/{make_id(7, 1)}", 204),
            (f"GET /dead/{make_id(7, 2)}", 200),
            ("HEAD /health/live", 200),
            ("PUT /", 405),
            ("GET /%ff", 404),
            ("POST /batch", 415),
        ]
        connections = []
        for _ in requests:
            connection = await self.connect()
            connection.send("GET /health/live")
            self.assertNotIn("connection", (await connection.answer()).headers)
            connections.append(connection)
        self.pipeline.draining, self.pipeline.accepting = True, False
        for connection, (start, status) in zip(connections, requests, strict=True):
            connection.send(start)
            answer = await connection.answer(body=not start.startswith("HEAD"))
            self.assertEqual((answer.status, answer.headers["connection"]), (status, "close"), start)
            await connection.end()
        await self.all_gone()

    async def test_a_job_that_was_pending_when_it_began_is_answered(self) -> None:
        connection = await self.connect()
        self.pipeline.held = []
        pushed = self.pipeline.next_push()
        connection.post("/", b"a")
        await pushed
        self.pipeline.draining = True
        self.pipeline.held[0]()
        answer = await connection.answer()
        self.assertEqual((answer.status, answer.headers["connection"]), (202, "close"))
        await connection.end()

    async def test_a_client_that_has_sent_its_next_request_can_read_its_last_answer(self) -> None:
        connection = await self.connect(PatientConnection)
        self.pipeline.held = []
        pushed = self.pipeline.next_push()
        connection.post("/", b"a")
        await pushed
        connection.transport.write(b"GET /?next HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100_000)
        self.pipeline.draining = True
        self.pipeline.held[0]()
        self.assertEqual((await connection.answer()).status, 202)
        while not connection.server_is_done:
            await connection.change()
        self.assertIsNone(connection.lost)  # a reset, with which the answer might have been lost
        self.assertEqual((connection.received, self.pipeline.bodies), (b"", [b"a"]))

    async def test_a_refused_body_and_its_connection_end_as_ever(self) -> None:
        self.pipeline.draining = True
        connection = await self.connect()
        connection.send("POST /", f"content-length: {self.max_body + 1}")
        self.assertEqual((await connection.answer()).status, 413)
        await connection.end()
        await self.all_gone()


class JournalTests(WebTestCase):
    """With a pipeline that has a journal, and no worker."""

    timeout = 60
    pipeline: Pipeline

    def setUp(self) -> None:
        self.path = self.mktemp()
        super().setUp()

    def make_pipeline(self) -> Pipeline:
        pipeline = Pipeline(reactor, ["tcp://127.0.0.1:1"], journal=self.path, drain=0)
        pipeline.startService()
        self.addCleanup(pipeline.stopService)
        return pipeline

    async def test_the_same_key_at_the_same_time_gets_the_same_job(self) -> None:
        connections = [await self.connect() for _ in range(10)]
        for connection in connections:
            connection.post("/", b"a", 'idempotency-key: "k"')
        answers = [await connection.answer() for connection in connections]
        self.assertEqual({answer.status for answer in answers}, {202})
        self.assertEqual(len({answer.json()["id"] for answer in answers}), 1)
        self.assertEqual(self.pipeline.pending, 1)

    async def test_the_same_key_gets_the_same_job_after_a_restart(self) -> None:
        connection = await self.connect()
        connection.post("/", b"a", "idempotency-key: k")
        first = await connection.answer()
        await connection.hang_up()
        await self.all_gone()
        await self.pipeline.stopService()
        await self.port.stopListening()
        self.pipeline = self.make_pipeline()
        self.serve(reactor)
        again = await self.post("/", b"a", "idempotency-key: k")
        self.assertEqual((again.status, again.body), (202, first.body))
        self.assertEqual(self.pipeline.pending, 1)

    async def test_the_same_key_with_another_body_or_content_type_is_unprocessable(self) -> None:
        await self.post("/", b"a", "idempotency-key: k", "content-type: text/plain", "x-a: 1")
        for body, *headers in ((b"b", "content-type: text/plain"), (b"a", "content-type: text/html"), (b"a",)):
            self.assert_problem(await self.post("/", body, "idempotency-key: k", *headers), 422, "'k'")
        same = await self.post("/", b"a", "idempotency-key: k", "content-type: text/plain", "x-a: 2")
        self.assertEqual((same.status, self.pipeline.pending), (202, 1))

    async def test_the_job_of_a_client_that_goes_before_its_answer_is_kept(self) -> None:
        connection = await self.connect()
        push, pushed = self.pipeline.push, Deferred[None]()

        def watched(*arguments: Any, **named: Any) -> Deferred[str]:
            pushed.callback(None)
            return push(*arguments, **named)

        self.patch(self.pipeline, "push", watched)
        connection.post("/", b"a", "idempotency-key: k")
        await pushed
        await connection.hang_up()
        await self.all_gone()
        self.patch(self.pipeline, "push", push)
        again = await self.post("/", b"a", "idempotency-key: k")
        self.assertEqual((again.status, self.pipeline.pending), (202, 1))

    async def test_a_pipeline_that_is_stopped_says_so(self) -> None:
        connection = await self.connect()
        connection.send("GET /health/ready")
        self.assertEqual((await connection.answer()).json(), {"status": "ready", "ready_workers": 0})
        await self.pipeline.stopService()
        connection.post("/", b"a")
        answer = await connection.answer()
        self.assert_problem(answer, 503, "is being stopped")
        self.assertEqual(answer.headers["connection"], "close")
        await connection.end()
        answer = await self.ask("GET /health/ready")
        self.assertEqual((answer.status, answer.json()["status"]), (503, "draining"))
