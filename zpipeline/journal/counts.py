"""What the journal counts, rather than having SQLite count its rows: stored in `meta` with each transaction.

The time of the transaction is stored with it: so the journal's own time does not go back when the system's clock does.
"""

from __future__ import annotations

import sqlite3

from zpipeline.journal.schema import COUNTS

_STORE = (
    "UPDATE meta SET value = CASE name "
    f"{' '.join(f'WHEN {name!r} THEN ?' for name in COUNTS)} WHEN 'time' THEN max(value, ?) ELSE value END"
)


class Counts:
    """The counts of one journal (`zpipeline.journal.schema.COUNTS`): as they are in this transaction, and as stored."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        self._now: dict[str, int] = {name: meta[name] for name in COUNTS}
        self._stored = dict(self._now)

    def __getitem__(self, name: str) -> int:
        return self._now[name]

    def add(self, **changes: int) -> None:
        """Count so many more, or fewer."""
        for name, change in changes.items():
            self._now[name] += change

    def stored(self, name: str) -> int:
        """As it is committed."""
        return self._stored[name]

    def store(self, at: float, has_changed: bool) -> None:
        """Write them, and the time, if the transaction changes anything; `committed` or `undone` must follow.

        :param at: now, in seconds since the epoch, as the journal has it.
        :param has_changed: whether rows have been changed.
        """
        if has_changed or self._now != self._stored:
            self._connection.execute(_STORE, [*(self._now[name] for name in COUNTS), round(at * 1000)])

    def committed(self) -> None:
        """The transaction has been committed."""
        self._stored = dict(self._now)

    def undone(self) -> None:
        """Nothing of the transaction has happened."""
        self._now = dict(self._stored)
