"""A Klein application as a resource: as Klein's own, for a fraction of the work.

Klein's takes the URL to pieces, makes a new map adapter and chains some ten Deferreds and callbacks for each request.
Here the map is bound once, paths without parameters are found in a dictionary, and what a route answers at
once is written at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from zpipeline.web.http.request import Request

log = Logger()


class Routes(Resource):
    """The routes of an application, which return whole answers, or Deferreds or coroutines of them.

    :param failed: makes the answer when a route raises, or none is found (werkzeug's exceptions).
    """

    isLeaf = True

    def __init__(self, app: Klein, failed: Callable[[Request, Failure], bytes]) -> None:
        super().__init__()
        self._app = app
        self._failed = failed
        self._map = app.url_map.bind("localhost")
        self._fixed = {
            rule.rule: rule.endpoint for rule in app.url_map.iter_rules() if rule.methods is None and not rule.arguments
        }

    def render(self, request: Any) -> Any:
        """Answer, now or later."""
        try:
            outcome = self._run(request)
        except Exception:
            request.end(self._failed(request, Failure()))
        else:
            if isinstance(outcome, Deferred):
                request.waits_for(outcome)
                outcome.addCallbacks(request.end, self._has_failed, errbackArgs=(request,))
            else:
                request.end(outcome)
        return NOT_DONE_YET

    def _run(self, request: Any) -> Any:
        path = request.path.decode("ascii")
        arguments: Any = {}
        endpoint = self._fixed.get(path)
        if endpoint is None:
            endpoint, arguments = self._map.match(path, request.method.decode("ascii"))
        return self._app.execute_endpoint(endpoint, request, **arguments)

    def _has_failed(self, failure: Failure, request: Request) -> None:
        if not request.client_is_gone:
            request.end(self._failed(request, failure))
        elif not failure.check(CancelledError):
            log.failure("{method} {path} failed", failure, method=request.method, path=request.path)
