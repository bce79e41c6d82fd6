"""What handlers have returned, for those who ask or wait for it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.python.failure import Failure

from zpipeline import protocol
from zpipeline.errors import JobDead, JournalError, NotSettled, ResultGone, UnknownJob
from zpipeline.pipeline.jobs import Jobs
from zpipeline.store import Outcome
from zpipeline.times import Times

_LONG_AGO = "the job was settled so long ago, or so many have been since, that nothing is kept of it"
_NO_ROOM = "it was kept until newer ones took its room"
_PLAIN = "the workers are plain sockets here, and nobody reports what comes of a job"


class Results:
    """The results of these jobs.

    :param plain: whether workers are plain sockets.
    """

    def __init__(self, reactor: Any, jobs: Jobs, times: Times, *, plain: bool) -> None:
        self._reactor = reactor
        self._jobs = jobs
        self._times = times
        self._plain = plain

    async def result(self, job_id: str, sequence: int | None, timeout: float | None) -> Any:
        """See `zpipeline.Pipeline.result`.

        :param sequence: the job's number; None when it is no id of ours.
        """
        if sequence is None:
            raise UnknownJob(job_id)
        settled = self._jobs.waiting.wait(sequence, self._times.time())  # before it is asked: so nothing falls between
        if timeout is not None:
            settled.addTimeout(max(0.0, timeout), self._reactor)
        try:
            outcome = await self._ask(job_id, sequence)
            if not _is_settled(outcome) and timeout != 0:
                outcome = await self._wait(settled, job_id, sequence, outcome)
        finally:
            settled.addErrback(_is_over)
            settled.cancel()
        return self._value(job_id, outcome)

    async def _ask(self, job_id: str, sequence: int) -> Outcome:
        outcome = await self._jobs.outcome(sequence)
        if outcome is not None:
            return outcome
        if self._jobs.has_accepted(sequence):
            raise ResultGone(job_id, _LONG_AGO)
        raise UnknownJob(job_id)

    async def _wait(self, settled: Deferred[Outcome | None], job_id: str, sequence: int, outcome: Outcome) -> Outcome:
        """What has come of the job in the end, or what is known of it when the time is over, or the pipeline ends."""
        try:
            found = await settled
        except TimeoutError:
            found = None
        if found is not None:
            return found
        try:
            return await self._ask(job_id, sequence)
        except JournalError:
            return outcome  # it is closed, or cannot be read

    def _value(self, job_id: str, outcome: Outcome) -> Any:
        status = outcome.status
        if not _is_settled(outcome):
            raise NotSettled(job_id, status.state)
        if status.state == "dead":
            raise JobDead(job_id, status.error or "", status.attempts)
        if self._plain:
            raise ResultGone(job_id, _PLAIN)
        if not outcome.returned:
            return None
        if outcome.result is None:
            raise ResultGone(job_id, _NO_ROOM)
        match protocol.unpack_result(outcome.result):
            case protocol.Dropped(reason):
                raise ResultGone(job_id, reason)
            case protocol.Json() as json:
                return json.value
            case result:
                return result


def _is_settled(outcome: Outcome) -> bool:
    return outcome.status.settled_at is not None


def _is_over(failure: Failure) -> None:
    """Nobody waits any longer, for whatever reason."""
