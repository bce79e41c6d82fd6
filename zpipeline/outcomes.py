"""What a handler has raised or returned, as the protocol carries it: whatever it is, and within bounds.

An exception and a result are code of the handler's: asked for their text, they may raise, or say megabytes. Nothing of
that gets further than here.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline import protocol
from zpipeline.errors import ZpipelineError
from zpipeline.job import Job, Reject, RetryLater
from zpipeline.text import printable, printable_lines, shortened

log = Logger()


class TimedOut(ZpipelineError):
    """Why an attempt failed that took longer than its delivery allows. It is a reason; nobody raises it.

    :param seconds: that it was allowed.
    :ivar where: where its handler was then, as a traceback has it; empty where that is not known.
    """

    def __init__(self, seconds: float, where: str) -> None:
        super().__init__(f"timed out after {seconds:g} seconds")
        self.where = where


def caught() -> Failure:
    """What a handler has raised, while it is being handled."""
    try:
        return Failure()
    except BaseException:  # which looks at the exception
        return Failure()


def to_failed(job: Job, failure: Failure) -> protocol.Failed:
    """That the handler of this job failed, as the protocol carries it. It is logged, too."""
    try:
        kind, delay, reason, traceback = _told(failure, job.id)
    except BaseException as error:
        name = type(error).__name__
        kind, delay, traceback = protocol.RETRY, protocol.NO_DELAY, ""
        reason = f"the handler failed, and what it raised cannot be written: {name}"
        log.warn("job {id} failed: {reason}", id=job.id, reason=reason)
    return protocol.Failed(job.delivery.session, job.key[1], kind, delay, reason, traceback)


def _told(failure: Failure, job_id: str) -> tuple[int, float, str, str]:
    """Kind, delay, reason and traceback."""
    error: object = failure.value
    name = type(error).__name__
    said = " ".join(failure.getErrorMessage().split())
    kind, delay, reason = protocol.RETRY, protocol.NO_DELAY, said or name
    traceback = error.where if isinstance(error, TimedOut) else traceback_of(failure)
    if isinstance(error, RetryLater):
        delay = _delay(error)
        if delay == protocol.NO_DELAY:
            reason = f"{name}: {said} (without a number of seconds, 0 or more, the delay is the backoff's)"
    elif said and not isinstance(error, Reject | TimedOut):
        reason = f"{name}: {said}"
    reason = shortened(reason, protocol.MAX_REASON)
    if isinstance(error, Reject):
        kind = protocol.REJECT
        log.info("job {id} is rejected: {reason}", id=job_id, reason=printable(reason))
    elif delay != protocol.NO_DELAY:
        why = printable(reason)
        log.info("job {id} is put off for {seconds} seconds: {reason}", id=job_id, seconds=delay, reason=why)
    else:
        where = f"\n{printable_lines(traceback)}" if traceback else ""
        log.warn("job {id} failed: {reason}{traceback}", id=job_id, reason=printable(reason), traceback=where)
    return kind, delay, reason, traceback


def traceback_of(failure: Failure) -> str:
    """Where something was raised, or why nobody can say."""
    try:
        return shortened(failure.getTraceback(), protocol.MAX_TRACEBACK)
    except BaseException as error:
        return f"what was raised cannot be written: {type(error).__name__}"


def _delay(error: RetryLater) -> float:
    """As it says, if its class has let it say anything: one that is derived may have."""
    try:
        seconds = float(error.seconds)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return protocol.NO_DELAY
    return seconds if isfinite(seconds) and seconds >= 0 else protocol.NO_DELAY


def to_result(value: Any, job_id: str) -> protocol.Result:
    """What a handler returned, as the protocol carries it; if it cannot be carried, why: that is logged, too."""
    try:
        result = _written(value)
        size = len(protocol.pack_result(result)) - 1
    except (TypeError, ValueError) as error:
        reason = f"it is not bytes, text or JSON: {error}"
    except RecursionError:
        reason = "it is not bytes, text or JSON, but nested too deeply"
    except BaseException as error:
        reason = f"the result of {job_id} could not be written: {type(error).__name__}"
    else:
        if size <= protocol.MAX_RESULT:
            return result
        reason = f"{size} bytes are over {protocol.MAX_RESULT}"
    reason = shortened(reason, protocol.MAX_REASON)
    log.warn("job {id}: its result is dropped: {reason}", id=job_id, reason=printable(reason))
    return protocol.Dropped(reason)


def _written(value: Any) -> protocol.Result:
    """As it is now: the handler may go on to change what it returned. Nothing of a class of its own is left."""
    if isinstance(value, bytes):
        return value if type(value) is bytes else bytes(memoryview(value))
    if isinstance(value, str):
        return str.__str__(value)
    return protocol.Json.of(value)
