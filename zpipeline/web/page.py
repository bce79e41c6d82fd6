"""The files of the page, GET /ui: those of the folder ui/, and Chart.js as the package chartkick brings it."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from attrs import frozen

#: What the page is allowed to do: run, show and ask for what this server has, and nothing else.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

START = "index.html"
CHARTS = "chart.js"

_FOLDER = Path(__file__).parent / "ui"
_IN_CHARTKICK = "django/static/chartkick/Chart.bundle.js"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}


@frozen
class File:
    """A file of the page, as it is sent.

    :ivar zipped: the content, by gzip.
    :ivar tag: of the content: the hexadecimal part of an entity tag.
    """

    content: bytes
    zipped: bytes
    content_type: bytes
    tag: bytes

    def answer_to(self, encodings: Sequence[bytes], tags: Sequence[bytes]) -> tuple[int, bytes, dict[bytes, bytes]]:
        """Status, content and headers for a client that says this.

        A client keeps what it has, and asks each time whether it is still that (RFC 9110, 13.1.2): the files are
        those of the process that serves them, and that may be a newer one.

        :param encodings: the values of Accept-Encoding.
        :param tags: the values of If-None-Match.
        """
        zips = b"gzip" in {each.strip() for each in b",".join(encodings).split(b",")}
        tag = b'"%b%b"' % (self.tag, b"-gzip" if zips else b"")
        headers = {
            b"Content-Security-Policy": POLICY,
            b"X-Content-Type-Options": b"nosniff",
            b"Referrer-Policy": b"no-referrer",
            b"Cache-Control": b"no-cache",
            b"Vary": b"Accept-Encoding",
            b"ETag": tag,
        }
        if tag in {each.strip().removeprefix(b"W/") for each in b",".join(tags).split(b",")}:
            return 304, b"", headers
        if zips:
            headers[b"Content-Encoding"] = b"gzip"
        return 200, self.zipped if zips else self.content, headers


def find(name: str) -> File | None:
    """The file of this name; None when the page has none such."""
    path = _paths().get(name)
    return None if path is None else _read(path)


@cache
def _read(path: Path) -> File:
    content = path.read_bytes()
    tag = sha256(content).hexdigest()[:16].encode("ascii")
    return File(content, gzip.compress(content, 6, mtime=0), _TYPES[path.suffix], tag)


@cache
def _paths() -> dict[str, Path]:
    paths = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    chartkick = find_spec("chartkick")
    if chartkick is not None and chartkick.origin is not None:
        charts = Path(chartkick.origin).parent / _IN_CHARTKICK
        if charts.is_file():  # else the page does without: its figures are there as a table too
            paths[CHARTS] = charts
    return paths
