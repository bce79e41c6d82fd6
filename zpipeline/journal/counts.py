"""What the journal counts, rather than having SQLite count its rows: stored in `meta` with each transaction."""

from __future__ import annotations

import sqlite3

from zpipeline.journal.schema import COUNTS

_STORE = f"UPDATE meta SET value = CASE name {' '.join(f'WHEN {name!r} THEN ?' for name in COUNTS)} ELSE value END"


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

    def store(self) -> None:
        """Write them; `committed` or `undone` must follow."""
        if self._now != self._stored:
            self._connection.execute(_STORE, [self._now[name] for name in COUNTS])

    def committed(self) -> None:
        """The transaction has been committed."""
        self._stored = dict(self._now)

    def undone(self) -> None:
        """Nothing of the transaction has happened."""
        self._now = dict(self._stored)
