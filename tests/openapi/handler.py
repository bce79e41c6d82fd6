"""A handler that returns one of each kind of result, and fails where a job's body says so."""

from twisted.internet.defer import Deferred

from zpipeline import Reject

_RESULTS = {
    b"bytes": b"\x00\xff",
    b"text": "text",
    b"json": {"a": [1, None]},
    b"too_large": b"x" * (1 << 20) + b"x",
}


def handle(job):
    """What the body asks for; what it does not know is left alone."""
    if job.body in (b"reject", b"\xff"):
        raise Reject("as it was told to")
    if job.body == b"wait":
        return Deferred()
    return _RESULTS.get(job.body)
