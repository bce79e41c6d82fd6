"""Opening a journal, which one process at a time may have."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from typing import IO

from zpipeline.errors import UsageError
from zpipeline.journal.schema import APPLICATION, VERSION, create, explain
from zpipeline.journal.tables import ROWS
from zpipeline.store import Opened

#: In pages; see `zpipeline.journal.tables`.
_LONGEST_LOG = 25_000

#: Each number of rows has a statement of its own, and each is prepared but once.
_STATEMENTS = 8 * ROWS

#: When the newest jobs were accepted and settled: they have the highest numbers.
_LATEST = (
    "SELECT max(coalesce((SELECT accepted_at FROM jobs ORDER BY sequence DESC LIMIT 1), 0.0), "
    "coalesce((SELECT settled_at FROM settled ORDER BY sequence DESC LIMIT 1), 0.0))"
)

#: How long another program that holds the file is waited for, in seconds.
PATIENCE = 1.0


def lock(path: str) -> IO[bytes]:
    """Take the lock beside the journal. It is held until the file is closed, or the process ends.

    :raises UsageError: another process has it, or it cannot be made.
    """
    # one lock for one file, whatever link it was named by
    beside = os.path.realpath(path) + ".lock"
    try:
        file = open(beside, "a+b")  # noqa: SIM115 - held for as long as the journal is
    except OSError as error:
        raise UsageError(
            f"the journal {path}: its lock {beside} cannot be made ({error.strerror}): see to its folder and the "
            "permissions there, or name another file with --journal"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(20).decode("ascii", "replace").strip() or "?"
        file.close()
        raise UsageError(
            f"the journal {path} is in use by process {holder}: stop that one, or name another with --journal"
        ) from None
    except OSError as error:
        file.close()
        raise UsageError(
            f"the journal {path} cannot be locked ({error.strerror}): name a file on a local disk with --journal"
        ) from None
    try:
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
        file.flush()
    except OSError:
        pass  # a full disk: the lock holds, its text is only for people
    return file


def open_journal(path: str) -> tuple[sqlite3.Connection, Opened]:
    """Open the journal, or make it; count the opening.

    :returns: a connection, whose transactions are begun and ended by hand.
    :raises UsageError: it is no journal of ours, or cannot be written.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=PATIENCE, cached_statements=_STATEMENTS
        )
        opened = _open(connection, path)
        # Not before: sequence numbers rest on the count of openings, which must be on the disk. From now on only
        # checkpoints wait for the disk, and these are not made by the way, unless the log has grown very long.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LONGEST_LOG}")
    except (sqlite3.Error, UsageError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the journal {path}: {explain(error)}") from None
    return connection, opened


def _open(connection: sqlite3.Connection, path: str) -> Opened:
    connection.execute("PRAGMA synchronous=FULL")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    is_new = is_empty and application == version == 0
    if application != APPLICATION and not is_new:
        raise UsageError(f"{path} is another program's SQLite file, not a journal: name another with --journal")
    if version != VERSION and not is_new:
        raise UsageError(
            f"the journal {path} has schema version {version}, and this zpipeline writes version {VERSION}: use the "
            "zpipeline that made it, or name another file with --journal"
        )
    if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
        raise UsageError(f"SQLite cannot keep a write-ahead log for {path!r}: name a file on a local disk")
    connection.execute("BEGIN IMMEDIATE")
    if is_new:
        create(connection)
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
    meta: dict[str, int] = dict(connection.execute("SELECT name, value FROM meta"))
    connection.execute("COMMIT")
    latest = connection.execute(_LATEST).fetchone()[0]
    skew = meta.get("skew", 0) / 1000
    return Opened(meta["ventilator"], meta["epoch"], meta["pending"], meta["pending_bytes"], skew, latest)
