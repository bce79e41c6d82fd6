"""Frames to messages: whatever comes, it is a message or a `ProtocolError`."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import isfinite
from sys import float_info
from types import MappingProxyType
from typing import Any

from zpipeline.errors import ProtocolError
from zpipeline.histogram import SECONDS, Histogram, Timings
from zpipeline.job import NO_HEADERS
from zpipeline.protocol.messages import (
    BYE,
    CLOSE,
    COUNTS,
    DONE,
    FAILED,
    FAILURE,
    HELLO,
    JOB_COLUMNS,
    JOBS,
    JOBS_START,
    MAGIC,
    MAX_JOBS_IN_MESSAGE,
    MAX_REASON,
    MAX_TRACEBACK,
    NO_DELAY,
    READY,
    REJECT,
    RETRY,
    RETURNED,
    STATE,
    THREE,
    TWO,
    U64,
    VERSION,
    Bye,
    Close,
    Done,
    Dropped,
    Failed,
    Hello,
    Jobs,
    Json,
    Ready,
    Result,
    Returned,
    State,
    ToSink,
    ToWorker,
)
from zpipeline.text import shortened

_SINK = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.*-]+):([0-9]{1,5})", re.ASCII)


def is_plain(frames: Sequence[bytes]) -> bool:
    """Whether this is no message of ZPP, of any version, but a plain ZeroMQ job."""
    return not frames[0].startswith(MAGIC)


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
    ventilator, generation, session = THREE.unpack(start)
    about = _object(limits)
    window = about.get("window")
    return Hello(
        ventilator,
        generation,
        session,
        _address(_field(about, "sink", str)),
        None if window is None else _positive(about, "window"),
        _seconds(about, "timeout"),
    )


def _read_jobs(columns: bytes, blob: bytes) -> Jobs:
    session, n = JOBS_START.unpack_from(columns)
    if not 1 <= n <= MAX_JOBS_IN_MESSAGE:
        raise ValueError(f"{n} jobs, where 1 to {MAX_JOBS_IN_MESSAGE} are allowed")
    numbers = struct.unpack_from(f"!{n}Q{n}H{n}d{n}I{n}I", columns, JOBS_START.size)
    attempts = numbers[n : 2 * n]
    if not all(attempts):
        raise ValueError("an attempt of number 0")
    accepted_at = numbers[2 * n : 3 * n]
    if not all(map(isfinite, accepted_at)):
        raise ValueError("a time of acceptance is no number")
    bodies = _cut(blob, numbers[3 * n : 4 * n], 0)
    headers = _headers_of_all(columns, numbers[4 * n :])
    return Jobs(session, numbers[:n], attempts, accepted_at, headers, bodies)


def _headers_of_all(columns: bytes, lengths: Sequence[int]) -> list[Mapping[str, str]]:
    """A job without headers of its own has those of the job before it."""
    pieces = _cut(columns, [length for length in lengths if length], JOBS_START.size + len(lengths) * JOB_COLUMNS)
    if len(pieces) == 1 and lengths[0]:
        return [_headers(pieces[0])] * len(lengths)
    own = iter(pieces)
    headers: list[Mapping[str, str]] = []
    last = NO_HEADERS
    for length in lengths:
        if length:
            last = _headers(next(own))
        headers.append(last)
    return headers


def _read_close(start: bytes) -> Close:
    return Close(*U64.unpack(start))


def _read_ready(start: bytes, about_bytes: bytes) -> Ready:
    session, incarnation = TWO.unpack(start)
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
    return Done(session, sequences, tuple(map(_result, results)))


def _result(packed: bytes) -> Result:
    """A result, or, if it cannot be read, why not: all these jobs have been run all the same."""
    try:
        result = unpack_result(packed)
    except (ValueError, RecursionError) as error:
        return Dropped(f"what its worker has sent for it cannot be read: {shortened(str(error), MAX_REASON // 2)}")
    return Dropped(shortened(result.reason, MAX_REASON)) if isinstance(result, Dropped) else result


def _read_failed(start: bytes, reason: bytes, traceback: bytes) -> Failed:
    session, sequence, kind, delay = FAILURE.unpack(start)
    if kind not in (RETRY, REJECT):
        raise ValueError(f"there is no kind {kind} of failure")
    if not (isfinite(delay) and delay >= 0):
        delay = NO_DELAY  # whatever else it says: the attempt has failed
    return Failed(session, sequence, kind, delay, _text(reason, MAX_REASON), _text(traceback, MAX_TRACEBACK))


def _text(packed: bytes, most: int) -> str:
    """What tells people why an attempt has failed: it may be no UTF-8, and longer than there is room for."""
    return shortened(packed.decode("utf-8", "backslashreplace"), most)


def _read_returned(numbers: bytes) -> Returned:
    session, *sequences = _read_numbers(numbers)
    return Returned(session, sequences)


def _read_state(start: bytes, *measured: bytes) -> State:
    session, concurrency, received, sent = COUNTS.unpack(start)
    if concurrency < 1:
        raise ValueError("a concurrency of 0")
    if not measured:
        return State(session, concurrency, received, sent)
    (packed,) = measured
    about = _object(packed)
    timings = Timings(_times(about, "start"), _times(about, "run")) if about.keys() & {"start", "run"} else None
    held = about.get("held")
    if held is not None and not (type(held) is int and 0 <= held < 1 << 64):
        raise ValueError(f"'held' is no number of jobs: {held!r:.100}")
    return State(session, concurrency, received, sent, timings, held)


def _times(about: Mapping[str, Any], name: str) -> Histogram:
    times = _field(about, name, dict)
    counts = _field(times, "counts", list)
    if len(counts) != len(SECONDS) + 1:
        raise ValueError(f"{name!r} has {len(counts)} counts, where {len(SECONDS) + 1} belong")
    if not all(type(count) is int and 0 <= count < 1 << 64 for count in counts):
        raise ValueError(f"{name!r} has counts that are none")
    total = times.get("sum")
    if type(total) not in (int, float) or not 0 <= total <= float_info.max:
        raise ValueError(f"the sum of {name!r} is no number of seconds: {total!r:.100}")
    return Histogram(counts=counts, sum=float(total))


def _read_bye(start: bytes) -> Bye:
    return Bye(*U64.unpack(start))


def _read_numbers(packed: bytes) -> tuple[int, ...]:
    n = len(packed) // 8
    if n < 2:
        raise ValueError("it names no job")
    return struct.unpack(f"!{n}Q", packed)


def unpack_result(packed: bytes) -> Result:
    """A result that `zpipeline.protocol.pack_result` may have packed.

    :raises ValueError: it breaks the protocol.
    :raises RecursionError: it is nested too deeply.
    """
    kind, rest = packed[:1], packed[1:]
    match kind:
        case b"":
            return None
        case b"b":
            return rest
        case b"t":
            return rest.decode()
        case b"j":
            _load(rest, _RESULT)
            return Json(rest)
        case b"d":
            return Dropped(rest.decode())
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


def _load(packed: bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """JSON as RFC 8259 has it: `json.loads` also takes UTF-16, NaN, and strings that UTF-8 cannot hold."""
    value = (decoder or _JSON).decode(packed.decode())
    if b"\\u" in packed:
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair does not encode
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"{digits:.100} is out of range")
    return number


_JSON = json.JSONDecoder(parse_constant=_no_number)
_RESULT = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)  # who gets it writes it as JSON again


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


def _seconds(about: Mapping[str, Any], name: str) -> float | None:
    value = about.get(name)
    if value is None:
        return None
    # JSON has numbers that no float holds: 1e999 is read as infinity, and an integer may have any size
    if type(value) not in (int, float) or not 0 < value <= float_info.max:
        raise ValueError(f"{name!r} is no number of seconds above 0: {value!r:.100}")
    return float(value)


_FOR_WORKER: Mapping[bytes, Callable[..., Any]] = {HELLO: _read_hello, JOBS: _read_jobs, CLOSE: _read_close}
_FOR_SINK: Mapping[bytes, Callable[..., Any]] = {
    READY: _read_ready,
    DONE: _read_done,
    FAILED: _read_failed,
    RETURNED: _read_returned,
    STATE: _read_state,
    BYE: _read_bye,
}
