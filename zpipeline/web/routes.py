"""How a request gets to its route, and its answer back.

Klein's own resource takes the URL to pieces, makes a new map adapter and chains some ten Deferreds and callbacks for
each request. Here the map is bound once, paths without parameters are found in a dictionary, and what a route answers
at once is answered at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from zpipeline.web.answers import AnyAnswer, problem_answer
from zpipeline.web.asked import Asked
from zpipeline.web.origins import Origins
from zpipeline.web.problems import nothing_here


class Routes:
    """The routes of an application, which return answers, or Deferreds or coroutines of them.

    :param failed: makes the answer when a route raises, or none is found (werkzeug's exceptions).
    :param origins: whose requests are answered.
    """

    def __init__(self, app: Klein, failed: Callable[[Asked, bytes, Failure], AnyAnswer], origins: Origins) -> None:
        self._app = app
        self._failed = failed
        self._origins = origins
        self._map = app.url_map.bind("localhost")
        self._fixed = {
            rule.rule: rule.endpoint for rule in app.url_map.iter_rules() if rule.methods is None and not rule.arguments
        }

    def answer(self, request: Asked, path: bytes, respond: Callable[[AnyAnswer], object]) -> Deferred[object] | None:
        """Answer, now or later: if later, what it returns is cancelled when the client goes.

        Routes are found by the path as it was sent. None has an escape in it, and what the router
        cannot decode never gets there.

        :param path: of the request, where the routes begin.
        """
        refusal = self._origins.refusal(request)
        if refusal is None and path != b"/" and not _can_be_here(path):
            refusal = nothing_here()
        if refusal is not None:
            respond(problem_answer(refusal))
            return None
        try:
            outcome = self._run(request, path)
        except Exception:
            respond(self._failed(request, path, Failure()))
            return None
        if not isinstance(outcome, Deferred):
            respond(outcome)
            return None
        return outcome.addCallbacks(respond, self._has_failed, errbackArgs=(request, path, respond))

    def _run(self, request: Any, path: bytes) -> Any:
        text = path.decode("ascii")
        arguments: Any = {}
        endpoint = self._fixed.get(text)
        if endpoint is None:
            endpoint, arguments = self._map.match(text, request.method.decode("ascii"))
        return self._app.execute_endpoint(endpoint, request, **arguments)

    def _has_failed(
        self, failure: Failure, request: Asked, path: bytes, respond: Callable[[AnyAnswer], object]
    ) -> None:
        if not failure.check(CancelledError):
            respond(self._failed(request, path, failure))


def _can_be_here(path: bytes) -> bool:
    return path.startswith(b"/") and not path.startswith(b"//") and b"%" not in path and path.isascii()
