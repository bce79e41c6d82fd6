"""Messages to frames."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from zpipeline.histogram import Timings
from zpipeline.protocol.messages import (
    BYE,
    CLOSE,
    COUNTS,
    DONE,
    FAILED,
    FAILURE,
    HELLO,
    JOBS,
    READY,
    RETURNED,
    STATE,
    THREE,
    TWO,
    U64,
    Bye,
    Close,
    Done,
    Dropped,
    Failed,
    Frames,
    Hello,
    Json,
    Message,
    Ready,
    Result,
    Returned,
    State,
    to_json,
)


def encode(message: Message) -> Frames:
    """The frames of any message but JOBS, for which there is `encode_jobs`.

    :raises TypeError: it is no such message, or a result is none of `Result`.
    """
    match message:
        case Hello():
            limits = to_json({"sink": message.sink, "window": message.window, "timeout": message.timeout})
            return [HELLO, THREE.pack(message.ventilator, message.generation, message.session), limits]
        case Close():
            return [CLOSE, U64.pack(message.session)]
        case Ready():
            about = to_json(
                {
                    "concurrency": message.concurrency,
                    "host": message.host,
                    "pid": message.pid,
                    "handler": message.handler,
                    "version": message.version,
                }
            )
            return [READY, TWO.pack(message.session, message.incarnation), about]
        case Done():
            return [DONE, _numbers(message.session, message.sequences), *map(pack_result, message.results)]
        case Failed():
            start = FAILURE.pack(message.session, message.sequence, message.kind, message.delay)
            return [FAILED, start, _text_bytes(message.reason), _text_bytes(message.traceback)]
        case Returned():
            return [RETURNED, _numbers(message.session, message.sequences)]
        case State():
            counts = COUNTS.pack(message.session, message.concurrency, message.received, message.sent)
            counted = {} if message.timings is None else _timings(message.timings)
            if message.held is not None:
                counted["held"] = message.held
            return [STATE, counts, to_json(counted)] if counted else [STATE, counts]
        case Bye():
            return [BYE, U64.pack(message.session)]
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
    return [JOBS, columns + b"".join(blobs), b"".join(bodies)]


def pack_result(result: Result) -> bytes:
    """A result as it travels and is kept: its kind, and what it is.

    :raises TypeError: it is none.
    """
    match result:
        case None:
            return b""
        case bytes():
            return b"b" + result
        case str():
            return b"t" + _text_bytes(result)
        case Json():
            return b"j" + result.text
        case Dropped():
            return b"d" + _text_bytes(result.reason)
    raise TypeError(f"a result is not {type(result).__name__}")


def _numbers(session: int, sequences: Sequence[int]) -> bytes:
    return struct.pack(f"!{1 + len(sequences)}Q", session, *sequences)


def _timings(timings: Timings) -> dict[str, object]:
    both = {"start": timings.start, "run": timings.run}
    return {name: {"counts": times.counts, "sum": times.sum} for name, times in both.items()}


def _text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
