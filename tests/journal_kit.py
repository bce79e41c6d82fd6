"""What tests of stores share: jobs by the number, an owner that writes down what it is told, and a clock by hand.

Run as a program, ``python -m tests.journal_kit PATH push|hold``, it has a journal open in a process of its own. What
it has pushed it prints: the numbers of jobs that were accepted together, or ``refused`` and the numbers, a line each.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from zpipeline.entry import Entry
from zpipeline.errors import Refused
from zpipeline.journal import Journal
from zpipeline.journal.opening import open_journal
from zpipeline.store import Facts, Key, Letter, Limits, Selection, Store, Summary, Tried
from zpipeline.testing.clock import TimesOf
from zpipeline.times import SteadyTimes

ROOT = Path(__file__).resolve().parent.parent
NOW = 1_700_000_000.0
LIMITS = Limits(keep=100.0, most_settled=10, most_keys=3, most_result_bytes=100)
MANY = 1 << 30
EVERYTHING = Selection()


def fill(path: Path, count: int, due: str) -> None:
    """Make a journal with so many unsettled jobs of 100 bytes, from number 1 on, by SQL: a million in a few seconds.

    :param due: when each is due, an expression of its number, n; NULL: it was not tried yet.
    """
    connection, _ = open_journal(str(path))
    with closing(connection):
        connection.execute("BEGIN")
        connection.execute(
            "INSERT INTO jobs (sequence, accepted_at, due, attempt, error, headers, body) "
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ?) "
            f"SELECT n, 1.5, {due}, iif({due} IS NULL, 1, 2), iif({due} IS NULL, NULL, 'no'), "
            "CAST('{}' AS BLOB), zeroblob(100) FROM n",
            (count,),
        )
        sums = {"pending": count, "pending_bytes": count * 100}
        connection.executemany("UPDATE meta SET value = ? WHERE name = ?", [(sums[name], name) for name in sums])
        connection.execute("COMMIT")


class Owner:
    """A `zpipeline.store.StoreOwner` that writes down what it is told."""

    def __init__(self) -> None:
        self.elsewhere: list[tuple[int, int]] = []
        self.recovered: Deferred[None] = Deferred()

    def settled_elsewhere(self, jobs: Sequence[tuple[int, int]]) -> None:
        self.elsewhere += jobs

    def store_recovered(self) -> None:
        self.recovered.callback(None)  # a second time in one test is an error


def job(number: int, body: bytes = b"body", at: float = NOW) -> Entry:
    """A job just accepted."""
    return Entry(number, body, b'{"a":"b"}', at)


def jobs(*numbers: int) -> list[Entry]:
    """Some."""
    return [job(number) for number in numbers]


def done(*entries: Entry, at: float = NOW, results: dict[int, bytes] | None = None) -> Facts:
    """They have been run, and some have returned this."""
    for entry in entries:
        entry.settled_at = at
    return Facts(done=list(entries), results=results or {})


def tried(entry: Entry, due: float, *, attempt: int = 2, strikes: int = 0, error: str | None = "KeyError") -> Facts:
    """It waits for another attempt, or was struck."""
    return Facts(tried=[Tried(attempt, strikes, due, error, entry.sequence)])


def letter(
    entry: Entry,
    at: float = NOW,
    *,
    handler: str = "photos:resize",
    error: str = "KeyError: 1",
    traceback: str = "Traceback...\nKeyError: 1\n",
) -> Letter:
    """The dead letter that this job becomes."""
    summary = Summary(entry.sequence, entry.accepted_at, at, 5, 1, handler, error, len(entry.body))
    return Letter(summary, entry.body, entry.headers, traceback)


def dead(*entries: Entry, at: float = NOW, **of: str) -> Facts:
    """They are dead."""
    return Facts(dead=[letter(entry, at, **of) for entry in entries])


def plain(entries: Iterable[Entry]) -> list[tuple[Any, ...]]:
    """All that is kept of jobs, to be compared."""
    return [(e.sequence, e.body, e.headers, e.accepted_at, e.attempt, e.strikes, e.due, e.error) for e in entries]


def numbers(found: Iterable[Entry | Summary]) -> list[int]:
    """Their sequence numbers."""
    return [each.sequence for each in found]


class StoreCase(TestCase):
    """Has one store, whose clock is set by `at`."""

    timeout = 60.0
    limits = LIMITS

    def setUp(self) -> None:
        self.clock = Clock()
        self.times = TimesOf(self.clock)
        self.at(NOW)
        self.owner = Owner()

    def at(self, now: float) -> None:
        """It is that time."""
        self.clock.rightNow = now

    async def put(self, store: Store, *entries: Entry) -> None:
        """Have them accepted, in one go."""
        self.assertIsNone(await store.accept(entries, None))


class JournalCase(StoreCase):
    """Has a journal in a file, which is closed in the end."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        self.path = self.folder / "jobs.sqlite"

    def journal(self, synchronous: str = "full") -> Journal:
        """One at `path`, not open yet."""
        return Journal(reactor, str(self.path), self.times, synchronous=synchronous, limits=self.limits)

    def opened(self, synchronous: str = "full") -> Journal:
        """One at `path`, open."""
        journal = self.journal(synchronous)
        journal.open(self.owner)
        self.addCleanup(journal.close)
        return journal

    def connection(self, journal: Journal) -> sqlite3.Connection:
        """The journal's own."""
        assert journal._writer is not None
        return journal._writer._tables._connection

    def other(self) -> sqlite3.Connection:
        """A connection of another program to the file, whose transactions are its own."""
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        self.addCleanup(connection.close)
        return connection

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What is in the file."""
        return self.other().execute(query).fetchall()

    def process(self, what: str, *inside: str) -> subprocess.Popen[str]:
        """A process that opens the journal, and says so; killed in the end.

        :param inside: a program that runs it, with its options.
        """
        popen = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.journal_kit", str(self.path), what],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))},
        )
        self.addCleanup(end, popen)
        assert popen.stdout is not None
        self.assertEqual(popen.stdout.readline(), "open\n")
        return popen


def end(popen: subprocess.Popen[str]) -> None:
    """Kill it with SIGKILL."""
    if popen.poll() is None:
        popen.send_signal(signal.SIGKILL)
    popen.wait()
    assert popen.stdout is not None
    popen.stdout.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for an event; AssertionError when it does not come."""
    deadline = reactor.seconds() + 30
    while not condition():
        assert reactor.seconds() < deadline, f"not within 30 seconds: {what}"
        await deferLater(reactor, 0.005)


