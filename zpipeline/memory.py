"""What a pipeline remembers of settled jobs, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from zpipeline.dispatch import Entry


class Settled:
    """The last jobs that were settled, without their bodies.

    :param most: how many; the oldest are forgotten.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[int, Entry] = OrderedDict()

    def add(self, entries: Iterable[Entry]) -> None:
        """Remember these, just settled."""
        kept = self._entries
        for entry in entries:
            entry.body = b""
            kept[entry.sequence] = entry
        while len(kept) > self._most:
            kept.popitem(last=False)

    def get(self, sequence: int) -> Entry | None:
        """The settled job of that number, if it is remembered."""
        return self._entries.get(sequence)
