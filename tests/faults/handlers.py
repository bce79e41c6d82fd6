"""Handlers that write down what they run, in files of their own: what a test counts.

Each line is one write: ``TIME begin ID BODY`` before a job and ``TIME end ID`` after it, the time by the monotonic
clock. $RECORD is the file. `tests.faults.bodies` says what bodies make them do. A job takes $SECONDS, unless its body
says otherwise; while there is a file named $RECORD.slow, a second.
"""

import os
import time
from threading import Event

from tests.faults.bodies import Later, act, seconds_of
from zpipeline import RetryLater

_record = os.environ["RECORD"]
_file = os.open(_record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_seconds = float(os.environ.get("SECONDS", "0"))


def begin(job):
    """Write that the job begins, and do what its body says: how long it takes, in seconds."""
    text = job.body.decode("latin-1")[:100]
    os.write(_file, f"{time.monotonic():.6f} begin {job.id} {text}\n".encode())
    try:
        act(_record, job.id, text)
    except Later as error:
        raise RetryLater(error.delay) from None
    seconds = seconds_of(text)
    if seconds is not None:
        return seconds
    return 1.0 if os.path.exists(_record + ".slow") else _seconds


def end(job):
    """Write that the job has ended."""
    os.write(_file, f"{time.monotonic():.6f} end {job.id}\n".encode())


def record(job):
    """A plain handler, which blocks the reactor."""
    seconds = begin(job)
    if seconds:
        Event().wait(seconds)  # as time.sleep, which does not work with libfaketime
    end(job)


def echo(job):
    """As `record`, with the body for a result."""
    record(job)
    return job.body


def large_result(job):
    """As `record`, with a result of 100 kB."""
    record(job)
    return b"x" * 100_000


async def record_async(job):
    """An asynchronous handler."""
    from twisted.internet import reactor, task

    seconds = begin(job)
    await task.deferLater(reactor, seconds)
    end(job)


def record_deferred(job):
    """A plain function that returns a Deferred."""
    from twisted.internet import reactor, task

    return task.deferLater(reactor, begin(job), end, job)