def _push(journal: Journal, epoch: int) -> None:
    """Push jobs as fast as it goes, a few at a time, half of them with a key; settle those, once they are accepted."""
    sequences = count(epoch << 40 | 1)

    def accepted(_: object, entries: list[Entry], settled: bool) -> None:
        print(*numbers(entries), flush=True)
        if settled:
            journal.note(done(*entries, at=time.time()))
        push(not settled)

    def refused(failure: Failure, entries: list[Entry], settled: bool) -> None:
        failure.trap(Refused)
        print("refused", *numbers(entries), flush=True)
        reactor.callLater(0.01, push, settled)

    def push(settle: bool) -> None:
        entries = [job(next(sequences), b"x" * 100) for _ in range(3)]
        key = Key(f"key {entries[0].sequence}", b"") if settle else None
        pushed = journal.accept(entries, key)
        pushed.addCallbacks(accepted, refused, callbackArgs=(entries, settle), errbackArgs=(entries, settle))

    for each in range(20):
        push(bool(each % 2))


class _Deaf(Owner):
    def store_recovered(self) -> None:
        pass


def main(path: str, what: str) -> None:
    """Open the journal and say so; then push, or hold it, until killed."""
    limits = Limits(3600.0, 1_000_000, 1_000_000, 1 << 30)
    journal = Journal(reactor, path, SteadyTimes(), synchronous="full", limits=limits)
    epoch = journal.open(_Deaf()).epoch
    print("open", flush=True)
    if what == "push":
        reactor.callWhenRunning(_push, journal, epoch)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
