"""Leaving that takes too long: whatever holds it up, the process ends."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from threading import Thread, Timer, main_thread
from typing import Any

from twisted.logger import Logger

#: How many seconds closing may take, after all else that leaving waits for.
GRACE = 5.0

#: How many seconds later it ends though some other thread keeps Python from doing so.
_LAST = 2.0

_HELD_UP = (
    "leaving takes longer than {seconds:g} seconds: it is held up, and the process ends. Its main thread was here "
    "(most recent call last):\n{where}"
)

log = Logger()


class Deadline:
    """Ends this process so many seconds after SIGINT or SIGTERM, with exit status 1, if it has not ended by then.

    A handler may block the reactor, and what C code holds up in the main thread keeps Python from calling what handles
    signals, as that is done by the main thread. So a thread is told of signals: by C code, through a pipe
    (`signal.set_wakeup_fd`). Nothing tells of one that comes while C code holds the interpreter itself, until it lets
    it go.

    :param seconds: from the signal on.
    :param asked: called in that thread when a signal has come.
    """

    def __init__(self, reactor: Any, seconds: float, asked: Callable[[], None]) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._asked = asked

    def watch(self) -> None:
        """Watch for signals, in the place of who is told of them now; it is told by this then.

        To be called in the main thread.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # A copy: its owner may close it, and its number be another's.
        onward = os.dup(before) if before >= 0 else None
        Thread(target=self._watch, args=(reader, onward), name="zpipeline deadline", daemon=True).start()

    def _watch(self, reader: int, onward: int | None) -> None:
        is_asked = False
        while True:
            came = os.read(reader, 1024)
            if onward is not None:
                with suppress(BlockingIOError, BrokenPipeError):  # it is awake already, or gone
                    os.write(onward, came)
            if not is_asked and not {signal.SIGINT, signal.SIGTERM}.isdisjoint(came):
                is_asked = True
                self._begin()

    def _begin(self) -> None:
        self._asked()
        end = Timer(self._seconds, self._end)
        end.daemon = True
        end.start()
        faulthandler.dump_traceback_later(self._seconds + _LAST, file=2, exit=True)

    def _end(self) -> None:
        try:
            frame = sys._current_frames().get(main_thread().ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame is not None else ""
            if self._reactor.running:
                log.error(_HELD_UP, seconds=self._seconds, where=where)
            elif sys.__stderr__ is not None:  # there is no log any more
                print(_HELD_UP.format(seconds=self._seconds, where=where), file=sys.__stderr__, flush=True)
        finally:
            os._exit(1)
