"""What the journal keeps of settled jobs, results and idempotency keys goes when it is old, or too much.

Settled jobs go in the order of their settlement. An index by it would double what settling a job costs, and most jobs
are settled in about the order in which they were accepted, which is that of the table. The others are in the table
`late`, which has that index: jobs whose numbers are lower than the highest that was settled before them, by more than a
twentieth of how many may be kept. So those that go first are at the front of one of the two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from heapq import merge
from typing import Any

from attrs import evolve, frozen

from zpipeline.journal.counts import Counts
from zpipeline.store import Limits

#: How often what is old is looked for, in seconds, and how many rows at once.
_INTERVAL = 0.1
_ROWS = 2000

#: By how many numbers a job may be settled out of order without being late, and how many too many there may be until
#: they go: parts of how many may be kept.
_TOLERANCE = 20
_SURPLUS = 1000

_NOT_LATE = "NOT EXISTS (SELECT 1 FROM late WHERE late.sequence = settled.sequence)"


@frozen
class _Fronts:
    """Up to these numbers there are late jobs only: among those that are settled, and among those with results."""

    settled: int = 0
    results: int = 0


class Forgetting:
    """Deletes what has been kept for long enough. Its methods are to be called within a transaction."""

    def __init__(self, connection: sqlite3.Connection, limits: Limits, counts: Counts) -> None:
        self._connection = connection
        self._limits = limits
        self._counts = counts
        self._looked_at = 0.0
        self._fronts = self._committed = _Fronts()
        self._highest: int | None = None  # None: it has to be looked up, and whether there are late ones
        self._has_late = False

    def committed(self) -> None:
        """The transaction has been committed."""
        self._committed = self._fronts

    def undone(self) -> None:
        """Nothing of the transaction has happened."""
        self._fronts = self._committed
        self._highest = None

    def _look_up(self) -> int:
        """The highest number of a settled job."""
        if self._highest is None:
            (self._highest,) = self._connection.execute("SELECT coalesce(max(sequence), 0) FROM settled").fetchone()
            self._look_for_late()
        assert self._highest is not None
        return self._highest

    def _look_for_late(self) -> None:
        self._has_late = self._connection.execute("SELECT 1 FROM late LIMIT 1").fetchone() is not None

    def settles(self, numbers: Sequence[int], rows: Sequence[tuple[Any, ...]]) -> None:
        """These jobs are about to be among the settled ones.

        :param numbers: theirs, in order.
        :param rows: their numbers, attempts, and times of acceptance and settlement.
        """
        highest = self._look_up()
        in_order_from = max(self._fronts.settled + 1, highest - self._limits.most_settled // _TOLERANCE)
        if numbers[0] < in_order_from:
            late = [(row[0], row[3]) for row in rows if row[0] < in_order_from]
            self._connection.executemany("INSERT OR REPLACE INTO late VALUES (?, ?)", late)
            self._has_late = True
        self._highest = max(highest, numbers[-1])

    def revived(self, numbers: Sequence[int]) -> None:
        """These are not settled any longer."""
        self._look_up()
        if self._has_late:
            self._connection.executemany("DELETE FROM late WHERE sequence = ?", [(number,) for number in numbers])

    def tidy(self, at: float) -> None:
        """Forget what is too much, and now and then what is old: some at a time."""
        most, most_bytes = self._limits.most_settled, self._limits.most_result_bytes
        surplus = self._counts["settled"] - most
        if surplus > most // _SURPLUS:
            self._forget_first(surplus)
        surplus_bytes = self._counts["result_bytes"] - most_bytes
        if surplus_bytes > most_bytes // _SURPLUS:
            self._forget_first_results(surplus_bytes)
        if 0 <= at - self._looked_at < _INTERVAL:
            return
        self._looked_at = at
        self._forget_before(at - self._limits.keep)
        self.forget_keys(at)

    def forget_keys(self, at: float) -> None:
        """Forget idempotency keys that have expired: some."""
        gone = self._connection.execute(
            "DELETE FROM keys WHERE name IN (SELECT name FROM keys WHERE expires < ? LIMIT ?)", (at, _ROWS)
        ).rowcount
        self._counts.add(keys=-gone)

    # Settled jobs

    def _forget_first(self, most: int) -> None:
        """So many, those that were settled first."""
        self._look_up()
        if self._has_late:
            first = self._connection.execute(
                "SELECT sequence, is_late FROM ("
                "SELECT * FROM (SELECT sequence, settled_at, 0 AS is_late FROM settled "
                f"WHERE sequence > ? AND {_NOT_LATE} ORDER BY sequence LIMIT ?) UNION ALL "
                "SELECT * FROM (SELECT sequence, settled_at, 1 FROM late ORDER BY settled_at, sequence LIMIT ?)"
                ") ORDER BY settled_at, sequence LIMIT ?",
                (self._fronts.settled, most, most, most),
            )
            late = [sequence for sequence, is_late in first if is_late]
            self._forget_late(late)
            most -= len(late)
        if most > 0:
            self._forget_in_order(most)

    def _forget_in_order(self, most: int) -> None:
        """So many of those that are not late."""
        front = self._fronts.settled
        found = self._connection.execute(
            f"SELECT sequence FROM settled WHERE sequence > ?{self._and_not_late} ORDER BY sequence LIMIT 1 OFFSET ?",
            (front, most - 1),
        ).fetchone()
        last = self._look_up() if found is None else found[0]
        self._forget(f"sequence > ? AND sequence <= ?{self._and_not_late}", (front, last))
        self._fronts = evolve(self._fronts, settled=last)

    def _forget_before(self, settled_at: float) -> None:
        """Those that were settled before that time, of the first that are not known to be late and of the late ones."""
        self._look_up()
        front = self._fronts.settled
        some = "SELECT sequence, settled_at FROM settled WHERE sequence > ? ORDER BY sequence LIMIT ?"
        self._forget(
            f"sequence IN (SELECT sequence FROM ({some}) WHERE settled_at < ?){self._and_not_late}",
            (front, _ROWS, settled_at),
        )
        if self._has_late:
            first, last = self._connection.execute(
                f"SELECT min(CASE WHEN {_NOT_LATE} THEN sequence END), max(sequence) FROM ({some}) AS settled",
                (front, _ROWS),
            ).fetchone()
            if last is not None:
                self._fronts = evolve(self._fronts, settled=last if first is None else first - 1)
            late = self._connection.execute(
                "SELECT sequence FROM late WHERE settled_at < ? ORDER BY settled_at LIMIT ?", (settled_at, _ROWS)
            )
            self._forget_late([number for (number,) in late])

    def _forget_late(self, numbers: list[int]) -> None:
        for number in numbers:
            self._forget("sequence = ?", (number,))
            self._connection.execute("DELETE FROM late WHERE sequence = ?", (number,))
        self._look_for_late()

    @property
    def _and_not_late(self) -> str:
        return f" AND {_NOT_LATE}" if self._has_late else ""

    def _forget(self, which: str, values: tuple[float, ...]) -> None:
        if self._counts["result_bytes"]:
            self._forget_results(f"sequence IN (SELECT sequence FROM settled WHERE {which})", values)
        gone = self._connection.execute(f"DELETE FROM settled WHERE {which}", values).rowcount
        self._counts.add(settled=-gone)

    # Results

    def _forget_first_results(self, size: int) -> None:
        """Results of about so many bytes, of the jobs that were settled first."""
        columns = "settled_at, sequence, length(value), {} FROM results"
        in_order = self._connection.execute(
            f"SELECT {columns.format(0)} JOIN settled USING (sequence) WHERE results.sequence > ? AND {_NOT_LATE} "
            "ORDER BY results.sequence",
            (self._fronts.results,),
        )
        late = self._connection.execute(
            f"SELECT {columns.format(1)} JOIN late USING (sequence) ORDER BY settled_at, sequence"
        )
        gone = []
        front = self._fronts.results
        for _, sequence, length, is_late in merge(in_order, late):
            gone.append((sequence,))
            size -= length
            self._counts.add(result_bytes=-length)
            if not is_late:
                front = sequence
            if size <= 0:
                break
        in_order.close()
        late.close()
        self._connection.executemany("DELETE FROM results WHERE sequence = ?", gone)
        self._fronts = evolve(self._fronts, results=front)

    def _forget_results(self, which: str, values: tuple[float, ...]) -> None:
        size: int = self._connection.execute(
            f"SELECT coalesce(sum(length(value)), 0) FROM results WHERE {which}", values
        ).fetchone()[0]
        if size:
            self._connection.execute(f"DELETE FROM results WHERE {which}", values)
            self._counts.add(result_bytes=-size)
