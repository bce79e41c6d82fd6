"""How many jobs may be in flight at one worker. Pure: `now` is a parameter.

By Little's law, what is in flight is throughput times latency. So the window is the number of
settlements counted in the last `PERIOD` seconds, or in twice the round trip where that is longer:

- never fewer than concurrency + 1, so that the worker has the next job at hand when one ends;
- at most doubling each round trip, so that one lucky burst does not fill a worker that is slow;
- never more than `MAX_WINDOW` jobs.

A do-nothing handler thus gets thousands at a time, and one that takes a second gets two.

The round trip is the shortest of the last `SAMPLES` probes. A probe is a job whose time from sending to
settlement is taken, one at a time. One that had to queue behind others at the worker says how
long the queue was, not how long the way is, and counts only where it is shorter than what is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container

PERIOD = 0.05
SAMPLES = 8
MAX_WINDOW = 50_000


class Window:
    """The window of one session.

    :param concurrency: how many jobs the worker runs at once.
    :param fixed: a number of jobs that replaces all sizing; None to adapt.
    """

    __slots__ = ("_counts", "_fixed", "_grown_at", "_probe", "_samples", "_size", "_total", "concurrency", "round_trip")

    def __init__(self, concurrency: int, fixed: int | None = None) -> None:
        self.concurrency = concurrency
        self.round_trip = 0.0
        self._fixed = fixed
        self._size = concurrency + 1
        self._grown_at = 0.0
        self._counts: deque[tuple[float, int]] = deque()
        self._total = 0
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._probe: tuple[int, float, bool] | None = None

    def size(self, now: float) -> int:
        """The window, in jobs."""
        if self._fixed is not None:
            return self._fixed
        self._forget(now)
        self._size = min(self._size, self._wanted())
        return self._size

    def sent(self, sequence: int, in_flight: int, now: float) -> None:
        """A job goes out while `in_flight` others are at the worker."""
        if self._probe is None:
            self._probe = sequence, now, in_flight < self.concurrency

    def settled(self, count: int, in_flight: Container[int], now: float) -> None:
        """The worker has settled `count` jobs, and has those of `in_flight` left."""
        if self._probe is not None and self._probe[0] not in in_flight:
            self._sample(now)
        self._counts.append((now, count))
        self._total += count
        self._forget(now)
        wanted = self._wanted()
        if wanted > self._size and now - self._grown_at >= self.round_trip:
            self._size = min(wanted, 2 * self._size)
            self._grown_at = now

    def given_back(self) -> None:
        """The worker has returned jobs: whatever it was once good for, it is slow now."""
        self._counts.clear()
        self._total = 0
        self._probe = None

    def _wanted(self) -> int:
        return max(self.concurrency + 1, min(self._total, MAX_WINDOW))

    def _forget(self, now: float) -> None:
        since = now - max(PERIOD, 2 * self.round_trip)
        counts = self._counts
        while counts and counts[0][0] <= since:
            self._total -= counts.popleft()[1]

    def _sample(self, now: float) -> None:
        assert self._probe is not None
        _, sent_at, direct = self._probe
        self._probe = None
        took = now - sent_at
        if direct or took < self.round_trip or not self._samples:
            self._samples.append(took)
            self.round_trip = min(self._samples)
