"""The journal: jobs in an SQLite file, from the moment when they are accepted until they are settled, and longer.

The pipeline knows `Journal` alone:

    schema.py      the tables, and what is wrong with a file that cannot be used
    lock.py        the lock beside it
    opening.py     opening it
    identity.py    whether the file that is open still has its name
    tables.py      what is read and written within a transaction
    counts.py      what is counted there
    forgetting.py  what is not kept any longer
    writer.py      when that is done, and in which thread: group commit
    sifting.py     finding what cannot be written
    mounts.py      a warning where the file is on a network file system
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from zpipeline.entry import Entry
from zpipeline.errors import JournalError, UsageError
from zpipeline.journal import opening
from zpipeline.journal.identity import Identity
from zpipeline.journal.lock import Lock
from zpipeline.journal.mounts import warn_of_network
from zpipeline.journal.schema import explain
from zpipeline.journal.tables import Tables
from zpipeline.journal.writer import MOST_QUICK, Kind, Request, Writer
from zpipeline.retries import Key as Due
from zpipeline.stats import Commits
from zpipeline.store import Facts, Key, Letter, Limits, Opened, Outcome, Selection, Status, StoreOwner, Summary
from zpipeline.times import Times

__all__ = ["Journal"]

#: Dead letters that become jobs again in one transaction, and bytes of their bodies, about.
_REVIVED = 1000
_REVIVED_BYTES = 16 << 20


class Journal:
    """A `zpipeline.store.Store` in a file.

    :param path: of the file; it is made if it is not there.
    :param times: what time it is; they go on from the time that the file has.
    :param synchronous: ``full``: what was accepted outlives a power cut; ``normal``: it outlives this process.
    :param commits: what its transactions are like is noted there, if it is given.
    """

    holds_all = False

    def __init__(
        self,
        reactor: Any,
        path: str,
        times: Times,
        *,
        synchronous: str,
        limits: Limits,
        commits: Commits | None = None,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._times = times
        self._synchronous = synchronous
        self._limits = limits
        self._commits = commits if commits is not None else Commits()
        self._lock: Lock | None = None
        self._tables: Tables | None = None
        self._writer: Writer | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written now."""
        return self._writer.trouble if self._writer is not None else None

    @property
    def congested(self) -> bool:
        """Whether too much of what has happened could not be written."""
        return self._writer is not None and self._writer.congested

    @property
    def dead(self) -> int:
        """How many dead letters are in the file."""
        return self._tables.dead if self._tables is not None else 0

    def open(self, owner: StoreOwner) -> Opened:
        """See `zpipeline.store.Store.open`."""
        real = opening.real_path(self._path)
        lock = Lock(self._path, real)
        try:
            connection, opened = opening.open_journal(
                self._path, synchronous=self._synchronous, is_known=lock.had_journal
            )
            try:
                tables, identity = Tables(connection, self._limits, opening.PATIENCE), Identity(real)
            except Exception as error:
                connection.close()
                raise UsageError(f"the journal {self._path}: {explain(error)}") from None
        except BaseException:
            lock.close()
            raise
        warn_of_network(self._path)
        lock.mark(opened.ventilator)
        self._times.go_on(opened.skew, opened.latest)
        self._lock, self._tables = lock, tables
        waits = self._synchronous == "full"
        self._writer = Writer(
            self._reactor, self._path, tables, identity, owner, self._commits, self._times, waits=waits
        )
        self._writer.start()
        return opened

    def accept(self, entries: Sequence[Entry], key: Key | None) -> Deferred[int | None]:
        """See `zpipeline.store.Store.accept`."""
        at = self._times.time()
        kind = Kind.CHANGE if len(entries) <= MOST_QUICK else Kind.LONG
        return self._ask(lambda tables: tables.accept(entries, key, at), kind, len(entries))

    def note(self, facts: Facts) -> None:
        """See `zpipeline.store.Store.note`."""
        assert self._writer is not None
        self._writer.note(facts)

    def load(self, after: int, most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        """See `zpipeline.store.Store.load`."""
        return self._ask(lambda tables: tables.load(after, most, most_bytes), Kind.LONG)

    def load_retries(self, after: Due, most: int, most_bytes: int) -> Deferred[tuple[list[Entry], bool]]:
        """See `zpipeline.store.Store.load_retries`."""
        return self._ask(lambda tables: tables.load_retries(after, most, most_bytes), Kind.LONG)

    def status(self, sequence: int) -> Deferred[Status | None]:
        """See `zpipeline.store.Store.status`."""
        return self._ask(lambda tables: tables.status(sequence, self._times.time()), Kind.QUESTION)

    def outcome(self, sequence: int, at: float) -> Deferred[Outcome | None]:
        """See `zpipeline.store.Store.outcome`."""
        return self._ask(lambda tables: tables.outcome(sequence, at), Kind.QUESTION)

    def letters(self, after: int, most: int) -> Deferred[list[Summary]]:
        """See `zpipeline.store.Store.letters`."""
        return self._ask(lambda tables: tables.letters(after, most), Kind.QUESTION)

    def letter(self, sequence: int) -> Deferred[Letter | None]:
        """See `zpipeline.store.Store.letter`."""
        return self._ask(lambda tables: tables.letter(sequence), Kind.QUESTION)

    def revive(self, selection: Selection, at: float) -> Deferred[tuple[list[Entry], bool]]:
        """See `zpipeline.store.Store.revive`."""
        return self._ask(lambda tables: tables.revive(selection, at, _REVIVED, _REVIVED_BYTES), Kind.LONG)

    def drop(self, sequence: int) -> Deferred[bool]:
        """See `zpipeline.store.Store.drop`."""
        return self._ask(lambda tables: tables.drop(sequence), Kind.CHANGE)

    def keep_skew(self, skew: float) -> Deferred[None]:
        """See `zpipeline.store.Store.keep_skew`."""
        return self._ask(lambda tables: tables.keep_skew(skew), Kind.CHANGE)

    def close(self) -> Deferred[int]:
        """See `zpipeline.store.Store.close`."""
        if self._writer is None:
            return succeed(0)
        return self._writer.close().addBoth(self._unlock)

    def _unlock(self, outcome: Any) -> Any:
        lock, self._lock = self._lock, None
        assert lock is not None
        self._tables = self._writer = None
        lock.close()
        return outcome

    def _ask(self, request: Request, kind: Kind, jobs: int = 0) -> Deferred[Any]:
        if self._writer is None:
            return fail(JournalError(f"the journal {self._path} is closed"))
        return self._writer.ask(request, kind, jobs)
