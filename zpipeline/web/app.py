"""The routes. docs/http.rst says what each takes and answers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from attrs import asdict
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import MethodNotAllowed

from zpipeline import metrics
from zpipeline.errors import JobDead, NotSettled, ResultGone, TooLarge
from zpipeline.job import DeadLetter, DeadLetterSummary, JobStatus, parse_id
from zpipeline.metrics import ConnectionsCollector, Exposition, PipelineCollector
from zpipeline.web import observe, page
from zpipeline.web.answers import Answer, Stream, json_answer, problem_answer
from zpipeline.web.asked import Asked, body_of, job_headers, place_of, query_of, values_of
from zpipeline.web.batch import jobs_of
from zpipeline.web.exposed import Exposed
from zpipeline.web.http.connections import Connections
from zpipeline.web.http.turns import Turns
from zpipeline.web.idempotency import HEADER, key_of, refuse_key
from zpipeline.web.observe import Events, stats_of, workers_of
from zpipeline.web.openapi import description
from zpipeline.web.prefer import wait_of
from zpipeline.web.problems import Problem, nothing_here, problem_of, too_large, unknown_job
from zpipeline.web.query import parameters, whole

NDJSON = b"application/x-ndjson"

#: Dead letters on one page: unless asked otherwise, and at most.
PAGE = 100
MAX_PAGE = 1000

F = TypeVar("F", bound=Callable[..., Any])

log = Logger()


_app = Klein()
_app.url_map.merge_slashes = False  # or //batch would be answered with a redirection


def _route(path: str, **options: Any) -> Callable[[F], F]:
    """Klein knows routes that return bytes or resources; those of ours return what `Routes` knows."""
    route: Callable[[F], F] = _app.route(path, **options)
    return route


class Pipeline(observe.Pipeline, metrics.Pipeline, Protocol):
    """What the routes need of `zpipeline.pipeline.Pipeline`."""

    @property
    def accepting(self) -> bool: ...

    @property
    def draining(self) -> bool: ...

    @property
    def plain(self) -> bool: ...

    @property
    def ready_workers(self) -> int: ...

    @property
    def trouble(self) -> str | None: ...

    def push(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, idempotency_key: str | None = None
    ) -> Deferred[str]: ...

    def push_many(self, bodies: Iterable[bytes], headers: Mapping[str, str] | None = None) -> Deferred[list[str]]: ...

    def job(self, job_id: str) -> Deferred[JobStatus | None]: ...

    def result(self, job_id: str, timeout: float | None = None) -> Deferred[Any]: ...

    def dead_letters(self, after: str | None = None, most: int = 100) -> Deferred[list[DeadLetterSummary]]: ...

    def dead_letter(self, job_id: str) -> Deferred[DeadLetter | None]: ...

    def retry_dead(self, job_id: str) -> Deferred[bool]: ...

    def retry_all_dead(self, handler: str | None = None, error: str | None = None) -> Deferred[int]: ...

    def drop_dead(self, job_id: str) -> Deferred[bool]: ...


class App:
    """The routes of one pipeline.

    A route's Deferred is cancelled when its client is gone; a job that was pushed by then may run.

    :param reactor: IReactorTime.
    :param turns: of the reactor.
    :param connections: of its site; None where the site is another's.
    """

    app = _app

    def __init__(
        self, pipeline: Pipeline, *, max_body: int, reactor: Any, turns: Turns, connections: Connections | None = None
    ) -> None:
        self._pipeline = pipeline
        self._max_body = max_body
        self._turns = turns
        self._events = Events(pipeline)
        collectors = [PipelineCollector(pipeline)]
        of_site = [] if connections is None else [ConnectionsCollector(connections)]
        self._metrics = Exposed(reactor, Exposition(*collectors, *of_site))

    @_route("/")  # of any method: given GET, the router would answer HEAD too
    def push(self, request: Asked) -> Deferred[Answer]:
        keys = values_of(request, HEADER)
        key = None
        match request.method:
            case b"GET":
                refuse_key(keys)
                body = query_of(request)
                if len(body) > self._max_body:
                    raise too_large(self._max_body, "the query string")
            case b"POST":
                key = key_of(keys)
                body = body_of(request, self._max_body)
            case _:
                raise MethodNotAllowed(("GET", "POST"))

        pushed = self._pipeline.push(body, job_headers(request, "/"), idempotency_key=key)
        prefer = values_of(request, b"prefer")
        if prefer and not self._pipeline.plain:
            return Deferred.fromCoroutine(self._push_and_wait(request, pushed, wait_of(b",".join(prefer))))
        return pushed.addCallback(_accepted, request)

    async def _push_and_wait(self, request: Asked, pushed: Deferred[str], seconds: int) -> Answer:
        request.content.close()
        job_id = await pushed
        if seconds:
            try:
                return await self._outcome(request, job_id, seconds)
            except NotSettled:
                pass  # it is as if the client had not waited
        return _accepted(job_id, request)

    @_route("/batch", methods=["POST"])
    async def push_batch(self, request: Asked) -> Answer:
        refuse_key(values_of(request, HEADER))
        content_type, _, _ = b", ".join(values_of(request, b"content-type")).partition(b";")
        if content_type.strip().lower() != NDJSON:
            raise Problem(415, f"the content-type of a batch is {NDJSON.decode()}")
        if any(coding.lower() != b"identity" for coding in values_of(request, b"content-encoding")):
            raise Problem(415, "a batch has no content-encoding: send its lines as they are")
        bodies = await jobs_of(request.content, self._max_body, self._turns)
        request.content.close()
        ids = await self._pipeline.push_many(bodies, job_headers(request, "/batch"))
        return Answer(202, b'{"ids": ["%b"]}' % '", "'.join(ids).encode("ascii"))

    @_route("/jobs/<job_id>", methods=["GET"])
    async def job(self, request: Asked, job_id: str) -> Answer:
        status = await self._pipeline.job(job_id)
        if status is None:
            raise unknown_job()
        return json_answer(200, asdict(status))

    @_route("/jobs/<job_id>/result", methods=["GET"])
    async def result(self, request: Asked, job_id: str) -> Answer:
        try:
            return await self._outcome(request, job_id, wait_of(b",".join(values_of(request, b"prefer"))))
        except NotSettled as error:
            return json_answer(202, {"id": job_id, "state": error.state}, _location(request, job_id))

    async def _outcome(self, request: Asked, job_id: str, seconds: int) -> Answer:
        """What has come of a job: its result, or (by a `Problem`) why there is none.

        :raises NotSettled: after so many seconds it was not settled yet.
        """
        headers = _location(request, job_id)
        if seconds:
            headers[b"Preference-Applied"] = b"wait=%d" % seconds
        try:
            result = await self._pipeline.result(job_id, seconds)
        except (JobDead, ResultGone) as error:
            problem = problem_of(error)
            assert problem is not None
            raise Problem(problem.status, problem.detail, headers, problem.more) from None
        return _result(result, headers)

    @_route("/dead", methods=["GET"])
    async def dead_letters(self, request: Asked) -> Answer:
        asked = parameters(query_of(request), ("after", "limit"))
        limit = whole(asked, "limit", PAGE, MAX_PAGE)
        after = asked.get("after")
        if after is not None and parse_id(after) is None:
            raise Problem(400, f"'after' is the id of a job, not {after!r}")
        letters = await self._pipeline.dead_letters(after, limit + 1)
        more = len(letters) > limit
        page = [asdict(letter) for letter in letters[:limit]]
        link = place_of(request, f"/dead?after={page[-1]['id']}&limit={limit}").decode("ascii") if more else None
        return json_answer(200, {"dead": page, "next": link})

    @_route("/dead/retry")  # of any method: given POST, the router would take others for those of an id
    async def retry_all_dead(self, request: Asked) -> Answer:
        if request.method != b"POST":
            raise MethodNotAllowed(("POST",))
        if request.content.read(1):
            raise Problem(400, "this path takes no body: 'handler' and 'error' are given in the query string")
        asked = parameters(query_of(request), ("handler", "error"))
        return json_answer(202, {"retried": await self._pipeline.retry_all_dead(**asked)})

    @_route("/dead/<job_id>", methods=["GET"])
    async def dead_letter(self, request: Asked, job_id: str) -> Answer:
        letter = await self._pipeline.dead_letter(job_id)
        if letter is None:
            raise _not_dead()
        return json_answer(200, _members(letter))

    @_route("/dead/<job_id>", methods=["DELETE"])
    async def drop_dead(self, request: Asked, job_id: str) -> Answer:
        if not await self._pipeline.drop_dead(job_id):
            raise _not_dead()
        return Answer(204)

    @_route("/dead/<job_id>/retry", methods=["POST"])
    async def retry_dead(self, request: Asked, job_id: str) -> Answer:
        if not await self._pipeline.retry_dead(job_id):
            raise _not_dead()
        return _accepted(job_id, request)

    @_route("/stats", methods=["GET"])
    def stats(self, request: Asked) -> Answer:
        return json_answer(200, stats_of(self._pipeline))

    @_route("/workers", methods=["GET"])
    def workers(self, request: Asked) -> Answer:
        return json_answer(200, {"workers": workers_of(self._pipeline)})

    @_route("/events", methods=["GET"])
    def events(self, request: Asked) -> Stream:
        return self._events.open()

    @_route("/metrics", methods=["GET"])
    def metrics(self, request: Asked) -> Answer:
        text, content_type = self._metrics.text(b",".join(values_of(request, b"accept")).decode("latin-1"))
        return Answer(200, text, content_type=content_type)

    @_route("/health/live", methods=["GET"])
    def live(self, request: Asked) -> Answer:
        return json_answer(200, {"status": "live"})

    @_route("/health/ready", methods=["GET"])
    def ready(self, request: Asked) -> Answer:
        pipeline = self._pipeline
        answer: dict[str, object] = {"status": "ready", "ready_workers": pipeline.ready_workers}
        if pipeline.draining:
            answer["status"] = "draining"
        elif pipeline.trouble is not None:
            answer |= {"status": "journal", "trouble": pipeline.trouble}
        elif not pipeline.accepting:
            answer["status"] = "full"
        return json_answer(200 if answer["status"] == "ready" else 503, answer)

    @_route("/ui", methods=["GET"])
    def page(self, request: Asked) -> Answer:
        return self.file_of_page(request, page.START)

    @_route("/ui/<name>", methods=["GET"])
    def file_of_page(self, request: Asked, name: str) -> Answer:
        file = page.find(name)
        if file is None:
            raise nothing_here()
        status, content, headers = file.answer_to(
            values_of(request, b"accept-encoding"), values_of(request, b"if-none-match")
        )
        return Answer(status, content, headers, file.content_type)

    @_route("/openapi.json", methods=["GET"])
    def openapi(self, request: Asked) -> Answer:
        return Answer(200, description())

    def failed(self, request: Asked, path: bytes, failure: Failure) -> Answer:
        """The answer to a request whose route raised this."""
        if isinstance(failure.value, Problem):
            self.refused(path, failure.value)
        problem = problem_of(failure.value)
        if problem is None:
            log.failure("{method} {path} failed", failure, method=request.method, path=path)
            problem = Problem(500, "an unexpected error; the server's log has it")
        return problem_answer(problem)

    def refused(self, path: bytes, problem: Problem) -> None:
        """Have what is refused here counted where the pipeline counts its refusals: a body, or a batch, as one job."""
        if problem.status == 413 and path in (b"/", b"/batch"):
            self._pipeline.measures.refuse(TooLarge(), 1)


def _accepted(job_id: str, request: Asked) -> Answer:
    return Answer(202, b'{"id": "%b"}' % job_id.encode("ascii"), _location(request, job_id))


def _location(request: Asked, job_id: str) -> dict[bytes, bytes]:
    return {b"Location": place_of(request, f"/jobs/{job_id}")}


def _result(result: Any, headers: dict[bytes, bytes]) -> Answer:
    # whatever they look like, a handler's bytes are no page of this site
    headers[b"X-Content-Type-Options"] = b"nosniff"
    match result:
        case bytes():
            return Answer(200, result, headers, b"application/octet-stream")
        case str():
            return Answer(200, result.encode(), headers, b"text/plain; charset=utf-8")
        case _:
            return json_answer(200, result, headers)


def _not_dead() -> Problem:
    return Problem(404, "there is no dead letter of this id")


def _members(letter: DeadLetter) -> dict[str, object]:
    members = {**asdict(letter.summary), "headers": dict(letter.headers), "traceback": letter.traceback}
    try:
        members["body"] = letter.body.decode()
    except UnicodeDecodeError:
        members["body_base64"] = b64encode(letter.body).decode("ascii")
    return members
