"""What a route answers: a value, which whoever serves the route turns into bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from attrs import define

from zpipeline.web.problems import CONTENT_TYPE, NO_HEADERS, Problem

JSON = b"application/json"


@define(eq=False)
class Answer:
    """All of an answer.

    :ivar content: empty with statuses that have none (204, 304); not sent to HEAD.
    :ivar headers: its own, but for those that say what the content is.
    :ivar closes: whether the connection ends with it.
    """

    status: int
    content: bytes = b""
    headers: Mapping[bytes, bytes] = NO_HEADERS
    content_type: bytes = JSON
    closes: bool = False


class Sink(Protocol):
    """Where an answer goes that goes on."""

    @property
    def is_behind(self) -> bool:
        """Whether what has been sent already waits to be read."""

    def send(self, data: bytes) -> None:
        """Send some of it."""

    def end(self) -> None:
        """That was all of it."""


@define(eq=False)
class Stream:
    """An answer that goes on until its connection ends, with status 200.

    :ivar begin: sends some of it and sees to the rest; what it returns is called when the client goes before the end.
    """

    begin: Callable[[Sink], Callable[[], None]]
    headers: Mapping[bytes, bytes]
    content_type: bytes


AnyAnswer: TypeAlias = Answer | Stream


def json_answer(status: int, value: object, headers: Mapping[bytes, bytes] = NO_HEADERS) -> Answer:
    """An answer with this for its content.

    :param value: what JSON can hold.
    """
    return Answer(status, json.dumps(value).encode("ascii"), headers)


def problem_answer(problem: Problem) -> Answer:
    """An answer that says what went wrong."""
    content = json.dumps(problem.members()).encode("ascii")
    return Answer(problem.status, content, problem.headers, CONTENT_TYPE, problem.close)
