"""Services that start and stop in order."""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline.errors import UsageError

log = Logger()


class InOrder(MultiService):
    """Services that are started one after the other, and stopped in the opposite order, each when the one before
    it has ended.

    While they end, a second SIGINT or SIGTERM ends the process at once.
    """

    def stopService(self) -> Deferred[None]:
        """Stop all of them."""
        Service.stopService(self)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave_at_once)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                log.failure("{service} did not stop", service=service)


def _leave_at_once(number: int, frame: object) -> None:
    os.write(2, b"asked twice: leaving at once\n")
    os._exit(128 + number)


class Listener(Service):
    """Listens on an endpoint.

    :param description: of a server endpoint, as `twisted.internet.endpoints.serverFromString` takes it.
    :raises UsageError: it is no such description.
    """

    def __init__(self, reactor: Any, description: str, factory: Any) -> None:
        self._description = description
        self._factory = factory
        self._port: IListeningPort | None = None
        try:
            self._endpoint = serverFromString(reactor, description)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"--listen {description!r} is no server endpoint, such as tcp:4567:interface=127.0.0.1: {error}"
            ) from None

    def bind(self) -> None:
        """Listen; `startService` does so too. Call it first to learn of a port that is taken.

        :raises UsageError: listening failed at once.
        """
        failures: list[Failure] = []
        self._endpoint.listen(self._factory).addCallbacks(self._is_bound, failures.append)
        for failure in failures:
            failure.trap(CannotListenError, OSError)
            error: Any = failure.value
            why = getattr(error, "socketError", error)
            why = getattr(why, "strerror", None) or why
            raise UsageError(f"cannot listen on {self._description}: {str(why).lower()}")

    def startService(self) -> None:
        """Take connections."""
        super().startService()
        if self._port is None:
            self.bind()

    def stopService(self) -> Any:
        """Take no more connections."""
        super().stopService()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None

    def _is_bound(self, port: IListeningPort) -> None:
        self._port = port


def in_order(*services: IService) -> InOrder:
    """The services, to be started in this order."""
    together = InOrder()
    for service in services:
        service.setServiceParent(together)
    return together
