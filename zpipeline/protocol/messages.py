"""The messages of ZPP/1, as values, and what their frames look like. The package's docstring has it as a table."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

from zpipeline.histogram import Timings

MAGIC = b"\xf0ZPP"  # no UTF-8 text starts with it
VERSION = 1

#: What one JOBS message may hold: more goes into another.
MAX_JOBS_IN_MESSAGE = 1000
MAX_BYTES_IN_MESSAGE = 1 << 20  # of bodies, unless it holds one job alone

#: Bytes of a result, without the one that says of which kind it is.
MAX_RESULT = 1 << 20

#: Bytes of what FAILED says, and of a reason why there is no result: of more, some is left out.
MAX_REASON = 4 << 10
MAX_TRACEBACK = 64 << 10

#: The kinds of FAILED.
RETRY, REJECT = 0, 1
#: In FAILED: the ventilator chooses the delay.
NO_DELAY = -1.0


@frozen
class Hello:
    """The ventilator opens a session on a connection; a higher generation replaces a lower one.

    :ivar sink: where reports go, ``tcp://HOST:PORT``; a wildcard host stands for the message's own origin.
    :ivar window: the number of jobs that the ventilator keeps in flight here, come what may; None
        when it adapts, and the worker is to give back what waits too long.
    :ivar timeout: how many seconds an attempt may take; None: any time.
    """

    ventilator: int
    generation: int
    session: int
    sink: str
    window: int | None = None
    timeout: float | None = None


@frozen
class Jobs:
    """Jobs for the worker, as columns of one length."""

    session: int
    sequences: Sequence[int]
    attempts: Sequence[int]
    accepted_at: Sequence[float]
    headers: Sequence[Mapping[str, str]]
    bodies: Sequence[bytes]


@frozen
class Close:
    """The ventilator's answer to BYE once nothing is in flight at that worker."""

    session: int


@frozen
class Ready:
    """The worker takes part, from now on; said twice in a session, it gives up that session.

    :ivar concurrency: how many jobs it runs at once, at least 1.
    """

    session: int
    incarnation: int
    concurrency: int
    host: str
    pid: int
    handler: str
    version: str


@frozen
class Done:
    """These jobs have been run.

    :ivar results: empty, or one of each job: None, bytes, str, what JSON can hold in a `Json`, or why there is none in
        a `Dropped`.
    """

    session: int
    sequences: Sequence[int]
    results: Sequence[Result] = ()


@frozen
class Failed:
    """The handler of this job failed.

    :ivar kind: `RETRY` or `REJECT`.
    :ivar delay: seconds to wait before the next attempt; `NO_DELAY` leaves it to the ventilator.
    """

    session: int
    sequence: int
    kind: int
    delay: float
    reason: str
    traceback: str


@frozen
class Returned:
    """These jobs have not been begun, and will not be."""

    session: int
    sequences: Sequence[int]


@frozen
class State:
    """Each second: what the worker has counted in this session.

    :ivar concurrency: as in READY; it may change.
    :ivar received: jobs that arrived.
    :ivar sent: messages of DONE, FAILED and RETURNED that were sent before this one.
    :ivar timings: of the attempts that have ended; None from a worker that does not measure.
    :ivar held: how many jobs of the session it has and has not reported; None where it does not say.
    """

    session: int
    concurrency: int
    received: int
    sent: int
    timings: Timings | None = None
    held: int | None = None


@frozen
class Bye:
    """The worker is leaving: nothing new, please; it goes on with what it has."""

    session: int


@frozen
class Json:
    """A result that is neither bytes nor text: what JSON can hold.

    :ivar text: it, as JSON in UTF-8.
    """

    text: bytes

    @classmethod
    def of(cls, value: Any) -> Json:
        """This value.

        :raises TypeError: JSON cannot hold it.
        :raises ValueError: JSON cannot hold it.
        :raises RecursionError: it is nested too deeply.
        """
        return cls(to_json(value))

    @property
    def value(self) -> Any:
        """What it holds."""
        return json.loads(self.text)


@frozen
class Dropped:
    """In place of a result that the worker could not carry.

    :ivar reason: one line.
    """

    reason: str


Result: TypeAlias = "bytes | str | Json | Dropped | None"
ToWorker: TypeAlias = "Hello | Jobs | Close"
ToSink: TypeAlias = "Ready | Done | Failed | Returned | State | Bye"
Message: TypeAlias = "ToWorker | ToSink"
Frames: TypeAlias = "list[bytes]"


def to_json(value: Any) -> bytes:
    """JSON as the protocol has it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _head(letter: bytes) -> bytes:
    return MAGIC + bytes([VERSION]) + letter


HELLO, JOBS, CLOSE = map(_head, (b"H", b"J", b"C"))
READY, DONE, FAILED, RETURNED, STATE, BYE = map(_head, (b"R", b"D", b"F", b"T", b"S", b"B"))

U64 = struct.Struct("!Q")
TWO = struct.Struct("!QQ")
THREE = struct.Struct("!QQQ")
JOBS_START = struct.Struct("!QI")
JOB_COLUMNS = 8 + 2 + 8 + 4 + 4  # bytes of one job in the columns of JOBS
FAILURE = struct.Struct("!QQBd")
COUNTS = struct.Struct("!QIQQ")
