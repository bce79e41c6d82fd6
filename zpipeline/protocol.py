"""ZPP/1: frames to messages and back. Pure: no sockets, no clock.

docs/protocol.rst is the specification; this module is its wire format and nothing else (who
says what when is the business of `dispatch`, `pipeline` and `worker`).

A message is two frames or more. Frame 0 is the head: four bytes of magic, one of version, one of
type. All numbers are big-endian and unsigned unless said otherwise; text is UTF-8.

    type         frame 1                                       frames after it
    H HELLO      ventilator u64, generation u64, session u64   a JSON object: sink, window
    J JOBS       session u64, n u32, then columns (below)      the n bodies, end to end
    C CLOSE      session u64
    R READY      session u64, incarnation u64                  a JSON object: concurrency, host, pid, handler, version
    D DONE       session u64, n times u64                      none, or n results
    F FAILED     session u64, sequence u64, kind u8, f64       reason, traceback
    T RETURNED   session u64, n times u64
    S STATE      session u64, concurrency u32, received u64, sent u64
    B BYE        session u64

The columns of JOBS: n sequence numbers u64, n attempts u16, n times of acceptance f64, n body
lengths u32, n header lengths u32, then the headers, end to end, each a JSON object of str to str. A
header length of 0 repeats the headers of the job before it (of the first job: it has none).

Columns and one frame for all bodies, rather than a frame per body: libzmq and its bindings cost
some 3 microseconds a frame, which for small jobs is ten times what all the rest costs.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import isfinite
from types import MappingProxyType
from typing import Any, TypeAlias

from attrs import frozen

from zpipeline.errors import ProtocolError
from zpipeline.job import NO_HEADERS

MAGIC = b"\xf0ZPP"  # no UTF-8 text starts with it
VERSION = 1

#: What one JOBS message may hold: more goes into another.
MAX_JOBS_IN_MESSAGE = 1000
MAX_BYTES_IN_MESSAGE = 1 << 20  # of bodies, unless it holds one job alone

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
    """

    ventilator: int
    generation: int
    session: int
    sink: str
    window: int | None = None


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

    :ivar results: empty, or one of each job: None, bytes, str, or what JSON can hold in a `Json`.
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
    """

    session: int
    concurrency: int
    received: int
    sent: int


@frozen
class Bye:
    """The worker is leaving: nothing new, please; it goes on with what it has."""

    session: int


@frozen
class Json:
    """A result that is neither bytes nor text: what JSON can hold."""

    value: Any


Result: TypeAlias = "bytes | str | Json | None"
ToWorker: TypeAlias = "Hello | Jobs | Close"
ToSink: TypeAlias = "Ready | Done | Failed | Returned | State | Bye"
Message: TypeAlias = "ToWorker | ToSink"
Frames: TypeAlias = "list[bytes]"


def _head(letter: bytes) -> bytes:
    return MAGIC + bytes([VERSION]) + letter


_HELLO, _JOBS, _CLOSE = map(_head, (b"H", b"J", b"C"))
_READY, _DONE, _FAILED, _RETURNED, _STATE, _BYE = map(_head, (b"R", b"D", b"F", b"T", b"S", b"B"))

_U64 = struct.Struct("!Q")
_TWO = struct.Struct("!QQ")
_THREE = struct.Struct("!QQQ")
_JOBS_START = struct.Struct("!QI")
_JOB_COLUMNS = 8 + 2 + 8 + 4 + 4  # bytes of one job in the columns of JOBS
_FAILURE = struct.Struct("!QQBd")
_COUNTS = struct.Struct("!QIQQ")

_SINK = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.*-]+):([0-9]{1,5})", re.ASCII)


def is_plain(frames: Sequence[bytes]) -> bool:
    """Whether this is no message of ZPP, of any version, but a plain ZeroMQ job."""
    return not frames[0].startswith(MAGIC)


# Writing


def encode(message: Message) -> Frames:
    """The frames of any message but JOBS, for which there is `encode_jobs`.

    :raises TypeError: it is no such message, or a result is nothing that JSON can hold.
    :raises ValueError: a result is nothing that JSON can hold.
    """
    match message:
        case Hello():
            limits = _json_bytes({"sink": message.sink, "window": message.window})
            return [_HELLO, _THREE.pack(message.ventilator, message.generation, message.session), limits]
        case Close():
            return [_CLOSE, _U64.pack(message.session)]
        case Ready():
            about = _json_bytes(
                {
                    "concurrency": message.concurrency,
                    "host": message.host,
                    "pid": message.pid,
                    "handler": message.handler,
                    "version": message.version,
                }
            )
            return [_READY, _TWO.pack(message.session, message.incarnation), about]
        case Done():
            return [_DONE, _numbers(message.session, message.sequences), *map(_result_bytes, message.results)]
        case Failed():
            start = _FAILURE.pack(message.session, message.sequence, message.kind, message.delay)
            return [_FAILED, start, _text_bytes(message.reason), _text_bytes(message.traceback)]
        case Returned():
            return [_RETURNED, _numbers(message.session, message.sequences)]
        case State():
            return [_STATE, _COUNTS.pack(message.session, message.concurrency, message.received, message.sent)]
        case Bye():
            return [_BYE, _U64.pack(message.session)]
    raise TypeError(f"encode() does not take {type(message).__name__}")


def encode_jobs(
    session: int,
    sequences: Sequence[int],
    attempts: Sequence[int],
    accepted_at: Sequence[float],
    headers: Sequence[bytes],
    bodies: Sequence[bytes],
) -> Frames:
    """The frames of JOBS; `headers` are written already (`zpipeline.job.encode_headers`)."""
    n = len(sequences)
    previous: bytes | None = None
    blobs = []
    for blob in headers:
        blobs.append(b"" if blob == previous else blob)
        previous = blob
    columns = struct.pack(
        f"!QI{n}Q{n}H{n}d{n}I{n}I",
        session,
        n,
        *sequences,
        *attempts,
        *accepted_at,
        *map(len, bodies),
        *map(len, blobs),
    )
    return [_JOBS, columns + b"".join(blobs), b"".join(bodies)]


def _numbers(session: int, sequences: Sequence[int]) -> bytes:
    return struct.pack(f"!{1 + len(sequences)}Q", session, *sequences)


def _json_bytes(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _result_bytes(result: Result) -> bytes:
    match result:
        case None:
            return b""
        case bytes():
            return b"b" + result
        case str():
            return b"t" + _text_bytes(result)
        case Json():
            return b"j" + _json_bytes(result.value)
    raise TypeError(f"a result is not {type(result).__name__}")


# Reading


def decode_for_worker(frames: Sequence[bytes]) -> ToWorker:
    """The message that a worker was sent.

    :raises ProtocolError: it breaks the protocol, or is not for a worker.
    """
    message: ToWorker = _decode(frames, _FOR_WORKER, "a worker")
    return message


def decode_for_sink(frames: Sequence[bytes]) -> ToSink:
    """The message that a sink was sent.

    :raises ProtocolError: it breaks the protocol, or is not for a sink.
    """
    message: ToSink = _decode(frames, _FOR_SINK, "a sink")
    return message


def _decode(frames: Sequence[bytes], readers: Mapping[bytes, Callable[..., Any]], receiver: str) -> Any:
    reader = readers.get(frames[0])
    if reader is None:
        raise ProtocolError(_why_unknown(frames[0], receiver))
    try:
        return reader(*frames[1:])
    except (struct.error, TypeError, ValueError, RecursionError) as error:
        # TypeError: the reader takes another number of frames. ValueError: so do UTF-8 and JSON complain.
        raise ProtocolError(f"a malformed message of type {_letter(frames[0])}: {error}") from None


def _why_unknown(head: bytes, receiver: str) -> str:
    if not head.startswith(MAGIC):
        return "not a message of ZPP"
    if head[len(MAGIC) : -1] != bytes([VERSION]):
        return f"not version {VERSION} of ZPP (its head is {head[:16]!r})"
    return f"type {_letter(head)} is nothing for {receiver}"


def _letter(head: bytes) -> str:
    return repr(head[-1:])[1:]


def _read_hello(start: bytes, limits: bytes) -> Hello:
    ventilator, generation, session = _THREE.unpack(start)
    about = _object(limits)
    window = about.get("window")
    return Hello(
        ventilator,
        generation,
        session,
        _address(_field(about, "sink", str)),
        None if window is None else _positive(about, "window"),
    )


def _read_jobs(columns: bytes, blob: bytes) -> Jobs:
    session, n = _JOBS_START.unpack_from(columns)
    if not 1 <= n <= MAX_JOBS_IN_MESSAGE:
        raise ValueError(f"{n} jobs, where 1 to {MAX_JOBS_IN_MESSAGE} are allowed")
    numbers = struct.unpack_from(f"!{n}Q{n}H{n}d{n}I{n}I", columns, _JOBS_START.size)
    attempts = numbers[n : 2 * n]
    if not all(attempts):
        raise ValueError("an attempt of number 0")
    accepted_at = numbers[2 * n : 3 * n]
    if not all(map(isfinite, accepted_at)):
        raise ValueError("a time of acceptance is no number")
    bodies = _cut(blob, numbers[3 * n : 4 * n], 0)
    headers: list[Mapping[str, str]] = []
    last = NO_HEADERS
    for piece in _cut(columns, numbers[4 * n :], _JOBS_START.size + n * _JOB_COLUMNS):
        if piece:
            last = _headers(piece)
        headers.append(last)
    return Jobs(session, numbers[:n], attempts, accepted_at, headers, bodies)


def _read_close(start: bytes) -> Close:
    return Close(*_U64.unpack(start))


def _read_ready(start: bytes, about_bytes: bytes) -> Ready:
    session, incarnation = _TWO.unpack(start)
    about = _object(about_bytes)
    return Ready(
        session,
        incarnation,
        concurrency=_positive(about, "concurrency"),
        host=_field(about, "host", str),
        pid=_positive(about, "pid"),
        handler=_field(about, "handler", str),
        version=_field(about, "version", str),
    )


def _read_done(numbers: bytes, *results: bytes) -> Done:
    session, *sequences = _read_numbers(numbers)
    if results and len(results) != len(sequences):
        raise ValueError(f"{len(results)} results of {len(sequences)} jobs")
    return Done(session, sequences, tuple(map(_read_result, results)))


def _read_failed(start: bytes, reason: bytes, traceback: bytes) -> Failed:
    session, sequence, kind, delay = _FAILURE.unpack(start)
    if kind not in (RETRY, REJECT):
        raise ValueError(f"there is no kind {kind} of failure")
    if not (delay == NO_DELAY or (isfinite(delay) and delay >= 0)):
        raise ValueError(f"{delay} is no delay")
    return Failed(session, sequence, kind, delay, reason.decode(), traceback.decode())


def _read_returned(numbers: bytes) -> Returned:
    session, *sequences = _read_numbers(numbers)
    return Returned(session, sequences)


def _read_state(start: bytes) -> State:
    state = State(*_COUNTS.unpack(start))
    if state.concurrency < 1:
        raise ValueError("a concurrency of 0")
    return state


def _read_bye(start: bytes) -> Bye:
    return Bye(*_U64.unpack(start))


def _read_numbers(packed: bytes) -> tuple[int, ...]:
    n = len(packed) // 8
    if n < 2:
        raise ValueError("it names no job")
    return struct.unpack(f"!{n}Q", packed)


def _read_result(packed: bytes) -> Result:
    kind, rest = packed[:1], packed[1:]
    match kind:
        case b"":
            return None
        case b"b":
            return rest
        case b"t":
            return rest.decode()
        case b"j":
            return Json(_load(rest))
    raise ValueError(f"there is no kind {kind!r} of result")


def _cut(packed: bytes, lengths: Sequence[int], start: int) -> list[bytes]:
    ends = list(accumulate(lengths, initial=start))
    if ends[-1] != len(packed):
        raise ValueError(f"{len(packed)} bytes where its lengths say {ends[-1]}")
    return [packed[begin:end] for begin, end in pairwise(ends)]


@lru_cache(maxsize=1024)
def _headers(packed: bytes) -> Mapping[str, str]:
    headers = _object(packed)
    if not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("headers that are not str to str")
    return MappingProxyType(headers)


def _object(packed: bytes) -> dict[str, Any]:
    value = _load(packed)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _load(packed: bytes) -> Any:
    """JSON as RFC 8259 has it: `json.loads` also takes UTF-16, NaN, and strings that UTF-8 cannot hold."""
    value = _JSON.decode(packed.decode())
    if b"\\u" in packed:
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair does not encode
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def _address(sink: str) -> str:
    match = _SINK.fullmatch(sink)
    if match is None or not 1 <= int(match[1]) < 1 << 16:
        raise ValueError(f"the sink is no tcp://HOST:PORT: {sink!r:.100}")
    return sink


def _field(about: Mapping[str, Any], name: str, kind: type) -> Any:
    value = about.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name!r} is not {kind.__name__}: {value!r:.100}")
    return value


def _positive(about: Mapping[str, Any], name: str) -> int:
    value: int = _field(about, name, int)
    if not 1 <= value < 1 << 32:
        raise ValueError(f"{name!r} is out of range: {value}")
    return value


_FOR_WORKER: Mapping[bytes, Callable[..., Any]] = {_HELLO: _read_hello, _JOBS: _read_jobs, _CLOSE: _read_close}
_FOR_SINK: Mapping[bytes, Callable[..., Any]] = {
    _READY: _read_ready,
    _DONE: _read_done,
    _FAILED: _read_failed,
    _RETURNED: _read_returned,
    _STATE: _read_state,
    _BYE: _read_bye,
}
