"""Errors as RFC 9457 has them: application/problem+json, `about:blank` types.

What each error of the pipeline is over HTTP is said here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from werkzeug.exceptions import MethodNotAllowed, NotFound

from zpipeline.errors import (
    Draining,
    Full,
    JobDead,
    JournalError,
    JournalFull,
    KeyReused,
    KeysFull,
    Refused,
    ResultGone,
    TooLarge,
    UnknownJob,
)

CONTENT_TYPE = b"application/problem+json"

#: Seconds after which another process, or this one started anew, may be asked.
RETRY_AFTER_DRAINING = 5

#: Seconds between two looks at a journal that is in trouble: somebody has to mend it.
RETRY_AFTER_TROUBLE = 10

#: Seconds in which some of the idempotency keys will have been kept for long enough.
RETRY_AFTER_KEYS = 60

#: Seconds in which some of the bodies that are being received will have come.
RETRY_AFTER_INCOMING = 2

NO_HEADERS: Mapping[bytes, bytes] = {}
NO_MEMBERS: Mapping[str, object] = {}


class Problem(Exception):
    """A request that gets an error for an answer.

    :ivar status: of the answer, 400 to 599.
    :ivar detail: what is wrong with this request, one sentence for who sent it.
    :ivar headers: the answer's own headers, such as Retry-After.
    :ivar more: members of the problem details object beyond those that each has.
    :ivar close: whether the connection ends with this answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[bytes, bytes] = NO_HEADERS,
        more: Mapping[str, object] = NO_MEMBERS,
        *,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more
        self.close = close

    def members(self) -> dict[str, object]:
        """The members of the problem details object, in the order in which RFC 9457 has them."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }


def too_large(limit: int, what: str = "the body", *, close: bool = False) -> Problem:
    """Something of a request is over its limit, in bytes."""
    return Problem(413, f"{what} is over {limit} bytes", close=close)


def too_much_incoming(most: int) -> Problem:
    """There is no room for a body beside those that are being received."""
    why = f"bodies of {most} bytes together are being received, and no more may be: try again later"
    return Problem(503, why, {b"Retry-After": b"%d" % RETRY_AFTER_INCOMING}, close=True)


def nothing_here() -> Problem:
    """No route has this path."""
    return Problem(404, "there is nothing at this path")


def unknown_job() -> Problem:
    """No job has this id."""
    return Problem(404, "no job of this id is known, or it is no longer kept")


def problem_of(error: BaseException | None) -> Problem | None:
    """What an error is over HTTP; None when it is one that nobody expected."""
    match error:
        case Problem():
            return error
        case Full():
            return _try_again(503, error, error.retry_after)
        case Draining():
            return _try_again(503, error, RETRY_AFTER_DRAINING, close=True)
        case TooLarge():
            return Problem(413, str(error))
        case KeyReused():
            return Problem(422, str(error))
        case KeysFull():
            return _try_again(503, error, RETRY_AFTER_KEYS)
        case JournalFull():
            return _try_again(507, error, RETRY_AFTER_TROUBLE)
        case JournalError():
            return _try_again(503, error, RETRY_AFTER_TROUBLE)
        case Refused():
            return Problem(503, str(error))
        case UnknownJob():
            return unknown_job()
        case ResultGone():
            return Problem(410, str(error), more={"id": error.job_id})
        case JobDead():
            return Problem(500, str(error), more={"id": error.job_id, "error": error.error, "attempts": error.attempts})
        case NotFound():
            return nothing_here()
        case MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return Problem(405, f"the methods of this path are {allowed}", {b"Allow": allowed.encode("ascii")})
    return None


def _try_again(status: int, error: Refused, seconds: int, *, close: bool = False) -> Problem:
    return Problem(status, str(error), {b"Retry-After": b"%d" % seconds}, close=close)
