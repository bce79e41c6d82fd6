"""The lines of a batch: newline-delimited JSON, a job a line.

A line ends with a line feed, or a carriage return and a line feed; the last one may lack it. A line
of nothing but spaces, tabs and carriage returns is blank. Every other line is one JSON text (RFC 8259) in
UTF-8, and a job's body as it stands. NaN and Infinity are no JSON, whatever Python thinks of them.
"""

from __future__ import annotations

import json
from typing import IO

import orjson

from zpipeline.web.http.turns import Turns
from zpipeline.web.problems import Problem, too_large

#: Lines of a batch, blank ones included. It bounds the memory and the time that one request can ask for: a line can be
#: as short as one digit, and a blank one shorter still.
MAX_LINES = 1_000_000

#: So many bytes of lines are read between two looks at the clock, about.
_AT_ONCE = 1 << 14


async def jobs_of(body: IO[bytes], max_body: int, turns: Turns) -> list[bytes]:
    """The bodies of all jobs of a batch.

    :param max_body: of one job, in bytes.
    :param turns: is waited for, so that others have their turn as well.
    :raises Problem: 400 when a line is not JSON, or there is none; 413 when one is too long, or they are too many.
    """
    bodies: list[bytes] = []
    read = 0
    while True:
        if turns.is_over:
            await turns.wait()
        lines = body.readlines(_AT_ONCE)
        if not lines:
            break
        if read + len(lines) > MAX_LINES:
            raise Problem(413, f"the batch is over {MAX_LINES} lines")
        found = [job_of(number, line, max_body) for number, line in enumerate(lines, read + 1)]
        read += len(lines)
        bodies += [body for body in found if body is not None]
    if not bodies:
        raise Problem(400, "the batch is empty")
    return bodies


def job_of(number: int, line: bytes, max_body: int) -> bytes | None:
    """The body of the job on this line; None when the line is blank.

    :param number: of the line, counted from 1, blank ones included.
    :param line: with its end.
    :param max_body: of one job, in bytes.
    :raises Problem: 400 when the line is not JSON, 413 when it is too long.
    """
    if line == b"\n":
        return None
    body = line.removesuffix(b"\n").removesuffix(b"\r")
    is_long = len(body) > max_body
    if not is_long:
        try:
            orjson.loads(body)
        except ValueError:
            pass  # it takes nothing that is no JSON, but not all that is; nor does it say enough
        else:
            return body
    if not body.strip(b" \t\r"):
        return None
    if is_long:
        raise too_large(max_body, f"line {number}")
    _check(number, body)
    return body


def _check(number: int, body: bytes) -> None:
    try:
        _READER.decode(body.decode())
    except json.JSONDecodeError as error:
        raise Problem(400, f"line {number} is not JSON: {error.msg}, at character {error.pos + 1}") from None
    except UnicodeDecodeError as error:
        raise Problem(400, f"line {number} is not UTF-8, at byte {error.start + 1}") from None
    except RecursionError:
        raise Problem(400, f"line {number} is nested too deeply") from None
    except _NotJson as error:
        raise Problem(400, f"line {number} is not JSON: {error}") from None


class _NotJson(Exception):
    """Python reads it, JSON does not have it."""


def _refuse_constant(name: str) -> None:
    raise _NotJson(name)


# Numbers are checked and not converted: to read an integer of a million digits takes minutes.
_READER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse_constant)
