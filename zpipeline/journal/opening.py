"""Opening a journal, or making it."""

from __future__ import annotations

import os
import sqlite3

from twisted.logger import Logger

from zpipeline.errors import UsageError
from zpipeline.journal.identity import SMALLEST
from zpipeline.journal.schema import APPLICATION, VERSION, complete, create, explain
from zpipeline.journal.tables import ROWS
from zpipeline.store import Opened

#: In pages; see `zpipeline.journal.tables`.
_LONGEST_LOG = 25_000

#: SQLite's log is cut to so many bytes when it begins anew.
LOG_SIZE = 16 << 20

#: Each number of rows has a statement of its own, and each is prepared but once.
_STATEMENTS = 8 * ROWS

#: How long another program that holds the file is waited for, in seconds.
PATIENCE = 1.0

log = Logger()


def real_path(path: str) -> str:
    """The file that this journal is, without links.

    :raises UsageError: it is no name of a file.
    """
    if path == ":memory:":
        raise UsageError("SQLite cannot keep a write-ahead log for ':memory:': name a file, or use --no-journal")
    return os.path.realpath(path)


def open_journal(path: str, *, synchronous: str = "full", is_known: bool = False) -> tuple[sqlite3.Connection, Opened]:
    """Open the journal, or make it; count the opening.

    :param synchronous: ``full``: a commit returns when it is on the disk; ``normal``: when it is written.
    :param is_known: whether there was a journal of that name at the last start.
    :returns: a connection, whose transactions are begun and ended by hand.
    :raises UsageError: it is no journal of ours, or cannot be written.
    """
    real = real_path(path)
    connection: sqlite3.Connection | None = None
    try:
        _make_ready(path, real, is_known)
        connection = sqlite3.connect(
            real, isolation_level=None, check_same_thread=False, timeout=PATIENCE, cached_statements=_STATEMENTS
        )
        opened = _open(connection, path)
        # Not before: sequence numbers rest on the count of openings, which must be on the disk.
        connection.execute(f"PRAGMA synchronous={'FULL' if synchronous == 'full' else 'NORMAL'}")
        # Checkpoints are not made by the way, unless the log has grown very long.
        connection.execute(f"PRAGMA wal_autocheckpoint={_LONGEST_LOG}")
        connection.execute(f"PRAGMA journal_size_limit={LOG_SIZE}")
    except (sqlite3.Error, OSError, UsageError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the journal {path}: {explain(error)}") from None
    return connection, opened


def _make_ready(path: str, real: str, is_known: bool) -> None:
    """Make the file if there is none, for this user alone; begin no journal anew in silence.

    :raises UsageError: somebody has to see to the file first.
    """
    log_path = real + "-wal"
    has_log = os.path.exists(log_path) and os.path.getsize(log_path) > 0
    try:
        found = os.stat(real)
    except FileNotFoundError:
        if has_log:
            raise UsageError(
                f"the journal {path} is gone, and its log {log_path} is there: put the journal back, or remove the log "
                "to begin anew without the jobs in it"
            ) from None
        if is_known:
            log.warn("the journal {path} is gone, that was here at the last start: a new one is begun", path=path)
        file = os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
        return
    if found.st_size == 0 and (has_log or is_known):
        raise UsageError(
            f"the journal {path} is empty, though there were jobs in it: restore it from a backup, or remove it to "
            "begin anew"
        )
    if 0 < found.st_size < SMALLEST and os.path.isfile(real):
        raise UsageError(
            f"the journal {path}: it is damaged, or no SQLite file ({found.st_size} bytes): restore it from a backup, "
            "or name another with --journal"
        )
    if found.st_nlink > 1 and os.path.isfile(real):
        raise UsageError(
            f"the journal {path} has {found.st_nlink} names (hard links), and what is written under one is not found "
            "under another: remove the others, or name another file with --journal"
        )


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
    complete(connection)
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
    meta: dict[str, int] = dict(connection.execute("SELECT name, value FROM meta"))
    connection.execute("COMMIT")
    skew, time = meta.get("skew", 0) / 1000, meta["time"] / 1000
    return Opened(meta["ventilator"], meta["epoch"], meta["pending"], meta["pending_bytes"], skew, time)
