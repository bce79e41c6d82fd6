"""Closing what has several parts: one that fails does not keep the others from being closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger

from zpipeline.errors import NotClosed

log = Logger()


class Closing:
    """Closes parts one after the other. Each failure is logged; `check` raises when there was one."""

    def __init__(self) -> None:
        self._failed: list[str] = []

    async def close(self, what: str, close: Callable[..., Any], *args: object) -> Any:
        """Call this with these arguments, and wait for its Deferred if it returns one.

        :param what: the part, for the log.
        :returns: what it returned; None if it failed.
        """
        try:
            return await maybeDeferred(close, *args)
        except NotClosed:  # it has logged its own
            self._failed.append(what)
        except Exception:
            log.failure("{what} could not be closed; all else is closed nevertheless", what=what)
            self._failed.append(what)
        return None

    def check(self) -> None:
        """Everything has been closed.

        :raises NotClosed: a part could not be.
        """
        if self._failed:
            raise NotClosed(f"not closed: {', '.join(self._failed)}; the log has why")
