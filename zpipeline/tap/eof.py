"""A process that lives no longer than who started it: its standard input is a pipe, and ends when that one does."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from threading import Thread
from typing import Any

from twisted.internet.error import ReactorNotRunning

#: How many seconds it has to leave by itself: nobody is there any more who would wait for what it does.
FAREWELL = 5.0


def leave_at_eof(reactor: Any, *, with_group: bool = False) -> None:
    """Stop the reactor when standard input ends, and end the process `FAREWELL` seconds later at the latest.

    SIGINT is ignored: a terminal sends it to all of a process group, and who started this decides what it means.

    :param with_group: end all of its process group then, as who started it would have done.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A thread, as a handler may keep the reactor from reading.
    reactor.callWhenRunning(Thread(target=_watch, args=(reactor, with_group), daemon=True).start)


def _watch(reactor: Any, with_group: bool) -> None:
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    reactor.callFromThread(_stop, reactor, with_group)
    time.sleep(FAREWELL)
    if with_group:
        _end_group()
    os._exit(1)


def _stop(reactor: Any, with_group: bool) -> None:
    if with_group:
        reactor.addSystemEventTrigger("after", "shutdown", _end_group)
    with suppress(ReactorNotRunning):  # it may be leaving already
        reactor.stop()


def _end_group() -> None:
    os.killpg(0, signal.SIGKILL)
