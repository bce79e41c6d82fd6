"""Jobs that wait for another attempt, the soonest first. Pure: the time is a parameter.

Those due up to a horizon are in memory, and later ones are read when these become few.
"""

from __future__ import annotations

import random
from heapq import heapify, heappop, heappush
from math import isfinite

from attrs import frozen

from zpipeline.entry import Entry
from zpipeline.errors import UsageError

#: So many attempts a message can count (docs/protocol.rst, JOBS).
MAX_ATTEMPTS = (1 << 16) - 1

#: In memory there are no more than about so many jobs, and bytes of their bodies.
MOST = 10_000
MOST_BYTES = 16 << 20

Key = tuple[float, int]


@frozen
class Policy:
    """What becomes of jobs whose handlers fail.

    :ivar attempts: how many there are.
    :ivar first: the longest delay before the second attempt, in seconds; it doubles with each.
    :ivar longest: and is never longer, in seconds.
    :ivar timeout: how long an attempt may take, in seconds; None for ever.
    :raises UsageError: a number cannot work.
    """

    attempts: int = 5
    first: float = 1.0
    longest: float = 300.0
    timeout: float | None = None

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise UsageError(f"attempts are from 1 to {MAX_ATTEMPTS}, not {self.attempts}")
        if not (0 <= self.first <= self.longest and isfinite(self.longest)):
            raise UsageError(
                f"a backoff is two numbers of seconds, the first not the longer, not {self.first}, {self.longest}"
            )
        if self.timeout is not None and not (isfinite(self.timeout) and self.timeout > 0):
            raise UsageError(f"a timeout is a number of seconds above 0, not {self.timeout}")

    def delay(self, attempt: int) -> float:
        """How long to wait after this attempt (1 for the first), in seconds: exponential, with full jitter.

        Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        return random.uniform(0, min(self.longest, self.first * 2.0 ** min(attempt - 1, 60)))


class Retries:
    """The jobs that wait.

    :param bounded: whether what is too much may be left to the store; else all is in memory.
    :ivar horizon: all that is due up to here is in memory, and there may be more beyond; None when all is.
    """

    def __init__(self, *, bounded: bool) -> None:
        self._bounded = bounded
        self._heap: list[tuple[float, int, Entry]] = []
        self._bytes = 0
        self._page_awaited = False
        self.horizon: Key | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, entry: Entry) -> list[Entry]:
        """Have this one wait until it is due: those that are in memory no longer."""
        assert entry.due is not None
        key = (entry.due, entry.sequence)
        # While a page is on its way, nothing is left out: it may have been read before this one was written.
        if self.horizon is not None and key > self.horizon and not self._page_awaited:
            return [entry]
        heappush(self._heap, (*key, entry))
        self._bytes += len(entry.body)
        if not self._bounded or self._page_awaited or (len(self._heap) <= MOST and self._bytes <= MOST_BYTES):
            return []
        return self._shrink()

    def _shrink(self) -> list[Entry]:
        """Leave out the later half, and more if it takes that."""
        self._heap.sort()
        size = keep = 0
        while keep < max(1, len(self._heap) // 2) and size <= MOST_BYTES // 2:
            size += len(self._heap[keep][2].body)
            keep += 1
        dropped = [entry for _, _, entry in self._heap[keep:] if entry.settled_at is None]
        del self._heap[keep:]
        self._bytes = size
        # what is left out is all beyond this
        self.horizon = self._heap[-1][:2]
        return dropped

    def ask_for_page(self) -> Key | None:
        """After what the next page is to be read, if those in memory have become few and there are others.

        `add_page`, or `page_failed`, must follow.
        """
        is_low = len(self._heap) <= MOST // 4 and self._bytes <= MOST_BYTES // 4
        if self._page_awaited or self.horizon is None or not is_low:
            return None
        self._page_awaited = True
        return self.horizon

    def load_all(self) -> None:
        """There may be some in the store, and none is here."""
        self.horizon = (float("-inf"), 0)

    def add_page(self, entries: list[Entry], last: Key | None) -> None:
        """These were read.

        :param last: of the page, what is in memory already included; None when there is no more beyond it.
        """
        self._page_awaited = False
        for entry in entries:
            assert entry.due is not None
            self._heap.append((entry.due, entry.sequence, entry))
            self._bytes += len(entry.body)
        heapify(self._heap)
        self.horizon = last

    def page_failed(self) -> None:
        """It could not be read: it will be asked for again."""
        self._page_awaited = False

    @property
    def next_due(self) -> float | None:
        """When the next one is due, in seconds since the epoch."""
        return self._heap[0][0] if self._heap else None

    def waiting_since(self, at: float) -> float | None:
        """When the first was due of those that are due now, and not settled; None when there is none."""
        if not self._heap or self._heap[0][0] > at:
            return None
        return min([due for due, _, entry in self._heap if due <= at and entry.settled_at is None], default=None)

    def take_due(self, at: float) -> list[Entry]:
        """Those that are due now and not settled."""
        due = []
        while self._heap and self._heap[0][0] <= at:
            entry = heappop(self._heap)[2]
            self._bytes -= len(entry.body)
            if entry.settled_at is None:
                due.append(entry)
        return due
