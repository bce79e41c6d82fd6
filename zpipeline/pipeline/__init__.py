"""`Pipeline`: the ventilator, to be embedded in a web application or run by ``twistd zpipe-web``.

Its parts are nobody else's:

    service.py    what users call, and starting and stopping
    gathering.py  single pushes, those of one turn as one
    waiting.py    who waits for jobs to be settled
    jobs.py       all unsettled jobs: those in memory, and those in the store alone
    results.py    what handlers have returned
    sessions.py   the workers: links, sessions, messages
    sending.py    jobs as messages
    setting.py    what is done when the system's clock is set
"""

from zpipeline.pipeline.service import (
    ATTEMPTS,
    BACKOFF,
    DEFAULT_JOURNAL,
    DEFAULT_SINK,
    DEFAULT_WORKERS,
    DRAIN,
    KEEP,
    MAX_BODY,
    MAX_PENDING,
    MAX_PENDING_IN_MEMORY,
    Pipeline,
)

__all__ = [
    "ATTEMPTS",
    "BACKOFF",
    "DEFAULT_JOURNAL",
    "DEFAULT_SINK",
    "DEFAULT_WORKERS",
    "DRAIN",
    "KEEP",
    "MAX_BODY",
    "MAX_PENDING",
    "MAX_PENDING_IN_MEMORY",
    "Pipeline",
]
