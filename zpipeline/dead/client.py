"""The requests that ``zpipe dead`` makes (docs/http.rst has them)."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from zpipeline.client import NotFound, Web

#: Dead letters that are asked for at once; the most that zpipe-web gives.
PAGE = 1000


class NoLetter(NotFound):
    """There is no dead letter of this id."""


class DeadLetters(Web):
    """The dead letters of a zpipe-web that runs."""

    subject = "dead letters"
    patience = 300.0  # to retry a million jobs takes some

    def letters(self, most: int | None) -> Iterator[list[dict[str, Any]]]:
        """The summaries of all dead letters, or the first `most`, in order of acceptance: page by page.

        :raises WebError: they cannot be had.
        """
        after: dict[str, str] = {}
        more = True
        while more and most != 0:
            limit = PAGE if most is None else min(PAGE, most)
            answer = self.ask("GET", "/dead", **after, limit=str(limit))
            page = self.member(answer, "dead")
            if page:
                yield page
                after = {"after": page[-1]["id"]}
            more = self.member(answer, "next") is not None
            most = None if most is None else most - len(page)

    def letter(self, job_id: str) -> dict[str, Any]:
        """All of one dead letter; its body is bytes.

        :raises NoLetter: there is none.
        :raises WebError: it cannot be had.
        """
        letter: dict[str, Any] = self._ask_about(job_id, "GET")
        self.member(letter, "id")
        encoded = letter.pop("body_base64", None)
        letter["body"] = self.member(letter, "body").encode() if encoded is None else b64decode(encoded)
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
        answer = self.ask("POST", "/dead/retry", **{name: value for name, value in given.items() if value is not None})
        return int(self.member(answer, "retried"))

    def drop(self, job_id: str) -> None:
        """Throw a dead letter away.

        :raises NoLetter: there is none.
        :raises WebError: it cannot be done.
        """
        self._ask_about(job_id, "DELETE")

    def _ask_about(self, job_id: str, method: str, rest: str = "") -> Any:
        try:
            return self.ask(method, f"/dead/{quote(job_id, safe='')}{rest}")
        except NotFound:
            raise NoLetter(f"there is no dead letter {job_id} at {self.url}") from None
