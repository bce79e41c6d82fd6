"""What the first process of a container has to do: the system gives it all processes that have lost their parent."""

from __future__ import annotations

import os
from contextlib import suppress

from twisted.application.internet import TimerService
from twisted.internet import process

#: How often, in seconds.
_INTERVAL = 1.0


def orphans_reaped() -> TimerService | None:
    """A service that asks for the exit status of those that have ended, so that the system can forget them.

    :returns: None where that is another process's to do.
    """
    return TimerService(_INTERVAL, reap) if os.getpid() == 1 else None


def reap() -> None:
    """Do it once. Of processes that the reactor has started it is the reactor that asks, and is told."""
    with suppress(ChildProcessError):  # there is none
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in process.reapProcessHandlers:
                process.reapAllProcesses()
            else:
                os.waitpid(ended.si_pid, 0)
