"""When the journal is written, and by whom: group commit, with no timer.

A transaction is made in the reactor's thread, at the end of a turn: it takes some microseconds for each job, as
nothing of it waits for the disk. Then a thread of the writer's commits it, which does wait, and what was asked is
answered. What arrives meanwhile goes into the next transaction. (With all of the transaction in a thread, that thread
and the reactor's would pass the interpreter back and forth at each statement, which costs more than the statement.)

SQLite syncs its log within the commit, so a transaction whose syncing failed is undone, and its pages are written again
by the next. But they are in the log as it stands, and whoever opens the file after a kill would find them there. So
they are written over at once, before anybody is told that the transaction failed.

What may take long is done in the thread as a whole: reading pages of jobs, waiting for another program that
holds the file, and everything while there is trouble.

A transaction has two kinds of things in it:

- requests succeed or fail with it, and whoever asked is told: jobs to be accepted, pages to be read
- facts have happened: jobs are done, have failed, have killed a worker. They are kept until a transaction that holds
  them is committed, however often that fails. Nobody waits for them: alone, they wait `LINGER` seconds for company

Facts come first, so that requests find them written; without them no request is carried out but those that only ask.
What cannot be written for a reason of its own, whatever the disk does, fails alone: a request is refused, and a fact is
set aside (`zpipeline.journal.sifting`).

When the file is damaged where something has to be read or written, nothing is written any more: it takes somebody to
mend it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline.errors import JournalError, JournalFull, Refused
from zpipeline.journal.identity import Identity, Mislaid
from zpipeline.journal.schema import (
    explain,
    is_damaged,
    is_full,
    is_locked,
    is_of_the_file,
    is_unsynced,
    may_be_written,
)
from zpipeline.journal.sifting import SetAside, sift
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

#: How often it is looked whether the files still have their names, and SQLite's log is too long, in seconds.
LOOK_SECONDS = 1.0

#: How long who asked waits while it is open whether a kill would bring back what failed, in seconds.
MOST_DOUBT = 10.0

#: SQLite's log should be no longer, in bytes; and when it is said that another program is why it is.
LONG_LOG = 32 << 20
VERY_LONG_LOG = 64 << 20

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
    """What goes into one transaction, and what comes of it.

    :ivar elsewhere: for `zpipeline.store.StoreOwner.settled_elsewhere`, of what is committed.
    :ivar settled_elsewhere: the same, of what is prepared.
    :ivar error: why it failed.
    :ivar is_doubtful: whether it failed, and may be there nevertheless after a kill.
    :ivar has_written: whether it, or what was to write over it, has taken the place of what failed before it.
    :ivar aside: facts that cannot be written.
    :ivar defects: why requests cannot be carried out.
    :ivar apart: questions that are answered as the file stands, after the transaction, or refused for this reason.
    :ivar held_up: bytes of SQLite's log that another program keeps from being brought into the file; None where that
        was not looked at.
    """

    asked: list[_Asked]
    facts: Facts
    begun_at: float = field(factory=time.monotonic)
    elsewhere: list[tuple[int, int]] = field(factory=list)
    settled_elsewhere: list[tuple[int, int]] = field(factory=list)
    error: Exception | None = None
    is_doubtful: bool = False
    has_written: bool = False
    aside: list[SetAside] = field(factory=list)
    defects: list[Exception] = field(factory=list)
    apart: list[tuple[_Asked, JournalError]] = field(factory=list)
    held_up: int | None = None


class _NoAnswer(Exception):
    """A question cannot be answered: what it reads is damaged. SQLite commits no transaction that has met that."""

    def __init__(self, why: sqlite3.Error) -> None:
        super().__init__()
        self.why = why


class Writer:
    """Owns the tables from `start` to `close`.

    :param path: of the journal, for messages.
    :param tables: of a connection whose commits return when they are on the disk, if `waits`.
    :param identity: of the files.
    :param waits: whether committing waits for the disk.
    :param commits: what the transactions are like that have jobs in them is noted there.
    :param times: what time it is.
    :ivar trouble: why the last transaction failed; None when it did not.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        tables: Tables,
        identity: Identity,
        owner: StoreOwner,
        commits: Commits,
        times: Times,
        *,
        waits: bool,
    ) -> None:
        self.trouble: str | None = None
        self._reactor = reactor
        self._path = path
        self._tables = tables
        self._identity = identity
        self._owner = owner
        self._commits = commits
        self._times = times
        self._waits = waits
        self._is_damaged = False
        self._asked: list[_Asked] = []
        self._facts = Facts()
        self._batch: _Batch | None = None  # the one that is being written
        self._doubtful: list[_Asked] = []  # refused, and not told yet
        self._doubtful_since = 0.0
        self._next: IDelayedCall | None = None
        self._next_is_lazy = False
        self._is_held_up = False
        self._closing: Deferred[Any] | None = None
        self._was_last = False
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="zpipeline journal", daemon=True)
        self._look_call = LoopingCall(self._look)
        self._look_call.clock = reactor

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()
        self._look_call.start(LOOK_SECONDS, now=False)

    @property
    def congested(self) -> bool:
        """Whether too many facts wait to be written, or none will be any more."""
        if self.trouble is None:
            return False
        unwritten = [self._facts] if self._batch is None else [self._facts, self._batch.facts]
        return (
            self._is_damaged
            or sum(map(len, unwritten)) > MOST_UNWRITTEN
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
        if self._is_damaged:
            assert self.trouble is not None
            self._refuse(asked, JournalError(self.trouble))
            _answer([asked])
        else:
            self._asked.append(asked)
            self._schedule()
        return asked.answer

    def note(self, facts: Facts) -> None:
        """Have facts written."""
        self._facts.add(facts)
        self._schedule()

    def close(self) -> Deferred[int]:
        """Write what is left, once, and end: fires with how many facts could not be written.

        :raises Exception: (by the Deferred) a file could not be closed; the other one is.
        """
        self._closing = Deferred()
        if self._look_call.running:
            self._look_call.stop()
        if self._batch is None:
            self._finish()
        return self._closing

    # What is next

    def _schedule(self) -> None:
        if self._batch is not None or self._closing is not None or self._is_damaged:
            return  # when that is written, there is another look; and one before the end
        if self._next is None:
            self._next_is_lazy = not self._asked
            self._next = self._reactor.callLater(LINGER if self._next_is_lazy else 0, self._begin)
        elif self._asked and self._next_is_lazy:
            self._next_is_lazy = False
            self._next.reset(0)

    def _look(self) -> None:
        if self._batch is not None or self.trouble is not None:
            return
        try:
            self._identity.check()
        except Mislaid:
            self._begin()  # which fails by it
            return
        if self._identity.log_size > LONG_LOG:
            self.ask(Tables.shorten_log, Kind.LONG, 0).addErrback(lambda failure: failure.trap(JournalError))

    def _cancel_next(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _begin(self) -> None:
        self._cancel_next()
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
            batch.error = self._prepare(batch.asked, batch, wait=False)
        if not is_quick or (batch.error is not None and (is_locked(batch.error) or not is_of_the_file(batch.error))):
            self._work.put(self._write)
        elif batch.error is None and (self._waits or self._tables.wants_checkpoint):
            self._work.put(self._commit)
        else:
            if batch.error is None:
                self._commit()
            self._ended()

    def _ended(self) -> None:
        """The batch has been written, or could not be."""
        batch, self._batch = self._batch, None
        assert batch is not None
        self._say_aside(batch.aside)
        for defect in batch.defects:
            log.failure("the journal {path} cannot take a request", Failure(defect), path=self._path)
        self._say_held_up(batch.held_up)
        if batch.elsewhere:
            self._owner.settled_elsewhere(batch.elsewhere)
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
        for each, refusal in batch.apart:
            self._refuse(each, refusal)
        self._end_doubt()
        _answer(batch.asked)
        if recovered:
            log.info("the journal {path} is written again", path=self._path)
            self._owner.store_recovered()

    def _has_failed(self, batch: _Batch, error: Exception) -> None:
        if not is_of_the_file(error):
            log.failure("the journal {path}", Failure(error), path=self._path)
        why = self._why(error)
        batch.facts.add(self._facts)
        self._facts = batch.facts
        if is_damaged(error):
            self._is_damaged = True
            log.error("{why}; nothing is accepted or handed out until it is mended, and this started again", why=why)
        elif self.trouble is None:
            log.error("{why}; nothing is accepted until it can be written", why=why)
        self.trouble = why
        refused = JournalFull(why) if is_full(error) else JournalError(why)
        asked = [*batch.asked, *self._asked] if self._is_damaged else batch.asked
        if self._is_damaged:
            self._asked = []
        for each in asked:
            self._refuse(each, refused)
        if batch.has_written:
            self._end_doubt()
        if batch.is_doubtful:
            if not self._doubtful:
                self._doubtful_since = time.monotonic()
            self._doubtful += [each for each in batch.asked if each.refusal is not None]
            doubtful = set(self._doubtful)  # there may be thousands
            asked = [each for each in asked if each not in doubtful]
        for_good = self._is_damaged or self._closing is not None
        if self._doubtful and (for_good or time.monotonic() > self._doubtful_since + MOST_DOUBT):
            for each in self._doubtful:
                each.refusal = JournalError(f"{why}; it is not known whether this was accepted")
            self._end_doubt()
        if not for_good:
            self._cancel_next()
            self._next_is_lazy = True
            self._next = self._reactor.callLater(RETRY_SECONDS, self._begin)
        _answer(asked)

    def _end_doubt(self) -> None:
        """Tell those who were refused."""
        doubtful, self._doubtful = self._doubtful, []
        _answer(doubtful)

    def _refuse(self, asked: _Asked, refusal: JournalError) -> None:
        """Refuse it, unless it only asks, and the file has the answer."""
        asked.refusal = refusal
        if asked.kind is Kind.QUESTION:
            try:
                asked.result = asked.request(self._tables)
            except Exception:
                return
            asked.refusal = None

    def _finish(self) -> None:
        """Write what is left, if that was not tried yet, and end."""
        if (self._asked or self._facts or self._doubtful) and not (self._was_last or self._is_damaged):
            self._was_last = True
            self._begin()
            return
        self._cancel_next()
        self._end_doubt()
        self._work.put(None)

    def _has_closed(self, failure: Failure | None) -> None:
        assert self._closing is not None
        self._closing.callback(len(self._facts) if failure is None else failure)

    # What is said

    def _why(self, error: Exception) -> str:
        return f"the journal {self._path}: {explain(error)}"

    def _say_aside(self, aside: list[SetAside]) -> None:
        self._commits.set_aside += len(aside)
        for each in aside:
            log.error(
                "the journal {path}: what became of job number {sequence} cannot be written, and is set aside: it may "
                "run again after the next start ({error})",
                path=self._path,
                sequence=each.sequence,
                error=repr(each.error),
            )

    def _say_held_up(self, size: int | None) -> None:
        if size is None:
            return
        if size > VERY_LONG_LOG and not self._is_held_up:
            log.warn(
                "the journal {path}: its log {path}-wal grows ({size} MB), because another program has been reading "
                "the journal all this time (a backup, a database shell): end that program",
                path=self._path,
                size=size >> 20,
            )
        self._is_held_up = size > VERY_LONG_LOG

    # In either thread

    def _prepare(self, asked: Sequence[_Asked], batch: _Batch, *, wait: bool) -> Exception | None:
        """One transaction, but for its end: why it failed, if it did.

        :param wait: for another program that holds the file.
        """
        tables = self._tables
        try:
            self._identity.check()  # not in `_commit`: each call of the system there has to get the interpreter back
            tables.begin(wait=wait)
            batch.settled_elsewhere = tables.write(batch.facts)
            for each in asked:
                self._carry_out(each)
            tables.tidy(self._times.time())
            if self.trouble is not None:
                tables.probe()
            tables.finish()
        except _NoAnswer as error:
            worse = self._undo(error.why)
            if worse is not error.why:
                return worse
            batch.apart = [(each, JournalError(self._why(error.why))) for each in asked if each.kind is Kind.QUESTION]
            return self._prepare([each for each in asked if each.kind is not Kind.QUESTION], batch, wait=wait)
        except Exception as error:  # also a defect of ours: whoever asked has to be answered nevertheless
            return self._undo(error)
        return None

    def _carry_out(self, asked: _Asked) -> None:
        tables = self._tables
        asked.refusal = None
        if asked.kind is not Kind.CHANGE:
            tables.insert_new()
        try:
            asked.result = asked.request(tables)
        except Refused as refusal:
            asked.refusal = refusal
        except sqlite3.DatabaseError as error:
            if asked.kind is not Kind.QUESTION or not is_of_the_file(error):
                raise
            raise _NoAnswer(error) from None

    def _commit(self) -> None:
        """End the transaction that is prepared."""
        batch = self._batch
        assert batch is not None
        try:
            self._tables.commit()
        except Exception as error:
            batch.error = self._undo(error)
            if may_be_written(error):
                is_gone = self._write_over()
                batch.is_doubtful = not is_gone
                batch.has_written = is_gone or is_unsynced(error)
            return
        batch.has_written = True
        batch.elsewhere += batch.settled_elsewhere
        if self._tables.wants_checkpoint:
            # The batch is safe: that the file cannot take it now, being full perhaps, is nobody's trouble yet.
            with suppress(sqlite3.Error):
                batch.held_up = self._tables.checkpoint()

    def _write_over(self) -> bool:
        """Write over what is in SQLite's log of a transaction that could not be synced: whether it is gone."""
        try:
            self._tables.begin()
            self._tables.probe()
            self._tables.commit()
        except sqlite3.Error as error:
            self._undo(error)
            return is_unsynced(error)
        return True

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
            try:
                work()
            except Exception as error:  # a defect of ours: the batch has failed by it
                assert self._batch is not None
                self._batch.error = error
            self._reactor.callFromThread(self._ended)
        failure = None
        try:
            self._close_files()
        except Exception:  # whoever waits for the end has to hear of it
            failure = Failure()
        self._reactor.callFromThread(self._has_closed, failure)

    def _close_files(self) -> None:
        try:
            self._tables.close()
        finally:
            self._identity.close()

    def _write(self) -> None:
        """The batch, as a whole."""
        batch = self._batch
        assert batch is not None
        if self.trouble is not None:
            # by themselves: a large request must not keep them from being written
            self._write_part(batch, [])
            if batch.error is not None:
                return
            batch.facts = Facts()
        self._write_part(batch, batch.asked)

    def _write_part(self, batch: _Batch, asked: Sequence[_Asked]) -> None:
        """The facts and these requests."""
        batch.error = self._prepare(asked, batch, wait=True)
        if batch.error is not None and not is_of_the_file(batch.error):
            try:
                asked = self._sift(batch, asked)
            except Exception as error:
                batch.error = error
                return
            batch.error = self._prepare(asked, batch, wait=True)
        if batch.error is None:
            self._commit()

    def _sift(self, batch: _Batch, asked: Sequence[_Asked]) -> list[_Asked]:
        """Set aside facts that cannot be written, and refuse such requests: the other requests.

        :raises Exception: the file is in trouble.
        """
        batch.facts, aside = sift(batch.facts, lambda facts: self._try(lambda tables: tables.write(facts)))
        batch.aside += aside
        others = []
        for each in asked:
            error = self._try(each.request)
            if error is None or isinstance(error, Refused):
                others.append(each)
            else:
                each.refusal = JournalError(f"the journal {self._path} cannot take this: {error!r}")
                batch.defects.append(error)
        return others

    def _try(self, request: Request) -> Exception | None:
        """Write this, and undo it: why that fails, if it does.

        :raises Exception: it fails because the file is in trouble.
        """
        tables = self._tables
        try:
            tables.begin()
            request(tables)
            tables.finish()
        except Exception as error:
            if is_of_the_file(error):
                raise
            return error
        finally:
            tables.rollback()
        return None


def _answer(asked: list[_Asked]) -> None:
    for each in asked:
        if each.refusal is not None:
            each.answer.errback(each.refusal)
        else:
            each.answer.callback(each.result)
