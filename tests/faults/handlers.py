"""Handlers that write down what they run, in files of their own: what a test counts.

Each line is one write: ``begin ID BODY`` before a job and ``end ID`` after it. $RECORD is the file.
A body of digits and a point is the time that its job takes, in seconds; else it is $SECONDS. While there is a file
named $RECORD.slow, all other jobs take a second.
"""

import os
import time

_file = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_slow = os.environ["RECORD"] + ".slow"
_seconds = float(os.environ.get("SECONDS", "0"))


def begin(job):
    """Write that the job begins: how long it takes, in seconds."""
    text = job.body.decode("latin-1")[:100]
    os.write(_file, f"begin {job.id} {text}\n".encode())
    if text.replace(".", "", 1).isdigit():
        return float(text)
    return 1.0 if os.path.exists(_slow) else _seconds


def end(job):
    """Write that the job has ended."""
    os.write(_file, f"end {job.id}\n".encode())


def record(job):
    """A plain handler, which blocks the reactor."""
    seconds = begin(job)
    if seconds:
        time.sleep(seconds)
    end(job)


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
