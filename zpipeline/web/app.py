"""The routes. docs/http.rst says what each takes and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from attrs import asdict
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import MethodNotAllowed

from zpipeline.job import JobStatus
from zpipeline.web.batch import MAX_JOBS, job_of
from zpipeline.web.problems import Problem, problem_of, too_large
from zpipeline.web.request import Request, unexpected

NDJSON = b"application/x-ndjson"

#: For how many seconds the lines of a batch are read before everyone else has a turn.
TURN = 0.005

log = Logger()


class Pipeline(Protocol):
    """What the routes need of `zpipeline.pipeline.Pipeline`."""

    @property
    def accepting(self) -> bool: ...

    @property
    def draining(self) -> bool: ...

    @property
    def ready_workers(self) -> int: ...

    def push(self, body: bytes, headers: Mapping[str, str] | None = None) -> Deferred[str]: ...

    def push_many(self, bodies: Iterable[bytes], headers: Mapping[str, str] | None = None) -> Deferred[list[str]]: ...

    def job(self, job_id: str) -> Deferred[JobStatus | None]: ...


class App:
    """The routes of one pipeline.

    A route's Deferred is cancelled when its client is gone; a job that was pushed by then may run.

    :param reactor: IReactorTime.
    """

    app = Klein()
    app.url_map.merge_slashes = False  # or //batch would be answered with a redirection

    def __init__(self, pipeline: Pipeline, *, max_body: int, reactor: Any) -> None:
        self._pipeline = pipeline
        self._max_body = max_body
        self._reactor = reactor

    @app.route("/")  # of any method: given GET, the router would answer HEAD too
    def push(self, request: Request) -> Deferred[bytes]:
        match request.method:
            case b"GET":
                body = request.query
                if len(body) > self._max_body:
                    raise too_large(self._max_body, "the query string")
            case b"POST":
                body = request.content.getvalue()
            case _:
                raise MethodNotAllowed(("GET", "POST"))

        def accepted(job_id: str) -> bytes:
            return request.answer(202, {"id": job_id}, {b"Location": b"/jobs/" + job_id.encode("ascii")})

        return self._pipeline.push(body, request.job_headers()).addCallback(accepted)

    @app.route("/batch", methods=["POST"])
    async def push_batch(self, request: Request) -> bytes:
        content_type, _, _ = (request.getHeader(b"content-type") or b"").partition(b";")
        if content_type.strip().lower() != NDJSON:
            raise Problem(415, f"the content-type of a batch is {NDJSON.decode()}")
        bodies = []
        turn_ends = self._reactor.seconds() + TURN
        for number, line in enumerate(request.content, 1):
            body = job_of(number, line, self._max_body)
            if body is not None:
                bodies.append(body)
            if len(bodies) > MAX_JOBS:
                raise Problem(413, f"the batch is over {MAX_JOBS} jobs")
            if self._reactor.seconds() > turn_ends:
                await deferLater(self._reactor, 0)
                turn_ends = self._reactor.seconds() + TURN
        if not bodies:
            raise Problem(400, "the batch is empty")
        return request.answer(202, {"ids": await self._pipeline.push_many(bodies, request.job_headers())})

    @app.route("/jobs/<job_id>", methods=["GET"])
    async def job(self, request: Request, job_id: str) -> bytes:
        status = await self._pipeline.job(job_id)
        if status is None:
            raise Problem(404, "no job of this id is known, or it is no longer kept")
        return request.answer(200, asdict(status))

    @app.route("/health/live", methods=["GET"])
    def live(self, request: Request) -> bytes:
        return request.answer(200, {"status": "live"})

    @app.route("/health/ready", methods=["GET"])
    def ready(self, request: Request) -> bytes:
        pipeline = self._pipeline
        status = "ready" if pipeline.accepting else "draining" if pipeline.draining else "full"
        answer = {"status": status, "ready_workers": pipeline.ready_workers}
        return request.answer(200 if pipeline.accepting else 503, answer)

    @app.handle_errors(Exception)  # type: ignore[arg-type]
    def failed(self, request: Request, failure: Failure) -> bytes:
        problem = problem_of(failure.value)
        if problem is None:
            log.failure("{method} {path} failed", failure, method=request.method, path=request.path)
            problem = unexpected()
        return request.answer_problem(problem)
