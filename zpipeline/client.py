"""A zpipe-web that runs, asked over HTTP (docs/http.rst) by the commands that are its clients.

Each request has a connection of its own: between two of them, whoever reads the answers may take longer than a server
waits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlencode, urlsplit

from zpipeline.errors import UsageError, ZpipelineError

DEFAULT_URL = "http://127.0.0.1:4567"

#: Seconds until a connection stands.
CONNECT = 10.0


class WebError(ZpipelineError):
    """zpipe-web cannot be asked, or refuses. Its text is one line."""


class NotFound(WebError):
    """zpipe-web has nothing at this path."""


class Web:
    """A zpipe-web that runs.

    :param url: where its paths begin, such as ``http://127.0.0.1:4567``.
    :raises UsageError: it is no such URL.
    """

    #: What it is asked for, for errors.
    subject = ""
    #: Seconds until an answer is there; in an answer that goes on, seconds of silence.
    patience = 10.0

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if (
            not host
            or not (url.isascii() and url.isprintable() and " " not in url)
            or parts.scheme not in ("http", "https")
            or parts.username is not None
            or parts.query
            or parts.fragment
        ):
            raise UsageError(f"{url!r} is no URL such as {DEFAULT_URL}")
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = host, port
        self._prefix = parts.path.rstrip("/")
        self.url = url

    def ask(self, method: str, path: str, **parameters: str) -> Any:
        """The answer to one request; None to one that has no content.

        :raises NotFound: there is nothing at this path.
        :raises WebError: there is no answer, or another error is one.
        """
        target = self._prefix + path + ("?" + urlencode(parameters) if parameters else "")
        with self._answer(method, target) as answer:
            return self._content(answer, f"{method} {target}")

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of an answer that goes on, each with its end, as they come.

        :raises WebError: there is no answer, an error is one, or there is silence.
        """
        target = self._prefix + path
        with self._answer("GET", target) as answer:
            if answer.status != 200 or _type_of(answer) != "text/event-stream":
                self._content(answer, f"GET {target}")
                raise self.stranger(f"GET {target} gets {answer.status} and {_type_of(answer)}")
            while line := answer.readline():
                yield line

    def member(self, answer: Any, name: str) -> Any:
        """A member of an answer.

        :raises WebError: it has none of this name.
        """
        try:
            return answer[name]
        except (TypeError, LookupError):
            raise self.stranger(f"an answer without {name!r}") from None

    def stranger(self, what: str) -> WebError:
        """The error that who answers is somebody else, or another version."""
        return WebError(f"what answers at {self.url} is no zpipe-web with {self.subject}: {what} (--url URL)")

    def _content(self, answer: HTTPResponse, request: str) -> Any:
        if answer.status == 204:
            return None
        try:
            if _type_of(answer) not in ("application/json", "application/problem+json"):
                raise ValueError
            content = json.loads(answer.read())
        except ValueError:
            raise self.stranger(f"{request} gets {answer.status} and {_type_of(answer) or 'no type'}") from None
        if answer.status < 300:
            return content
        error = NotFound if answer.status == 404 else WebError
        raise error(f"{self.url} answers {answer.status}: {self.member(content, 'detail')}")

    @contextmanager
    def _answer(self, method: str, target: str) -> Iterator[HTTPResponse]:
        connection = self._connection(self._host, self._port, timeout=CONNECT)
        try:
            connection.connect()
            connection.sock.settimeout(self.patience)
            connection.request(method, target, headers={"Connection": "close"})
            yield connection.getresponse()
        except TimeoutError:
            raise WebError(f"{self.url} does not answer") from None
        except (OSError, UnicodeError) as error:  # the latter for names that no host can have
            why = getattr(error, "strerror", None) or str(error)
            raise WebError(f"cannot reach {self.url}: {why}: does zpipe-web serve there? (--url URL)") from None
        except IncompleteRead:
            raise WebError(f"{self.url} has hung up in the middle of an answer") from None
        except HTTPException as error:
            raise self.stranger(repr(error)) from None
        finally:
            connection.close()


def _type_of(answer: HTTPResponse) -> str:
    return answer.getheader("Content-Type", "").partition(";")[0]
