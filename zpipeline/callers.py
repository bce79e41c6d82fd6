"""Says so when nobody calls a worker: it may be waiting where nobody looks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

#: Of nobody calling, in seconds: several times what a web side that runs takes to call (`zpipeline.link`).
PATIENCE = 60.0

log = Logger()


class CallerWatch:
    """Waits for a call.

    :param address: tells where the worker listens.
    """

    def __init__(self, reactor: Any, address: Callable[[], str]) -> None:
        self._reactor = reactor
        self._address = address
        self._waiting: IDelayedCall | None = None

    def start(self) -> None:
        """Nobody calls, from now on: if that lasts, it is said once."""
        self.stop()
        self._waiting = self._reactor.callLater(PATIENCE, self._say)

    def stop(self) -> None:
        """Somebody has called, or nobody is waited for any more."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _say(self) -> None:
        self._waiting = None
        log.warn(
            "no web side has called at {address} for {seconds} seconds: does one run that has it as --worker, and "
            "reaches it (--interface)?",
            address=self._address(),
            seconds=round(PATIENCE),
        )
