"""`FakePipeline`: a pipeline that runs its jobs itself."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from zpipeline.errors import Refused, UsageError
from zpipeline.handlers import Handler, check_handler, name_of
from zpipeline.job import Job, encode_headers
from zpipeline.pipeline import ATTEMPTS, BACKOFF, KEEP, MAX_BODY, Pipeline
from zpipeline.pipeline.sessions import Sessions
from zpipeline.testing.clock import TimesOf, Turns, clock_of_now
from zpipeline.testing.worker import ADDRESS, InProcess, unpacked
from zpipeline.times import Times
from zpipeline.worker import CONCURRENCY


@frozen
class PushedJob:
    """What was pushed into a `FakePipeline`, and accepted.

    :ivar id: as the push was answered.
    :ivar body: bytes.
    :ivar headers: str to str, names in lower case.
    :ivar idempotency_key: as it was given; None when none was.
    """

    id: str
    body: bytes
    headers: Mapping[str, str]
    idempotency_key: str | None = None

    def json(self) -> Any:
        """The body, read as JSON.

        :raises json.JSONDecodeError: it is not JSON.
        """
        return json.loads(self.body)


class FakePipeline(Pipeline):
    """A pipeline that runs its jobs itself, at once, in the process and the thread of a test.

    It takes jobs from the moment when it is made. As a service it can be started and stopped; what has not been run
    when it is stopped is lost, as in a pipeline without a journal.

    Parameters that are not named here are those of `zpipeline.Pipeline`.

    :param handler: what runs a job: plain, ``async``, or returning a Deferred. None: there is no worker, and jobs wait.
    :param clock: whose `advance` lets time pass: for jobs that are to be tried again, `timeout`, `keep` and `drain`.
        None for one of its own, which starts at the present time.
    :param hold: whether jobs wait until `run_next` or `run_all` is called.
    :param concurrency: how many jobs run at once, where the handler is not plain.
    :param drain: how many seconds stopping waits for jobs to settle; here it does not, unless it is told to.
    :ivar clock: the clock.
    :ivar pushed: what has been pushed and was accepted, in order (list of `PushedJob`).
    :raises UsageError: a number cannot work.
    :raises HandlerError: calling the handler would run nothing.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        clock: Clock | None = None,
        hold: bool = False,
        concurrency: int = CONCURRENCY,
        max_pending: int | None = None,
        max_pending_bytes: int | None = None,
        max_body: int = MAX_BODY,
        attempts: int = ATTEMPTS,
        backoff: tuple[float, float] = BACKOFF,
        timeout: float | None = None,
        keep: float = KEEP,
        drain: float = 0.0,
    ) -> None:
        if handler is not None:
            check_handler(handler, name_of(handler), in_threads=False)
        self.clock = clock_of_now() if clock is None else clock
        self.pushed: list[PushedJob] = []
        self._turns = Turns(self.clock)
        self._push_errors: deque[Refused] = deque()
        self._handler = handler
        self._concurrency = concurrency
        super().__init__(
            self._turns,
            () if handler is None else (ADDRESS,),
            journal=None,
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            max_body=max_body,
            attempts=attempts,
            backoff=backoff,
            timeout=timeout,
            keep=keep,
            drain=drain,
        )
        self._worker.holds = hold
        self._worker.start((), 0)

    def _make_times(self) -> Times:
        return TimesOf(self.clock)

    def _make_sessions(self, sink: str, window: int | None, plain: bool) -> Sessions:
        self._worker = InProcess(
            self._turns,
            self._dispatcher,
            self._jobs,
            self._observer,
            self._times,
            self._handler,
            self._concurrency,
        )
        return self._worker

    # Pushing

    def push(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, idempotency_key: str | None = None
    ) -> Deferred[str]:
        """As `Pipeline.push`; it is accepted at once, and then run, unless jobs are held."""
        with self._worker.at_the_end():
            pushed = super().push(body, headers, idempotency_key=idempotency_key)
            self._gathering.flush()

            def record(job_id: str) -> str:
                self._record([job_id], [body], headers, idempotency_key)
                return job_id

            return pushed.addCallback(record)

    def push_many(self, bodies: Iterable[bytes], headers: Mapping[str, str] | None = None) -> Deferred[list[str]]:
        """As `Pipeline.push_many`; they are accepted at once, and then run, unless jobs are held."""
        bodies = list(bodies)
        with self._worker.at_the_end():

            def record(ids: list[str]) -> list[str]:
                self._record(ids, bodies, headers, None)
                return ids

            return super().push_many(bodies, headers).addCallback(record)

    def _record(
        self, ids: Sequence[str], bodies: Sequence[bytes], headers: Mapping[str, str] | None, key: str | None
    ) -> None:
        lowered = unpacked(encode_headers(headers))
        self.pushed += [PushedJob(job_id, body, lowered, key) for job_id, body in zip(ids, bodies, strict=True)]

    def _check(self, bodies: Sequence[bytes], headers: Mapping[str, str] | None) -> bytes:
        packed = super()._check(bodies, headers)
        if self._push_errors:
            raise self._push_errors.popleft()
        return packed

    # Running

    @property
    def hold(self) -> bool:
        """Whether jobs wait until `run_next` or `run_all` is called. Set to False, what waits is run."""
        return self._worker.holds

    @hold.setter
    def hold(self, hold: bool) -> None:
        self._worker.holds = hold
        self._worker.arrange()

    def run_next(self) -> Job:
        """Run the next job of those that are held, or begin to, where its handler is asynchronous.

        :returns: that job.
        :raises LookupError: there is none that could be run now; its text says what there is.
        """
        job = self._worker.run_one()
        if job is None:
            raise LookupError(self._worker.why_not())
        return job

    def run_all(self) -> list[Job]:
        """Run the jobs that are held, those that are pushed meanwhile included, until there is none to be run now.

        :returns: these jobs, in order.
        """
        jobs = []
        while (job := self._worker.run_one()) is not None:
            jobs.append(job)
        return jobs

    # Failing

    def fail_next_push(self, error: Refused) -> None:
        """Have the next push, of one job or of many, fail with this; called twice, the next two.

        :param error: such as ``Full("...", retry_after=5)``, ``Draining("...")`` or ``JournalError("...")``.
        :raises UsageError: it is no error that a push is refused with.
        """
        if not isinstance(error, Refused):
            raise UsageError(f"a push fails with a zpipeline.Refused, such as Full('no room'), not {error!r}")
        self._push_errors.append(error)

    def fail_next_job(self, error: BaseException) -> None:
        """Have the next job that is run fail with this, and its handler not called; called twice, the next two.

        :param error: a `zpipeline.Reject`, a `zpipeline.RetryLater`, or whatever else a handler may raise.
        :raises UsageError: it is no exception.
        """
        if not isinstance(error, BaseException):
            raise UsageError(f"a job fails with an exception, such as ValueError('no'), not {error!r}")
        self._worker.errors.append(error)
