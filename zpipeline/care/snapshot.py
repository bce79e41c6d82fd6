"""A journal as it stood at one moment, read beside a zpipe-web that may be writing it.

The file is opened to be read only and stays as it is, byte for byte. SQLite keeps two files beside it, ``-wal`` and
``-shm``: it makes them if they are not there, and an empty ``-wal`` may be left behind.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from attrs import frozen

from zpipeline.errors import ZpipelineError
from zpipeline.journal.schema import APPLICATION, VERSION, explain


class CareError(ZpipelineError):
    """What was asked for cannot be done to this file. Its text is one line that says how to mend it."""


@frozen
class Head:
    """What a journal says of itself.

    :ivar meta: its table of that name: what is one for the whole journal, and how many rows the others have.
    """

    application: int
    version: int
    meta: dict[str, int]


@frozen
class Snapshot:
    """A journal as it stood at one moment.

    :ivar connection: in a read transaction, which sees that moment for as long as it lasts. What others write meanwhile
        stands in SQLite's log, which grows until the transaction ends.
    :ivar size: of the file, in bytes; it is pages of `page_size` bytes.
    """

    connection: sqlite3.Connection
    head: Head
    size: int
    page_size: int


@contextmanager
def snapshot(path: str) -> Iterator[Snapshot]:
    """Look at a journal, for as long as the context lasts.

    :raises CareError: there is no journal, or it cannot be read, or a newer zpipeline has made it.
    """
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise CareError(f"the journal {path}: {error.strerror}: name the file with --journal") from None
    if not is_file:
        raise CareError(f"{path} is not a file: name the journal with --journal")
    try:
        connection = sqlite3.connect(uri(path, mode="ro"), uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise CareError(f"the journal {path}: {_explain(error)}") from None
    with closing(connection):
        try:
            connection.execute("BEGIN")
            _check_kind(connection, path)
            head = read_head(connection)
            pages, page_size = _pragma(connection, "page_count"), _pragma(connection, "page_size")
        except sqlite3.Error as error:
            raise CareError(f"the journal {path}: {_explain(error)}") from None
        yield Snapshot(connection, head, pages * page_size, page_size)


def uri(path: str, **parameters: str) -> str:
    """The file for `sqlite3.connect`, with SQLite's own parameters: https://sqlite.org/uri.html."""
    given = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"file://{quote(os.fsencode(os.path.abspath(path)))}?{given}"


def read_head(connection: sqlite3.Connection) -> Head:
    """What the journal behind this connection says of itself.

    :raises sqlite3.Error: it cannot be read.
    """
    meta: dict[str, int] = dict(connection.execute("SELECT name, value FROM meta"))
    return Head(_pragma(connection, "application_id"), _pragma(connection, "user_version"), meta)


def _check_kind(connection: sqlite3.Connection, path: str) -> None:
    if _pragma(connection, "application_id") != APPLICATION:
        raise CareError(
            f"{path} is not a journal: it is empty, cut short, or another program's SQLite file; name the journal with "
            "--journal"
        )
    version = _pragma(connection, "user_version")
    if version > VERSION:
        raise CareError(
            f"the journal {path} has schema version {version}, and this zpipeline knows those up to {VERSION}: use the "
            "zpipeline that made it"
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _explain(error: sqlite3.Error) -> str:
    text = str(error)
    if "readonly" in text or "unable to open" in text:
        return (
            f"it cannot be read ({text}): SQLite makes files beside it for that, so do this as the user who runs "
            "zpipe-web, and see to the permissions of the file and of its folder"
        )
    return explain(error)
