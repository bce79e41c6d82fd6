"""Jobs that may have killed the worker that held them, and how the one that did is found. Pure.

What a worker process held when it died is suspect, all of it: one of its jobs may be to blame, and nobody saw
which. Suspects go out again in groups, each alone on one worker, while ordinary jobs flow on the others. A group that
does not kill its worker is innocent. One that does is cut into groups of a sixteenth, down to one job; and a job that
was alone when its worker died is struck, and tried again, alone, after a rest. `MAX_STRIKES` make it a dead letter.

So a job that kills whatever runs it is found at the price of a few workers, and not one of the jobs beside it is
punished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain

from zpipeline.entry import Entry

SHARES = 16
MAX_STRIKES = 3


class Suspects:
    """Groups of suspects that wait for a worker of their own, the next one first."""

    def __init__(self) -> None:
        self._groups: deque[list[Entry]] = deque()

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Entry]:
        """All that wait, those settled meanwhile included."""
        return chain.from_iterable(self._groups)

    def cut(self, entries: list[Entry]) -> None:
        """These, in order, were at a worker that died: they are next, in smaller groups."""
        size = -(-len(entries) // SHARES)
        groups = [entries[start : start + size] for start in range(0, len(entries), size)]
        self._groups.extendleft(reversed(groups))

    def again(self, entries: list[Entry]) -> None:
        """This group has not been tried to the end: it is next, as it is."""
        self._groups.appendleft(entries)

    def next(self) -> list[Entry]:
        """The next group; those settled meanwhile, by a late DONE, are left out. Empty when there is none."""
        while self._groups:
            group = [entry for entry in self._groups.popleft() if entry.settled_at is None]
            if group:
                return group
        return []
