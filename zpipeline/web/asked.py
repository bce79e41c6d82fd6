"""What routes ask of a request, whatever server has read it.

Names of headers are in lower case here.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import IO, Any, Protocol
from urllib.parse import quote

from zpipeline.web.problems import too_large

#: Headers that say what a body is: a job has them too.
_KEPT = (b"content-type", b"content-encoding")


class Asked(Protocol):
    """The part of IRequest (`twisted.web.iweb`) that routes ask for: a request of twisted.web has it, and ours."""

    @property
    def method(self) -> bytes: ...

    @property
    def uri(self) -> bytes: ...

    @property
    def path(self) -> bytes: ...

    @property
    def prepath(self) -> Sequence[bytes]: ...

    @property
    def requestHeaders(self) -> Any: ...

    @property
    def content(self) -> IO[bytes]: ...


def values_of(request: Asked, name: bytes) -> Sequence[bytes]:
    """All values of a header."""
    values: Sequence[bytes] = request.requestHeaders.getRawHeaders(name, ())
    return values


def query_of(request: Asked) -> bytes:
    """The query string, as it was sent."""
    return request.uri.partition(b"?")[2]


def body_of(request: Asked, most: int) -> bytes:
    """All of the body.

    :param most: bytes that it may have.
    :raises Problem: 413 when it has more.
    """
    body = request.content.read()
    if len(body) > most:
        raise too_large(most)
    return body


def path_of(request: Asked) -> bytes:
    """The path below the one where the routes are, as it was sent."""
    if not request.prepath:
        return request.path
    return b"/" + b"/".join(request.path.split(b"/")[1 + len(request.prepath) :])


def place_of(request: Asked, path: str) -> bytes:
    """A path of ours as the client has to ask for it."""
    if not request.prepath:
        return path.encode("ascii")
    before = "".join(f"/{quote(segment)}" for segment in request.prepath)
    return (before + path).encode("ascii")


@lru_cache(256)
def _kept_as(sent: bytes) -> str:
    """What a header is called that its job has too; empty when the job has none such. The same ones come again."""
    name = sent.lower()
    return name.decode("ascii") if name in _KEPT or name.startswith((b"x-", b"zpipe-")) else ""


def job_headers(request: Asked, path: str) -> dict[str, str]:
    """The headers of the job that this request pushes.

    They are the content-type and content-encoding, all that start with x- or zpipe-, and zpipe-method and
    zpipe-path, which are the request's own whatever was sent under these names. Values are ISO-8859-1, in
    which every byte is a character, so that a handler can have the bytes back.
    """
    kept: dict[str, str] = {}
    for sent, values in request.requestHeaders.getAllRawHeaders():
        name = _kept_as(sent)
        if name:
            kept[name] = b", ".join(values).decode("latin-1")
    kept["zpipe-method"] = request.method.decode("ascii")
    kept["zpipe-path"] = path
    return kept
