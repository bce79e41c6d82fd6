"""The requests that ``zpipe dead`` makes (docs/http.rst has them).

Each has a connection of its own: between two pages, whoever reads them may take longer than a server waits.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from zpipeline.errors import UsageError, ZpipelineError

#: Seconds until a connection stands; seconds until its answer is there (to retry a million jobs takes some).
CONNECT = 10.0
ANSWER = 300.0

#: Dead letters that are asked for at once; the most that zpipe-web gives.
PAGE = 1000


class WebError(ZpipelineError):
    """zpipe-web cannot be asked, or refuses. Its text is one line."""


class NoLetter(WebError):
    """There is no dead letter of this id."""


class Web:
    """A zpipe-web that runs.

    :param url: where its paths begin, such as ``http://127.0.0.1:4567``.
    :raises UsageError: it is no such URL.
    """

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
            raise UsageError(f"{url!r} is no URL such as http://127.0.0.1:4567")
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = host, port
        self._prefix = parts.path.rstrip("/")
        self.url = url

    def letters(self, most: int | None) -> Iterator[list[dict[str, Any]]]:
        """The summaries of all dead letters, or the first `most`, in order of acceptance: page by page.

        :raises WebError: they cannot be had.
        """
        after: dict[str, str] = {}
        more = True
        while more and most != 0:
            limit = PAGE if most is None else min(PAGE, most)
            answer = self._ask("GET", "/dead", **after, limit=str(limit))
            page = self._member(answer, "dead")
            if page:
                yield page
                after = {"after": page[-1]["id"]}
            more = self._member(answer, "next") is not None
            most = None if most is None else most - len(page)

    def letter(self, job_id: str) -> dict[str, Any]:
        """All of one dead letter; its body is bytes.

        :raises NoLetter: there is none.
        :raises WebError: it cannot be had.
        """
        letter: dict[str, Any] = self._ask_about(job_id, "GET")
        self._member(letter, "id")
        encoded = letter.pop("body_base64", None)
        letter["body"] = self._member(letter, "body").encode() if encoded is None else b64decode(encoded)
        return letter

    def retry(self, job_id: str) -> None:
        """Make a job of a dead letter again.

        :raises NoLetter: there is none.
        :raises WebError: it cannot be done.
        """
        self._ask_about(job_id, "POST", "/retry")

    def retry_all(self, handler: str | None, error: str | None) -> int:
        """Make jobs of all dead letters again, or of those of a handler, or with a text in their error: how many.

        :raises WebError: it cannot be done.
        """
        given = {"handler": handler, "error": error}
        answer = self._ask("POST", "/dead/retry", **{name: value for name, value in given.items() if value is not None})
        return int(self._member(answer, "retried"))

    def drop(self, job_id: str) -> None:
        """Throw a dead letter away.

        :raises NoLetter: there is none.
        :raises WebError: it cannot be done.
        """
        self._ask_about(job_id, "DELETE")

    def _ask_about(self, job_id: str, method: str, rest: str = "") -> Any:
        try:
            return self._ask(method, f"/dead/{quote(job_id, safe='')}{rest}")
        except NoLetter:
            raise NoLetter(f"there is no dead letter {job_id} at {self.url}") from None

    def _ask(self, method: str, path: str, **parameters: str) -> Any:
        target = self._prefix + path + ("?" + urlencode(parameters) if parameters else "")
        status, content_type, body = self._exchange(method, target)
        if status == 204:
            return None
        try:
            if content_type.partition(";")[0] not in ("application/json", "application/problem+json"):
                raise ValueError
            answer = json.loads(body)
        except ValueError:
            raise self._stranger(f"{method} {target} gets {status} and {content_type or 'no type'}") from None
        if status < 300:
            return answer
        error = NoLetter if status == 404 else WebError
        raise error(f"{self.url} answers {status}: {self._member(answer, 'detail')}")

    def _exchange(self, method: str, target: str) -> tuple[int, str, bytes]:
        connection = self._connection(self._host, self._port, timeout=CONNECT)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER)
            connection.request(method, target, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read()
        except TimeoutError:
            raise WebError(f"{self.url} does not answer") from None
        except (OSError, UnicodeError) as error:  # the latter for names that no host can have
            why = getattr(error, "strerror", None) or str(error)
            raise WebError(f"cannot reach {self.url}: {why}: does zpipe-web serve there? (--url URL)") from None
        except HTTPException as error:
            raise self._stranger(repr(error)) from None
        finally:
            connection.close()

    def _member(self, answer: Any, name: str) -> Any:
        try:
            return answer[name]
        except (TypeError, LookupError):
            raise self._stranger(f"an answer without {name!r}") from None

    def _stranger(self, what: str) -> WebError:
        return WebError(f"what answers at {self.url} is no zpipe-web with dead letters: {what} (--url URL)")
