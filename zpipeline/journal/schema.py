"""The journal's tables, and what is wrong with a file that cannot be used.

    meta     what is one for the whole journal: its ventilator number, how often it was opened, how many jobs
             are unsettled and how many bytes their bodies have, and so on (stored, not counted, so that opening is
             quick). `time`: when it was last written, in milliseconds since the epoch, as all times here go. `skew`,
             once there is any: how far the system's clock is ahead of that, in milliseconds
    jobs     unsettled jobs. `due` is when a job that waits for another attempt may go out; NULL for the others
    settled  what became of settled jobs, for as long as it can be asked for. `returned` is 1 for a job that is done and
             has returned something, NULL for the others
    late     which of these were settled after many that were accepted later: the others are in the order of settlement
             in `settled`, too
    results  what was returned, for as long as its job is in `settled`, if there is room for so long
    dead     dead letters, until they are dropped or tried again
    keys     idempotency keys; `expires` is NULL while their jobs are unsettled

Bodies come last in their rows: what comes before them is read without them.

Sequence numbers are made by the pipeline, of the number of the opening and a count: one is never used again, even if
the transaction that held it was lost in a power cut.
"""

from __future__ import annotations

import secrets
import sqlite3

from zpipeline.journal.identity import Mislaid

VERSION = 2

#: In the head of each journal, so that it is known for one whatever number others give their versions: "zpip".
APPLICATION = 0x7A706970

#: What `meta` counts.
COUNTS = ("pending", "pending_bytes", "settled", "result_bytes", "dead", "keys")

TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE jobs (
        sequence INTEGER PRIMARY KEY,
        accepted_at REAL NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 1,
        strikes INTEGER NOT NULL DEFAULT 0,
        due REAL,
        error TEXT,
        headers BLOB NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX retries ON jobs (due, sequence) WHERE due IS NOT NULL",
    """CREATE TABLE settled (
        sequence INTEGER PRIMARY KEY,
        attempts INTEGER NOT NULL,
        accepted_at REAL NOT NULL,
        settled_at REAL NOT NULL,
        error TEXT,
        returned INTEGER
    )""",
    "CREATE TABLE results (sequence INTEGER PRIMARY KEY, value BLOB NOT NULL)",
    """CREATE TABLE dead (
        sequence INTEGER PRIMARY KEY,
        accepted_at REAL NOT NULL,
        settled_at REAL NOT NULL,
        attempts INTEGER NOT NULL,
        strikes INTEGER NOT NULL,
        handler TEXT NOT NULL,
        error TEXT NOT NULL,
        size INTEGER NOT NULL,
        body BLOB NOT NULL,
        headers BLOB NOT NULL,
        traceback TEXT NOT NULL
    )""",
    """CREATE TABLE keys (
        name TEXT PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        expires REAL
    ) WITHOUT ROWID""",
    "CREATE INDEX keys_of_jobs ON keys (sequence)",
    "CREATE INDEX keys_to_expire ON keys (expires) WHERE expires IS NOT NULL",
)

#: What journals of version 0.1 do not have. That version does no harm to it, and needs nothing of it.
ADDED = (
    "CREATE TABLE IF NOT EXISTS late (sequence INTEGER PRIMARY KEY, settled_at REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS late_in_order ON late (settled_at)",
    "INSERT OR IGNORE INTO meta VALUES ('probes', 0), ('time', 0)",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of a new journal; `complete` must follow."""
    for statement in TABLES:
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        # 63 bits: SQLite's integers are signed
        [("ventilator", secrets.randbits(63)), ("epoch", 0), *((name, 0) for name in COUNTS)],
    )
    connection.execute(f"PRAGMA application_id={APPLICATION}")
    connection.execute(f"PRAGMA user_version={VERSION}")


def complete(connection: sqlite3.Connection) -> None:
    """Add what an older journal of this version does not have."""
    for statement in ADDED:
        connection.execute(statement)


def explain(error: Exception) -> str:
    """What is wrong, and how to mend it."""
    text = str(error)
    if isinstance(error, Mislaid):
        return text
    if is_damaged(error):
        return f"it is damaged, or no SQLite file ({text}): restore it from a backup, or name another with --journal"
    if "readonly" in text or "unable to open" in text:
        return (
            f"it cannot be written ({text}): see to the permissions of the file and of its folder, and to how many "
            "files this process may open"
        )
    if is_full(error):
        return f"there is no room on its disk ({text}): make some"
    if is_locked(error):
        return f"another program holds it ({text}): end that program"
    return f"it cannot be used ({text}): see to its disk"


def is_damaged(error: Exception) -> bool:
    """Whether the file does not hold what it should."""
    text = str(error)
    return isinstance(error, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text)


def is_of_the_file(error: Exception) -> bool:
    """Whether the file, its disk or the machine is in trouble: not what was to be written."""
    # plain: what SQLite has no narrower class for, such as damage
    is_plain = type(error) is sqlite3.DatabaseError
    return is_plain or isinstance(
        error, sqlite3.OperationalError | sqlite3.InternalError | OSError | MemoryError | Mislaid
    )


def may_be_written(error: Exception) -> bool:
    """Whether a transaction may be in SQLite's log though committing it failed so: it was written, and not synced.

    SQLite writes what makes a transaction one last of all. So one whose writing failed is not there.
    """
    return not is_full(error) and getattr(error, "sqlite_errorname", None) != "SQLITE_IOERR_WRITE"


def is_unsynced(error: Exception) -> bool:
    """Whether all was written, and syncing it failed. (Before Python 3.11 nobody can tell.)"""
    return getattr(error, "sqlite_errorname", None) == "SQLITE_IOERR_FSYNC"


def is_full(error: Exception) -> bool:
    """Whether there is no room on the disk."""
    return "is full" in str(error)


def is_locked(error: Exception | None) -> bool:
    """Whether another program holds the file."""
    return isinstance(error, sqlite3.Error) and "locked" in str(error)
