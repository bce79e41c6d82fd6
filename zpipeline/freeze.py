"""Finds out whether this process was stopped for a while (SIGSTOP, a paused container) and has been continued.

A ventilator hands a frozen worker's jobs to others, and a worker that thaws must know not to begin them. A handler that
blocks the reactor looks the same from within the reactor, but not from another thread: that one ticks on, and while the
whole process stands still it does not.

Nor does it tick while C code holds the interpreter: a regular expression that backtracks, a library that sleeps and
does not let go. The process lives then, libzmq's threads answer heartbeats, and nobody has its jobs. What tells the two
apart is the ticking thread itself. While it waits for the interpreter it wakes each time that `sys.getswitchinterval`
has passed, to ask for it, and a thread that is stopped does not wake. Linux counts that, in
``/proc/self/task/*/schedstat``: how long the thread ran, how long it was kept waiting for a processor, and how often it
woke. Together that is how long it has been alive. Processor time would not do: C code that sleeps uses none, and on a
busy machine what computes gets little of it.

Where there is no such count, such C code looks frozen after a second: what runs then is begun once more elsewhere.
"""

from __future__ import annotations

import os
import sys
from threading import Condition, Event, Thread
from time import monotonic

TICK = 0.25

#: Shorter than the time in which heartbeats find a frozen worker (`zpipeline.sockets.HEARTBEAT_TIMEOUT_MS`), by
#: more than a tick.
GAP = 1.0

#: Where Linux says how a thread of this process was scheduled: nanoseconds that it ran, nanoseconds that it waited for
#: a processor, how often it began to run (its Documentation/scheduler/sched-stats.rst).
SCHEDSTAT = "/proc/self/task/{thread}/schedstat"

#: How long the ticking thread is waited for, in seconds: all others may be more urgent to the system.
_PATIENCE = 5.0

#: So often it is tried to read two clocks at once.
_TRIES = 100

#: A wait is over somewhat later than it was to be: 1 to 3 percent were measured.
_LATENESS = 1.1


class FreezeWatch:
    """A thread that ticks."""

    def __init__(self) -> None:
        self._last = monotonic()
        self._thawed = False
        self._lock = Condition()
        self._stop = Event()
        thread = Thread(target=self._tick, name="zpipeline freeze watch", daemon=True)
        with self._lock:
            thread.start()
            self._life = _Life(thread.native_id)
            self._lived = self._life.seconds()

    def has_thawed(self) -> bool:
        """Whether the process has stood still since this was asked last."""
        with self._lock:
            if monotonic() - self._last > GAP and not self._stop.is_set():
                # It has not noticed yet. It alone can tell for how long it has been kept waiting for a processor.
                self._lock.wait(_PATIENCE)
            self._look(wholly=False)
            thawed, self._thawed = self._thawed, False
            return thawed

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            if not self._stop.is_set():
                self._stop.set()
                self._life.close()

    def _tick(self) -> None:
        while not self._stop.wait(TICK):
            with self._lock:
                self._look(wholly=True)
                self._lock.notify_all()

    def _look(self, *, wholly: bool) -> None:
        """See how much time has passed since the last look.

        :param wholly: note for how long the process has been alive, too, though little has passed.
        """
        now = monotonic()
        if self._stop.is_set():
            return
        if wholly or now - self._last > GAP:
            now, lived = self._life_now()
            if now - self._last - (lived - self._lived) > GAP:
                self._thawed = True
            self._lived = lived
        self._last = now

    def _life_now(self) -> tuple[float, float]:
        """The time, and for how long the process has been alive by then."""
        for _ in range(_TRIES):
            begun = monotonic()
            lived = self._life.seconds()
            now = monotonic()
            if now - begun < TICK:
                break  # else the interpreter was held meanwhile, or the process was stopped: the two do not fit
        return now, lived


class _Life:
    """For how long a thread has been alive, as far as it is known. Only differences mean something.

    :param thread: as the system knows it.
    """

    def __init__(self, thread: int | None) -> None:
        self._schedstat: int | None = None
        try:
            self._schedstat = os.open(SCHEDSTAT.format(thread=thread), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        if not self._read()[2]:  # nothing is counted here
            self.close()

    def seconds(self) -> float:
        if self._schedstat is None:
            return 0.0
        ran, waited, times = self._read()
        return (ran + waited) / 1e9 + times * sys.getswitchinterval() * _LATENESS

    def close(self) -> None:
        if self._schedstat is not None:
            os.close(self._schedstat)
            self._schedstat = None

    def _read(self) -> list[int]:
        assert self._schedstat is not None
        return [int(number) for number in os.pread(self._schedstat, 100, 0).split()]
