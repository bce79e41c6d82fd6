"""The lines of a batch: newline-delimited JSON, a job a line.

A line ends with a line feed, or a carriage return and a line feed; the last one may lack it. A line
of nothing but spaces, tabs and carriage returns is blank. Every other line is one JSON text (RFC 8259) in
UTF-8, and a job's body as it stands. NaN and Infinity are no JSON, whatever Python thinks of them.
"""

from __future__ import annotations

import json

import orjson

from zpipeline.web.problems import Problem, too_large

#: Bounds the memory that one request can ask for: lines can be as short as one digit.
MAX_JOBS = 1_000_000


def job_of(number: int, line: bytes, max_body: int) -> bytes | None:
    """The body of the job on this line; None when the line is blank.

    :param number: of the line, counted from 1, blank ones included.
    :param line: with its end.
    :param max_body: of one job, in bytes.
    :raises Problem: 400 when the line is not JSON, 413 when it is too long.
    """
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
