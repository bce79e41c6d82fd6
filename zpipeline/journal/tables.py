"""The journal's rows: what is read and written within a transaction. No threads, no Deferreds.

Rows are written many in a statement: each statement has its price, and where it runs beside the reactor's thread, it
lets go of Python's global lock and has to get it back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any, Protocol, TypeVar

from zpipeline.entry import Entry
from zpipeline.journal.counts import Counts
from zpipeline.journal.forgetting import Forgetting
from zpipeline.retries import Key as Due
from zpipeline.store import Facts, Key, Letter, Limits, Outcome, Selection, Status, Summary, state_of_waiting

_FRESH = "sequence, body, headers, accepted_at"
_ENTRY = f"{_FRESH}, attempt, strikes, due, error"
_SUMMARY = "sequence, accepted_at, settled_at, attempts, strikes, handler, error, size"

_SETTLED = "sequence, attempts, accepted_at, settled_at, error"

#: Rows in one statement: with five values each, below the 999 that older SQLites take.
ROWS = 64

#: When SQLite's log is brought into the file: its own measure, of which this is an estimate.
_CHECKPOINT_PAGES = 1000
_PAGES_OF_TRANSACTION = 6
_ROWS_OF_PAGE = 20
_PAGE = 4096  # bytes


class _Numbered(Protocol):
    @property
    def sequence(self) -> int: ...


_Job = TypeVar("_Job", bound=_Numbered)


class _AreSettled(Exception):
    """Some of these jobs have been settled before."""


class Tables:
    """The rows of one journal.

    :param patience: how long another program that holds the file is waited for, in seconds.

    All methods but `begin` are to be called between `begin` and `commit`, or `rollback`.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits, patience: float = 1.0) -> None:
        self._connection = connection
        self._patience = patience
        self._waits: bool | None = None  # for other programs, as it is set now
        self._pages = 0  # that have been written since the last checkpoint, about
        self._limits = limits
        self._counts = Counts(connection)
        self._forgetting = Forgetting(connection, limits, self._counts)
        self._new: list[Entry] = []  # accepted in this transaction, not inserted yet
        self._changes = connection.total_changes
        self._at = 0.0

    # Transactions

    def begin(self, *, wait: bool = True) -> None:
        """Begin a transaction.

        :param wait: for another program that holds the file.
        """
        if wait is not self._waits:
            self._waits = wait
            self._connection.execute(f"PRAGMA busy_timeout={int(self._patience * 1000) if wait else 0}")
        self._connection.execute("BEGIN IMMEDIATE")

    def finish(self) -> None:
        """Write what is left of the transaction, but for its end: `commit` or `rollback` must follow."""
        self.insert_new()
        self._counts.store(self._at, self._connection.total_changes != self._changes)

    def commit(self) -> None:
        """Everything since `begin` is there to stay, and on the disk, if the connection is one that waits for that."""
        # not by execute, which lets go of the interpreter, and has to get it back, several times for a statement
        self._connection.commit()
        self._counts.committed()
        self._forgetting.committed()
        changes, self._changes = self._connection.total_changes - self._changes, self._connection.total_changes
        self._pages += _PAGES_OF_TRANSACTION + changes // _ROWS_OF_PAGE

    def rollback(self) -> None:
        """Nothing since `begin` has happened."""
        self._new.clear()
        self._counts.undone()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._forgetting.undone()

    @property
    def dead(self) -> int:
        """How many dead letters there are, as it is committed."""
        return self._counts.stored("dead")

    @property
    def wants_checkpoint(self) -> bool:
        """Whether SQLite's log is so long that it should be brought into the file."""
        return self._pages >= _CHECKPOINT_PAGES

    def checkpoint(self) -> int:
        """Bring SQLite's log into the file, outside of transactions. It waits for the disk.

        :returns: how many bytes of the log could not be brought there, since another program reads the journal as it
            was before.
        """
        self._pages = 0  # if it fails, the next try is after as many
        pages: int
        brought: int
        _, pages, brought = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return max(0, pages - brought) * _PAGE

    def probe(self) -> None:
        """Write something that means nothing, to see whether writing works."""
        self._connection.execute("UPDATE meta SET value = (value + 1) % 1000000 WHERE name = 'probes'")

    def shorten_log(self) -> None:
        """Have SQLite's log brought into the file after this transaction, and begun anew with a later one."""
        self._pages = max(self._pages, _CHECKPOINT_PAGES)
        self.probe()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    # Jobs come

    def accept(self, entries: Sequence[Entry], key: Key | None, at: float) -> int | None:
        """See `zpipeline.store.Store.accept`."""
        if key is not None:
            holder = self._take_key(key, entries[0].sequence, at)
            if holder is not None:
                return holder
        self._new.extend(entries)
        size = sum([len(entry.body) for entry in entries])
        self._pages += size // _PAGE
        self._counts.add(pending=len(entries), pending_bytes=size)
        return None

    def _take_key(self, key: Key, sequence: int, at: float) -> int | None:
        found = self._connection.execute(
            "SELECT fingerprint, sequence FROM keys WHERE name = ? AND (expires IS NULL OR expires >= ?)",
            (key.name, at),
        ).fetchone()
        if found is not None:
            key.check(found[0])
            return int(found[1])
        self._forgetting.forget_keys(at)
        self._limits.check_keys(self._counts["keys"])
        # an expired one may be there still
        gone = self._connection.execute("DELETE FROM keys WHERE name = ?", (key.name,)).rowcount
        self._connection.execute("INSERT INTO keys VALUES (?, ?, ?, NULL)", (key.name, key.fingerprint, sequence))
        self._counts.add(keys=1 - gone)
        return None

    def insert_new(self) -> None:
        """Insert what was accepted, so that it can be read."""
        new, self._new = self._new, []
        self._insert(
            "INSERT INTO jobs (sequence, body, headers, accepted_at) VALUES",
            [(entry.sequence, entry.body, entry.headers, entry.accepted_at) for entry in new],
        )

    # What happens to jobs

    def write(self, facts: Facts) -> list[tuple[int, int]]:
        """What has happened to jobs, before anything else in the transaction.

        A job can be done twice: once when it is in the store alone, and again when it has been read since. That is so
        rare that it is found out afterwards, and all is written again with a look at each job.

        :returns: what is for `zpipeline.store.StoreOwner.settled_elsewhere`.
        """
        try:
            return self._write(facts, look=False)
        except _AreSettled:
            self.rollback()
            self.begin(wait=bool(self._waits))
            return self._write(facts, look=True)

    def _write(self, facts: Facts, *, look: bool) -> list[tuple[int, int]]:
        if facts.tried:
            self._connection.executemany(
                "UPDATE jobs SET attempt = ?, strikes = ?, due = ?, error = ? WHERE sequence = ?", facts.tried
            )
        done = self._unsettled(facts.done, look)
        self._settle(
            [(entry.sequence, entry.attempt, entry.accepted_at, entry.settled_at, None) for entry in done],
            sum([len(entry.body) for entry in done]),
        )
        dead = self._unsettled([letter.summary for letter in facts.dead], look)
        self._settle(
            [(each.sequence, each.attempts, each.accepted_at, each.settled_at, each.error) for each in dead],
            sum([each.size for each in dead]),
        )
        buried = {each.sequence for each in dead}
        self._bury([letter for letter in facts.dead if letter.summary.sequence in buried])
        self._counts.add(dead=len(dead))
        # last: of one that is among those above, too, its owner knows already
        elsewhere = self._settle_elsewhere(dict(facts.elsewhere))
        if facts.results:
            self._keep(facts.results, [entry.sequence for entry in done] + [sequence for sequence, _ in elsewhere])
        return elsewhere

    def _unsettled(self, jobs: list[_Job], look: bool) -> list[_Job]:
        if not (look and jobs):
            return jobs
        rows = self._select("SELECT sequence FROM jobs WHERE sequence IN", [job.sequence for job in jobs])
        there = {row[0] for row in rows}
        return list({job.sequence: job for job in jobs if job.sequence in there}.values())

    def _settle_elsewhere(self, times: dict[int, float]) -> list[tuple[int, int]]:
        found = self._select(
            "SELECT sequence, attempt, accepted_at, length(body) FROM jobs WHERE sequence IN", list(times)
        )
        self._settle([(*row[:3], times[row[0]], None) for row in found], sum([row[3] for row in found]))
        return [(row[0], row[3]) for row in found]

    def _keep(self, results: dict[int, bytes], settled: Sequence[int]) -> None:
        """What some of these jobs have returned; others were settled before, and of those it is known already."""
        rows = [(sequence, results[sequence]) for sequence in settled if sequence in results]
        self._insert("INSERT OR REPLACE INTO results VALUES", rows)
        self._connection.executemany(
            "UPDATE settled SET returned = 1 WHERE sequence = ?", [(sequence,) for sequence, _ in rows]
        )
        size = sum([len(result) for _, result in rows])
        self._pages += size // _PAGE
        self._counts.add(result_bytes=size)

    def _bury(self, letters: list[Letter]) -> None:
        for letter in letters:
            self._connection.execute(
                f"INSERT OR REPLACE INTO dead ({_SUMMARY}, body, headers, traceback) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*letter.summary, letter.body, letter.headers, letter.traceback),
            )

    def _settle(self, rows: list[tuple[Any, ...]], size: int) -> None:
        """These jobs are settled.

        :param size: of their bodies together.
        """
        if not rows:
            return
        numbers = sorted([row[0] for row in rows])
        gone = self._connection.executemany("DELETE FROM jobs WHERE sequence BETWEEN ? AND ?", _runs(numbers)).rowcount
        if gone != len(rows):
            raise _AreSettled
        self._forgetting.settles(numbers, rows)
        self._insert(f"INSERT OR REPLACE INTO settled ({_SETTLED}) VALUES", rows)
        self._counts.add(pending=-len(rows), pending_bytes=-size, settled=len(rows))
        if self._counts["keys"]:
            keep = self._limits.keep
            self._connection.executemany(
                "UPDATE keys SET expires = ? WHERE sequence = ?", [(row[3] + keep, row[0]) for row in rows]
            )

    # Pages

    def load(self, after: int, most: int, most_bytes: int) -> tuple[list[Entry], bool]:
        """See `zpipeline.store.Store.load`."""
        found = self._connection.execute(
            # what was tried or struck is due
            f"SELECT {_FRESH} FROM jobs WHERE sequence > ? AND due IS NULL ORDER BY sequence LIMIT ?",
            (after, most + 1),
        )
        return _page(found, most, most_bytes)

    def load_retries(self, after: Due, most: int, most_bytes: int) -> tuple[list[Entry], bool]:
        """See `zpipeline.store.Store.load_retries`."""
        found = self._connection.execute(
            f"SELECT {_ENTRY} FROM jobs WHERE due IS NOT NULL AND (due, sequence) > (?, ?) "
            "ORDER BY due, sequence LIMIT ?",
            (*after, most + 1),
        )
        return _page(found, most, most_bytes)

    # Questions

    def status(self, sequence: int, at: float) -> Status | None:
        """See `zpipeline.store.Store.status`."""
        execute = self._connection.execute
        row = execute("SELECT attempt, accepted_at, due, error FROM jobs WHERE sequence = ?", (sequence,)).fetchone()
        if row is not None:
            return Status(state_of_waiting(row[2], row[3]), row[0], row[1], None, row[3])
        row = execute(
            "SELECT attempts, accepted_at, settled_at, error FROM dead WHERE sequence = ?", (sequence,)
        ).fetchone()
        if row is not None:
            return Status("dead", *row)
        row = execute(
            "SELECT attempts, accepted_at, settled_at, error FROM settled WHERE sequence = ? AND settled_at >= ?",
            (sequence, at - self._limits.keep),
        ).fetchone()
        return None if row is None else Status("done" if row[3] is None else "dead", *row)

    def outcome(self, sequence: int, at: float) -> Outcome | None:
        """See `zpipeline.store.Store.outcome`."""
        status = self.status(sequence, at)
        if status is None:
            return None
        row = self._connection.execute(
            "SELECT returned, value FROM settled LEFT JOIN results USING (sequence) WHERE sequence = ?", (sequence,)
        ).fetchone()
        return Outcome(status) if row is None else Outcome(status, bool(row[0]), row[1])

    def letters(self, after: int, most: int) -> list[Summary]:
        """See `zpipeline.store.Store.letters`."""
        found = self._connection.execute(
            f"SELECT {_SUMMARY} FROM dead WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, most)
        )
        return [Summary(*row) for row in found]

    def letter(self, sequence: int) -> Letter | None:
        """See `zpipeline.store.Store.letter`."""
        row = self._connection.execute(
            f"SELECT {_SUMMARY}, body, headers, traceback FROM dead WHERE sequence = ?", (sequence,)
        ).fetchone()
        return None if row is None else Letter(Summary(*row[:8]), *row[8:])

    # Dead letters go

    def revive(self, chosen: Selection, at: float, most: int, most_bytes: int) -> tuple[list[Entry], bool]:
        """See `zpipeline.store.Store.revive`."""
        found = self._connection.execute(
            "SELECT sequence, body, headers, accepted_at, 1, 0, ?1, NULL FROM dead WHERE sequence > ?2 "
            "AND sequence <= ?3 AND (?4 IS NULL OR handler = ?4) AND (?5 IS NULL OR instr(error, ?5) > 0) "
            "ORDER BY sequence LIMIT ?6",
            (at, chosen.after, chosen.last, chosen.handler, chosen.error, most + 1),
        )
        entries, more = _page(found, most, most_bytes)
        numbers = [entry.sequence for entry in entries]
        self._counts.add(dead=-self._delete("DELETE FROM dead WHERE sequence IN", numbers))
        self._counts.add(settled=-self._delete("DELETE FROM settled WHERE sequence IN", numbers))
        self._forgetting.revived(numbers)
        self._connection.executemany("UPDATE keys SET expires = NULL WHERE sequence = ?", [(n,) for n in numbers])
        self._connection.executemany(
            "INSERT INTO jobs (sequence, body, headers, accepted_at, due) VALUES (?, ?, ?, ?, ?)",
            [(entry.sequence, entry.body, entry.headers, entry.accepted_at, at) for entry in entries],
        )
        self._counts.add(pending=len(entries), pending_bytes=sum([len(entry.body) for entry in entries]))
        return entries, more

    def drop(self, sequence: int) -> bool:
        """See `zpipeline.store.Store.drop`."""
        gone = self._delete("DELETE FROM dead WHERE sequence IN", [sequence])
        self._counts.add(dead=-gone)
        return gone > 0

    # The time

    def keep_skew(self, skew: float) -> None:
        """See `zpipeline.store.Store.keep_skew`."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('skew', ?)", (round(skew * 1000),))

    # What is old goes

    def tidy(self, at: float) -> None:
        """Forget some of what has been kept for long enough; it is that time, which is kept with the transaction."""
        self._at = at
        self._forgetting.tidy(at)

    # Rows and counts

    def _insert(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for chunk in _chunks(rows):
            places = "(" + ",".join("?" * len(chunk[0])) + ")"
            self._connection.execute(f"{statement} {','.join([places] * len(chunk))}", list(chain.from_iterable(chunk)))

    def _select(self, statement: str, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
        return [
            row
            for chunk in _chunks(numbers)
            for row in self._connection.execute(f"{statement} ({','.join('?' * len(chunk))})", chunk)
        ]

    def _delete(self, statement: str, numbers: Sequence[int]) -> int:
        return sum(
            self._connection.execute(f"{statement} ({','.join('?' * len(chunk))})", chunk).rowcount
            for chunk in _chunks(numbers)
        )


def _page(rows: Iterable[tuple[Any, ...]], most: int, most_bytes: int) -> tuple[list[Entry], bool]:
    entries: list[Entry] = []
    size = 0
    for row in rows:
        if len(entries) == most or size > most_bytes:
            return entries, True
        entries.append(Entry(*row))
        size += len(row[1])
    return entries, False


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """The first and the last of each run of numbers without a gap.

    :param numbers: in order.
    """
    ends = [number for number, following in pairwise(numbers) if following != number + 1]
    starts = [following for number, following in pairwise(numbers) if following != number + 1]
    return list(zip([numbers[0], *starts], [*ends, numbers[-1]], strict=True))


def _chunks(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Pieces for a statement each."""
    for start in range(0, len(rows), ROWS):
        yield rows[start : start + ROWS]
