"""How many jobs may be in flight at one worker. Pure: `now` is a parameter.

By Little's law, what is in flight is throughput times latency. So the window is the largest of

- concurrency + 1, so that the worker has the next job at hand when one ends;
- the settlements of the last `PERIOD` seconds;
- concurrency + 1 and one and a half times what is under way: of the jobs that the worker settles in one round trip,
  `concurrency` are running at any time, and the others are on a wire. This is what counts where the way is long;

and never more than `MAX_WINDOW` jobs. Beyond concurrency + 1 it at most doubles each round trip, so that one lucky
burst does not fill a worker that is slow. A do-nothing handler thus gets thousands at a time, and one that takes a
second gets two.

A probe is a job whose time from sending to settlement is taken, one at a time; the settlements in that time tell the
throughput. The round trip is the shortest of the last `SAMPLES` probes that did not have to queue at the worker.
One that had to says how long the queue was, not how long the way is, and counts only where it is shorter than what is
known.

A run is how many jobs the worker does in `RUN_SECONDS`, by what it says that one takes. So many can go to it together,
and the next to another worker: the last of them waits no longer than that, and messages are few where workers are many.

A round trip that is taken for too short keeps the window small, and a worker that is never idle gives no sample that
would tell. So when it is down to concurrency + 1, and probe after probe has queued, it is one less until one has not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container

PERIOD = 0.05
SAMPLES = 8
MAX_WINDOW = 50_000

RUN_SECONDS = 0.001
MAX_RUN = 250

_MAX_QUEUED = 2  # probes in a row


class Window:
    """The window of one session.

    :param concurrency: how many jobs the worker runs at once.
    :param fixed: a number of jobs that replaces all sizing; None to adapt.
    :ivar run: how many jobs the worker is given in its turn.
    :ivar round_trip: the time from sending to settlement without a queue, in seconds; 0.0 until it is known.
    """

    __slots__ = (
        "_counts",
        "_fixed",
        "_grown_at",
        "_probe",
        "_queued",
        "_samples",
        "_settled",
        "_size",
        "_total",
        "_under_way",
        "_under_way_until",
        "concurrency",
        "round_trip",
        "run",
    )

    def __init__(self, concurrency: int, fixed: int | None = None) -> None:
        self.concurrency = concurrency
        self.run = 1
        self.round_trip = 0.0
        self._fixed = fixed
        self._size = 0
        self._grown_at = 0.0
        self._counts: deque[tuple[float, int]] = deque()
        self._total = 0  # of _counts
        self._settled = 0  # ever
        self._under_way = 0.0
        self._under_way_until = 0.0
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._queued = 0
        self._probe: tuple[int, float, bool, int] | None = None

    def size(self, now: float) -> int:
        """The window, in jobs."""
        if self._fixed is not None:
            return self._fixed
        least = min(self.concurrency + 1, MAX_WINDOW)
        self._size = max(least, min(self._size, self._wanted(now)))
        if self._size > 2 * least:
            self._queued = 0
        return least - 1 if self._size == least and self._queued > _MAX_QUEUED else self._size

    def took(self, seconds: float) -> None:
        """The worker says that a job takes so long now, on average."""
        if self._fixed is None:
            most = RUN_SECONDS * self.concurrency
            self.run = MAX_RUN if seconds * MAX_RUN <= most else max(1, int(most / seconds))

    @property
    def in_use(self) -> int:
        """The window as it was when it was last asked for, or has grown since."""
        return self._fixed if self._fixed is not None else max(self._size, self.concurrency + 1)

    def sent(self, sequence: int, in_flight: int, now: float) -> None:
        """A job goes out while `in_flight` others are at the worker. Of some that go out together, name the first."""
        if self._probe is None:
            self._probe = sequence, now, in_flight < self.concurrency, self._settled

    def settled(self, count: int, in_flight: Container[int], now: float) -> None:
        """The worker has settled `count` jobs, and has those of `in_flight` left."""
        if self._fixed is not None:
            return
        self._settled += count
        self._counts.append((now, count))
        self._total += count
        if self._probe is not None and self._probe[0] not in in_flight:
            self._measure(now)
        wanted = self._wanted(now)
        if wanted > self._size and now - self._grown_at >= self.round_trip:
            self._size = min(wanted, 2 * max(self._size, self.concurrency + 1))
            self._grown_at = now

    def given_back(self) -> None:
        """The worker has returned jobs: whatever it was once good for, it is slow now."""
        self.run = 1
        self._counts.clear()
        self._total = 0
        self._under_way = 0.0
        self._probe = None

    def _wanted(self, now: float) -> int:
        counts = self._counts
        while counts and counts[0][0] <= now - PERIOD:
            self._total -= counts.popleft()[1]
        under_way = round(1.5 * self._under_way) if now < self._under_way_until else 0
        return min(max(self.concurrency + 1 + under_way, self._total), MAX_WINDOW)

    def _measure(self, now: float) -> None:
        assert self._probe is not None
        _, sent_at, direct, settled_before = self._probe
        self._probe = None
        took = now - sent_at
        self._queued = 0 if direct else self._queued + 1
        if direct or took < self.round_trip:
            self._samples.append(took)
            self.round_trip = min(self._samples)
        in_a_round_trip = (self._settled - settled_before) * self.round_trip / took if took else 0
        self._under_way = max(0.0, in_a_round_trip - self.concurrency)
        self._under_way_until = now + PERIOD + 2 * took
