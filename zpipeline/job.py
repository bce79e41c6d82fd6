"""A job as its handler sees it, and the names under which jobs are known."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from sys import float_info
from types import MappingProxyType
from typing import Any

from attrs import frozen

from zpipeline.errors import UsageError, ZpipelineError

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_WORD = 16  # hexadecimal digits of a 64-bit number


def make_id(ventilator: int, sequence: int) -> str:
    """The id of a job: 32 hexadecimal digits, 16 of its ventilator and 16 of its sequence number.

    Ids are URL-safe, of one length, never used twice, and those of one ventilator sort by acceptance.
    """
    return f"{ventilator:016x}{sequence:016x}"


def make_ids(ventilator: int, sequences: Sequence[int]) -> list[str]:
    """The ids of many jobs."""
    start, count = f"{ventilator:016x}", len(sequences)
    ends = struct.pack(f"!{count}Q", *sequences).hex()
    return [start + ends[at : at + _WORD] for at in range(0, count * _WORD, _WORD)]


def parse_id(job_id: str) -> tuple[int, int] | None:
    """The ventilator and the sequence number of an id; None when it is no id."""
    if len(job_id) != 2 * _WORD or not set(job_id) <= set("0123456789abcdef"):
        return None
    return int(job_id[:_WORD], 16), int(job_id[_WORD:], 16)


#: Bytes of a job's headers, packed: those of a message full of jobs fit into a ZeroMQ frame.
MAX_HEADERS = 1 << 16


def encode_headers(headers: Mapping[str, str] | None) -> bytes:
    """Headers as they travel and are kept: a JSON object, its names in lower case.

    :raises UsageError: a name or value is not a str, or a name comes twice but for its case, or they are too long.
    """
    return _encode_headers(tuple(headers.items())) if headers else b"{}"


@lru_cache(256)  # most jobs have those of another
def _encode_headers(headers: tuple[tuple[str, str], ...]) -> bytes:
    lowered: dict[str, str] = {}
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"headers are str to str, not {type(name).__name__} to {type(value).__name__}: {name!r}")
        if name.lower() in lowered:
            raise UsageError(f"the header {name.lower()!r} comes twice: join its values by ', '")
        lowered[name.lower()] = value
    try:
        packed = json.dumps(lowered, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"headers must be text that UTF-8 can hold: {error}") from None
    if len(packed) > MAX_HEADERS:
        raise UsageError(f"headers of {len(packed)} bytes: {MAX_HEADERS} are allowed, put what is long into the body")
    return packed


def check_bodies(bodies: Iterable[object]) -> None:
    """See that they can be bodies.

    :raises UsageError: one of them is not bytes.
    """
    for kind in set(map(type, bodies)):
        if not issubclass(kind, bytes):
            raise UsageError(f"a job's body is bytes, not {kind.__name__}: encode it first")


class Job:
    """One job, as a handler gets it.

    :ivar body: the job's content (bytes).
    :ivar frames: all frames of the message (tuple of bytes): ``(body,)`` but for plain ZeroMQ
        multipart messages, of which ``body`` is the last frame.
    :ivar headers: str to str, names in lower case; read-only.
    :ivar attempt: 1 for the first time that the job is tried.
    :ivar accepted_at: when the job was accepted, in seconds since the epoch (for plain jobs: when
        the worker received it).
    :ivar key: what its id is made of: the ventilator's number and the job's own.
    :ivar delivery: how it came to its worker, which alone has a use for it (`zpipeline.runner.Delivery`).
    """

    __slots__ = ("_frames", "accepted_at", "attempt", "body", "delivery", "headers", "key")

    def __init__(
        self,
        key: tuple[int, int],
        body: bytes,
        headers: Mapping[str, str] = NO_HEADERS,
        attempt: int = 1,
        accepted_at: float = 0.0,
        frames: tuple[bytes, ...] | None = None,
        delivery: Any = None,
    ) -> None:
        self.key = key
        self.body = body
        self.headers = headers
        self.attempt = attempt
        self.accepted_at = accepted_at
        self._frames = frames
        self.delivery = delivery

    @property
    def frames(self) -> tuple[bytes, ...]:
        """All frames of the message."""
        return (self.body,) if self._frames is None else self._frames

    @property
    def id(self) -> str:
        """The job's name, the same in every attempt: 32 characters, see :func:`make_id`."""
        return make_id(*self.key)

    def json(self) -> Any:
        """The body, read as JSON.

        :raises json.JSONDecodeError: it is not JSON.
        :raises UnicodeDecodeError: it is not text.
        """
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Job {self.id} attempt {self.attempt}, {len(self.body)} bytes>"


@frozen
class JobStatus:
    """What is known of a job, when somebody asks.

    :ivar state: ``"waiting"``, ``"in flight"``, ``"retrying"`` (it failed and waits for its next
        attempt), ``"done"`` or ``"dead"``.
    :ivar attempts: which attempt it is at, or was settled by: 1 until its handler has failed once.
    :ivar accepted_at: in seconds since the epoch.
    :ivar settled_at: when it was done or dead, in seconds since the epoch; None before.
    :ivar error: why its last attempt failed; None when none did.
    """

    id: str
    state: str
    attempts: int
    accepted_at: float
    settled_at: float | None
    error: str | None


@frozen
class DeadLetterSummary:
    """A job that will not be tried again, unless somebody wants it to be.

    :ivar accepted_at: in seconds since the epoch.
    :ivar settled_at: when it died, in seconds since the epoch.
    :ivar attempts: how many attempts there were.
    :ivar strikes: how many worker processes died while it was there alone.
    :ivar handler: which handler its last attempt was made by, as the worker names it.
    :ivar error: why the last attempt failed, one line.
    :ivar size: of its body, in bytes.
    """

    id: str
    accepted_at: float
    settled_at: float
    attempts: int
    strikes: int
    handler: str
    error: str
    size: int


@frozen
class DeadLetter:
    """All of a job that will not be tried again, unless somebody wants it to be.

    :ivar traceback: of the last attempt; empty where there is none.
    """

    summary: DeadLetterSummary
    body: bytes
    headers: Mapping[str, str]
    traceback: str


class Reject(ZpipelineError):
    """Raised by a handler: this job will never succeed. It becomes a dead letter at once.

    :param reason: for whoever reads the dead letter.
    """


class RetryLater(ZpipelineError):
    """Raised by a handler: not now. The attempt has failed, and the next one is made after this time.

    :param seconds: to wait, 0 or more, in place of the backoff.
    :param reason: for the log, and for whoever reads the dead letter if this was the last attempt.
    :ivar seconds: as given.
    :raises UsageError: it is no number of seconds.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not (isinstance(seconds, int | float) and 0 <= seconds <= float_info.max):
            raise UsageError(f"RetryLater takes a number of seconds, 0 or more, not {seconds!r}")
        super().__init__(reason or f"asks to be tried again in {seconds:g} seconds")
        self.seconds = float(seconds)
