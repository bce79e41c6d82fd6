"""Services that start and stop in order."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline.errors import UsageError
from zpipeline.tap.accepting import pause_when_failing
from zpipeline.tap.deadline import Deadline
from zpipeline.tap.notify import Notifier

#: Signals within so many seconds of the first are one asking: timeout(1), for one, sends two.
_ONE_ASKING = 0.5

#: How many clients may wait to be accepted.
_BACKLOG = 1024

#: Objects that are new since the garbage collector looked last: Python's own measure is 700.
_COLLECT_AFTER = 10_000

log = Logger()


class InOrder(MultiService):
    """Services that are started one after the other, and stopped in the opposite order, each when the one before
    it has ended.

    SIGINT or SIGTERM stop them; asked a second time, while they end, the process ends at once.

    The exit status is 0 then, unless what they leave is not clean, or one of them failed to stop: the others are
    stopped nevertheless.

    :param waits: for what stopping waits, for the log.
    :param notifier: is told when all have started, and when they are stopped.
    :param is_clean: asked when all have ended.
    :param deadline: when the process ends if they have not.
    """

    def __init__(
        self, reactor: Any, waits: str, notifier: Notifier, is_clean: Callable[[], bool], deadline: Deadline | None
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._waits = waits
        self._notifier = notifier
        self._is_clean = is_clean
        self._deadline = deadline
        self._asked_at: float | None = None

    def startService(self) -> None:
        """Start all of them."""
        self._reactor.callWhenRunning(self._watch_signals)  # before any of them says that it has started
        super().startService()
        self._reactor.callWhenRunning(_collect_less)
        self._reactor.callWhenRunning(self._notifier.ready)

    def stopService(self) -> Deferred[None]:
        """Stop all of them."""
        Service.stopService(self)
        self._notifier.stopping(f"leaving: waits {self._waits}")
        log.info("leaving: waits {waits}; asked again (SIGINT or SIGTERM) it leaves at once", waits=self._waits)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        failed = False
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                log.failure("{service} did not stop in order", service=service)
                failed = True
        if failed or not self._is_clean():
            # twistd has no way to say how it should end; the last that is registered is the first to be called
            atexit.register(_exit_unclean)

    def _watch_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):  # else it is ignored, or not for us
                signal.signal(number, self._asked)
        if self._deadline is not None:
            self._deadline.watch()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        """A signal has come. The reactor's own way would end the process by that signal, as if it had been killed."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._reactor.callFromThread(self._end)
        elif now > self._asked_at + _ONE_ASKING:
            try:
                log.warn("asked again: leaves at once")
            finally:
                os._exit(128 + number)

    def _end(self) -> None:
        with suppress(ReactorNotRunning):  # it may be leaving already
            self._reactor.stop()


def _collect_less() -> None:
    """Have the garbage collector leave alone what is there from the beginning, and look less often at what is new.

    Jobs are no garbage, and there are many of them: looking at each took as long as all else that was done for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _exit_unclean() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class Listener(Service):
    """Listens on an endpoint.

    :param description: of a server endpoint, as `twisted.internet.endpoints.serverFromString` takes it.
    :raises UsageError: it is no such description.
    """

    def __init__(self, reactor: Any, description: str, factory: Any) -> None:
        self._description = description
        self._factory = factory
        self._port: IListeningPort | None = None
        self._reactor = reactor
        try:
            self._endpoint = serverFromString(reactor, _with_backlog(description))
        except Exception as error:  # endpoints are plugins, and each has its own way
            raise UsageError(
                f"--listen {description!r} is no server endpoint, such as tcp:4567:interface=127.0.0.1: {error}"
            ) from None

    def bind(self) -> None:
        """Listen, if it does not yet; starting does so too. Call it first to learn of a port that is taken.

        :raises UsageError: listening failed at once.
        """
        if self._port is not None:
            return
        failures: list[Failure] = []
        self._endpoint.listen(self._factory).addCallbacks(self._is_bound, failures.append)
        for failure in failures:
            error: Any = failure.value
            why = getattr(error, "socketError", error)
            why = getattr(why, "strerror", None) or why
            raise UsageError(f"cannot listen on {self._description}: {str(why).lower()}")

    def privilegedStartService(self) -> None:
        """Listen while ports below 1024 are allowed (twistd --uid)."""
        super().privilegedStartService()
        self.bind()

    def startService(self) -> None:
        """Take connections."""
        super().startService()
        self.bind()
        self._reactor.callWhenRunning(self._serves)

    def _serves(self) -> None:
        log.info("serving HTTP on {description}", description=self._description)

    def stopService(self) -> Any:
        """Take no more connections."""
        super().stopService()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None

    def _is_bound(self, port: IListeningPort) -> None:
        self._port = port
        pause_when_failing(self._reactor, port)


def _with_backlog(description: str) -> str:
    """The description, with room for clients that come all at once, unless it says how much there is.

    Twisted's default is 50. The system drops what is more, and those clients try again after a second.
    """
    kind = description.partition(":")[0]
    has_its_own = kind not in ("tcp", "tcp6", "ssl", "unix") or ":backlog=" in description
    return description if has_its_own else f"{description}:backlog={_BACKLOG}"


def in_order(
    reactor: Any,
    waits: str,
    notifier: Notifier,
    *services: IService,
    is_clean: Callable[[], bool] = lambda: True,
    deadline: Deadline | None = None,
) -> InOrder:
    """The services, to be started in this order. See `InOrder`."""
    together = InOrder(reactor, waits, notifier, is_clean, deadline)
    for service in services:
        service.setServiceParent(together)
    return together
