"""The handler of the demo's workers: it leaves a record of each job that outlives its process.

A line is written by one system call, before anything else happens: a process that is killed takes no line with it.
"""

from __future__ import annotations

import os
from functools import cache
from time import monotonic_ns

from zpipeline.job import Job

#: The name of the record, in the working directory of the worker.
RECORD = "record"


def record(job: Job) -> None:
    """Write down that the job begins, and that it ends: ``begin ID TIME`` and ``end ID TIME``.

    TIME is in nanoseconds, of the clock that all processes of one machine share.
    """
    write, file, job_id = os.write, _file(), job.id
    write(file, f"begin {job_id} {monotonic_ns()}\n".encode("ascii"))
    write(file, f"end {job_id} {monotonic_ns()}\n".encode("ascii"))


@cache
def _file() -> int:
    return os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
