"""Finds out whether this process was stopped for a while (SIGSTOP, a paused container) and has been continued.

A ventilator hands a frozen worker's jobs to others, and a worker that thaws must know not to begin them. A handler that
blocks the reactor looks the same from within the reactor, but not from another thread: that one ticks on, and while the
whole process stands still it does not.
"""

from __future__ import annotations

from threading import Event, Lock, Thread
from time import monotonic

TICK = 0.25

#: Shorter than the time in which heartbeats find a frozen worker (`zpipeline.sockets.HEARTBEAT_TIMEOUT_MS`), by
#: more than a tick.
GAP = 1.0


class FreezeWatch:
    """A thread that ticks."""

    def __init__(self) -> None:
        self._last = monotonic()
        self._thawed = False
        self._lock = Lock()
        self._stop = Event()
        Thread(target=self._tick, name="zpipeline freeze watch", daemon=True).start()

    def has_thawed(self) -> bool:
        """Whether the process has stood still since this was asked last."""
        with self._lock:
            self._look()  # the ticking thread may not have noticed yet
            thawed, self._thawed = self._thawed, False
            return thawed

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()

    def _tick(self) -> None:
        while not self._stop.wait(TICK):
            with self._lock:
                self._look()

    def _look(self) -> None:
        now = monotonic()
        if now - self._last > GAP:
            self._thawed = True
        self._last = now
