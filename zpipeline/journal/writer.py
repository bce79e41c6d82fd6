"""When the journal is written, and by whom: group commit, with no timer.

A transaction is made in the reactor's thread, at the end of a turn: it takes some microseconds for each job, as nothing
of it waits for the disk. Then a thread of the writer's makes it durable, which does, and what was asked is answered.
What arrives meanwhile goes into the next transaction. (With the transactions in a thread as well, that thread and the
reactor's would pass the interpreter back and forth at each statement, which costs more than the statement.)

What may take long is done in the thread as a whole: reading pages of jobs, waiting for another program that
holds the file, and everything while there is trouble.

A transaction has two kinds of things in it:

- requests succeed or fail with it, and whoever asked is told: jobs to be accepted, pages to be read
- facts have happened: jobs are done, have failed, have killed a worker. They are kept until a transaction that holds
  them is committed, however often that fails. Nobody waits for them: alone, they wait `LINGER` seconds for company

Facts come first, so that requests find them written; without them no request is carried out but those that only ask.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline.errors import JournalError, JournalFull, Refused
from zpipeline.journal.schema import explain, is_full, is_locked
from zpipeline.journal.tables import Tables
from zpipeline.stats import Commits
from zpipeline.store import Facts, StoreOwner
from zpipeline.times import Times

#: How long after a transaction that failed writing is tried again, in seconds.
RETRY_SECONDS = 1.0

#: How long facts wait for requests whose transaction they can go into, in seconds.
LINGER = 0.02

#: So many facts that cannot be written are too many, and so many bytes of results.
MOST_UNWRITTEN = 100_000
MOST_UNWRITTEN_BYTES = 64 << 20

#: So many jobs take milliseconds to write: more are not written in the reactor's thread.
MOST_QUICK = 5000

#: What is asked of the tables, within a transaction. It may raise `Refused`, having changed nothing.
Request: TypeAlias = Callable[[Tables], Any]

_sync = getattr(os, "fdatasync", os.fsync)  # not every system has the former

log = Logger()


class Kind(Enum):
    """What a request is like."""

    CHANGE = "it changes something, and is quick"
    QUESTION = "it changes nothing, and is quick: when nothing can be written, it is answered as the file stands"
    LONG = "it may take long"


@define(eq=False)
class _Asked:
    request: Request
    answer: Deferred[Any]
    kind: Kind
    jobs: int
    result: Any = None
    refusal: Refused | None = None


@define(eq=False)
class _Batch:
    """What goes into one transaction, and what comes of it."""

    asked: list[_Asked]
    facts: Facts
    begun_at: float = field(factory=time.monotonic)
    elsewhere: list[tuple[int, int]] = field(factory=list)
    error: Exception | None = None


class Writer:
    """Owns the tables from `start` to `close`.

    :param path: of the journal, for messages.
    :param log_path: of SQLite's write-ahead log, which is to be on the disk before anything is answered; None when that
        may wait.
    :param commits: what the transactions are like that have jobs in them is noted there.
    :param times: what time it is.
    :ivar trouble: why the last transaction failed; None when it did not.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        tables: Tables,
        owner: StoreOwner,
        log_path: str | None,
        commits: Commits,
        times: Times,
    ) -> None:
        self.trouble: str | None = None
        self._reactor = reactor
        self._path = path
        self._tables = tables
        self._owner = owner
        self._commits = commits
        self._times = times
        self._log = None if log_path is None else os.open(log_path, os.O_RDONLY)
        self._asked: list[_Asked] = []
        self._facts = Facts()
        self._batch: _Batch | None = None  # the one that is being written
        self._next: IDelayedCall | None = None
        self._next_is_lazy = False
        self._closing: Deferred[int] | None = None
        self._was_last = False
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="zpipeline journal", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def congested(self) -> bool:
        """Whether too many facts wait to be written."""
        if self.trouble is None:
            return False
        unwritten = [self._facts] if self._batch is None else [self._facts, self._batch.facts]
        return (
            sum(map(len, unwritten)) > MOST_UNWRITTEN
            or sum(facts.result_bytes for facts in unwritten) > MOST_UNWRITTEN_BYTES
        )

    def ask(self, request: Request, kind: Kind, jobs: int) -> Deferred[Any]:
        """Fires with what the request returns, once that is committed.

        :param jobs: how many it accepts.
        :raises JournalError: (by the Deferred) it could not be; nothing of it is there.
        :raises Refused: (by the Deferred) what the request raised.
        """
        if self._closing is not None:
            return fail(JournalError(f"the journal {self._path} is being closed"))
        asked = _Asked(request, Deferred(), kind, jobs)
        self._asked.append(asked)
        self._schedule()
        return asked.answer

    def note(self, facts: Facts) -> None:
        """Have facts written."""
        self._facts.add(facts)
        self._schedule()

    def close(self) -> Deferred[int]:
        """Write what is left, once, and end: fires with how many facts could not be written."""
        self._closing = Deferred()
        if self._batch is None:
            self._finish()
        return self._closing

    # What is next

    def _schedule(self) -> None:
        if self._batch is not None or self._closing is not None:
            return  # when that is written, there is another look; and one before the end
        if self._next is None:
            self._next_is_lazy = not self._asked
            self._next = self._reactor.callLater(LINGER if self._next_is_lazy else 0, self._begin)
        elif self._asked and self._next_is_lazy:
            self._next_is_lazy = False
            self._next.reset(0)

    def _begin(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
        asked, self._asked = self._asked, []
        facts, self._facts = self._facts, Facts()
        batch = self._batch = _Batch(asked, facts)
        is_quick = (
            self.trouble is None
            and self._closing is None
            and len(facts) <= MOST_QUICK
            and all(each.kind is not Kind.LONG for each in asked)
        )
        if is_quick:
            batch.error = self._transact(batch.asked, batch, wait=False)
        if not is_quick or is_locked(batch.error):
            self._work.put(self._write)
        elif batch.error is None and (self._log is not None or self._tables.wants_checkpoint):
            self._work.put(self._make_durable)
        else:
            self._ended()

    def _ended(self) -> None:
        """The batch has been written, or could not be."""
        batch, self._batch = self._batch, None
        assert batch is not None
        if batch.error is not None:
            self._has_failed(batch, batch.error)
        else:
            self._has_succeeded(batch)
        if self._closing is not None:
            self._finish()
        elif self._asked or (self._facts and self.trouble is None):
            self._schedule()

    def _has_succeeded(self, batch: _Batch) -> None:
        recovered, self.trouble = self.trouble is not None, None
        jobs = len(batch.facts) + sum([each.jobs for each in batch.asked])
        if jobs:
            self._commits.observe(time.monotonic() - batch.begun_at, jobs)
        if batch.elsewhere:
            self._owner.settled_elsewhere(batch.elsewhere)
        _answer(batch.asked)
        if recovered:
            log.info("the journal {path} is written again", path=self._path)
            self._owner.store_recovered()

    def _has_failed(self, batch: _Batch, error: Exception) -> None:
        if not isinstance(error, sqlite3.Error | OSError):
            log.failure("the journal {path}", Failure(error), path=self._path)
        why = f"the journal {self._path}: {explain(error)}"
        batch.facts.add(self._facts)
        self._facts = batch.facts
        if self.trouble is None:
            log.error("{why}; nothing is accepted until it can be written", why=why)
        self.trouble = why
        if batch.elsewhere:
            self._owner.settled_elsewhere(batch.elsewhere)
        for each in batch.asked:
            each.refusal = JournalFull(why) if is_full(error) else JournalError(why)
            if each.kind is Kind.QUESTION:
                try:
                    each.result = each.request(self._tables)
                except sqlite3.Error:
                    continue
                each.refusal = None
        if self._closing is None:
            self._next_is_lazy = True
            self._next = self._reactor.callLater(RETRY_SECONDS, self._begin)
        _answer(batch.asked)

    def _finish(self) -> None:
        """Write what is left, if that was not tried yet, and end."""
        if (self._asked or self._facts) and not self._was_last:
            self._was_last = True
            self._begin()
            return
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._work.put(None)

    def _has_closed(self) -> None:
        assert self._closing is not None
        self._closing.callback(len(self._facts))

    # In either thread

    def _transact(self, asked: list[_Asked], batch: _Batch, *, wait: bool) -> Exception | None:
        """One transaction: why it failed, if it did.

        :param wait: for another program that holds the file.
        """
        tables = self._tables
        try:
            tables.begin(wait=wait)
            elsewhere = tables.write(batch.facts)
            for each in asked:
                each.refusal = None
                try:
                    each.result = each.request(tables)
                except Refused as refusal:
                    each.refusal = refusal
            tables.tidy(self._times.time())
            if self.trouble is not None:
                tables.probe()
            tables.commit()
        except Exception as error:  # also a defect of ours: whoever asked has to be answered nevertheless
            return self._undo(error)
        batch.elsewhere += elsewhere
        return None

    def _undo(self, error: Exception) -> Exception:
        try:
            self._tables.rollback()
        except sqlite3.Error as worse:
            return worse
        return error

    # In the writer's thread

    def _run(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                break
            work()
            self._reactor.callFromThread(self._ended)
        self._tables.close()
        if self._log is not None:
            os.close(self._log)
        self._reactor.callFromThread(self._has_closed)

    def _write(self) -> None:
        """The batch, as a whole."""
        batch = self._batch
        assert batch is not None
        if self.trouble is not None:
            # by themselves: a large request must not keep them from being written
            batch.error = self._transact([], batch, wait=True)
            if batch.error is not None:
                return
            batch.facts = Facts()
        batch.error = self._transact(batch.asked, batch, wait=True)
        if batch.error is None:
            self._make_durable()

    def _make_durable(self) -> None:
        batch = self._batch
        assert batch is not None
        try:
            if self._log is not None:
                _sync(self._log)
        except OSError as error:
            batch.error = error
            return
        if self._tables.wants_checkpoint:
            # The batch is safe: that the file cannot take it now, being full perhaps, is nobody's trouble yet.
            with suppress(sqlite3.Error):
                self._tables.checkpoint()


def _answer(asked: list[_Asked]) -> None:
    for each in asked:
        if each.refusal is not None:
            each.answer.errback(each.refusal)
        else:
            each.answer.callback(each.result)
