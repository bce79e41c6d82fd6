"""ZPP/1: frames to messages and back. Pure: no sockets, no clock.

docs/protocol.rst is the specification; this module is its wire format and nothing else (who
says what when is the business of `dispatch`, `pipeline` and `worker`).

A message is two frames or more. Frame 0 is the head: four bytes of magic, one of version, one of
type. All numbers are big-endian and unsigned unless said otherwise; text is UTF-8.

    type         frame 1                                       frames after it
    H HELLO      ventilator u64, generation u64, session u64   a JSON object: sink, window, timeout
    J JOBS       session u64, n u32, then columns (below)      the n bodies, end to end
    C CLOSE      session u64
    R READY      session u64, incarnation u64                  a JSON object: concurrency, host, pid, handler, version
    D DONE       session u64, n times u64                      none, or n results
    F FAILED     session u64, sequence u64, kind u8, f64       reason, traceback
    T RETURNED   session u64, n times u64
    S STATE      session u64, concurrency u32, received u64, sent u64   none, or a JSON object: start, run, held
    B BYE        session u64

The columns of JOBS: n sequence numbers u64, n attempts u16, n times of acceptance f64, n body
lengths u32, n header lengths u32, then the headers, end to end, each a JSON object of str to str. A
header length of 0 repeats the headers of the job before it (of the first job: it has none).

Columns and one frame for all bodies, rather than a frame per body: libzmq and its bindings cost
some 3 microseconds a frame, which for small jobs is ten times what all the rest costs.
"""

from zpipeline.protocol.messages import (
    MAGIC,
    MAX_BYTES_IN_MESSAGE,
    MAX_JOBS_IN_MESSAGE,
    MAX_REASON,
    MAX_RESULT,
    MAX_TRACEBACK,
    NO_DELAY,
    REJECT,
    RETRY,
    VERSION,
    Bye,
    Close,
    Done,
    Dropped,
    Failed,
    Frames,
    Hello,
    Jobs,
    Json,
    Message,
    Ready,
    Result,
    Returned,
    State,
    ToSink,
    ToWorker,
)
from zpipeline.protocol.reading import decode_for_sink, decode_for_worker, is_plain, unpack_result
from zpipeline.protocol.writing import encode, encode_jobs, pack_result

__all__ = [
    "MAGIC",
    "MAX_BYTES_IN_MESSAGE",
    "MAX_JOBS_IN_MESSAGE",
    "MAX_REASON",
    "MAX_RESULT",
    "MAX_TRACEBACK",
    "NO_DELAY",
    "REJECT",
    "RETRY",
    "VERSION",
    "Bye",
    "Close",
    "Done",
    "Dropped",
    "Failed",
    "Frames",
    "Hello",
    "Jobs",
    "Json",
    "Message",
    "Ready",
    "Result",
    "Returned",
    "State",
    "ToSink",
    "ToWorker",
    "decode_for_sink",
    "decode_for_worker",
    "encode",
    "encode_jobs",
    "is_plain",
    "pack_result",
    "unpack_result",
]
