"""A copy of a journal that may be in use.

It is made by SQLite's online backup, from within one read transaction. Outside of one, the backup would begin anew
whenever another process has written, and would not end under load. (``VACUUM INTO`` ends as well, and leaves unused
pages out. But it writes all of its file before it waits for the disk, which then holds up zpipe-web's own writing for a
second or two at 700 MB.)

The copy is made under another name beside its own. It gets its own once it has been checked and is on the disk, so that
a file of that name is a whole copy.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TypeAlias

from attrs import frozen

from zpipeline.care.snapshot import CareError, Head, read_head, snapshot, uri
from zpipeline.journal.schema import is_full

#: Pages between two waits for the disk, 4 MiB: it always has little to write, so that others who wait for it, such as
#: zpipe-web, wait for milliseconds.
_PAGES = 1024

#: What SQLite would take for a part of the file of the same name without that ending.
_LOGS = ("-wal", "-journal")

#: Is told what is being done, how many bytes are copied, and of how many.
Told: TypeAlias = Callable[[str, int, int], object]


@frozen
class Copied:
    """What has been copied.

    :ivar size: of the copy, in bytes.
    :ivar pending: how many jobs are unsettled in it.
    :ivar dead: how many dead letters it has.
    :ivar seconds: how long that took.
    """

    size: int
    pending: int
    dead: int
    seconds: float


def copy(journal: str, to: str, told: Told) -> Copied:
    """Copy a journal, as it stands now, to a file that is not there yet.

    :raises CareError: it cannot be done; there is no copy then, nor a part of one.
    """
    begun = time.monotonic()
    _check_name(journal, to)
    try:
        with _new_file(to) as (path, file):
            head, size = _write(journal, to, path, file, told)
            told("checking", size, size)
            _check(journal, path, head)
            os.fsync(file)
            _check_name(journal, to)  # somebody may have made it meanwhile
            os.rename(path, to)
            _sync_folder(to)
    except OSError as error:
        raise _no_copy(to, error, error.errno in (errno.ENOSPC, errno.EDQUOT)) from None
    return Copied(size, head.meta["pending"], head.meta["dead"], time.monotonic() - begun)


def _check_name(journal: str, to: str) -> None:
    real = os.path.realpath(journal)
    if os.path.realpath(to) in {real, *(real + end for end in (*_LOGS, "-shm", ".lock"))}:
        raise CareError(f"{to} is the journal itself, or a part of it: name another file for the copy")
    if os.path.lexists(to):
        what = "is the journal itself" if _are_one(journal, to) else "exists"
        raise CareError(f"{to} {what}, and nothing is overwritten: name another file for the copy")
    for log in _LOGS:
        if os.path.lexists(to + log):
            raise CareError(
                f"{to}{log} exists, and SQLite would take it for a part of the copy: remove it, or name another file"
            )


def _are_one(journal: str, to: str) -> bool:
    try:
        return os.path.samefile(journal, to)
    except FileNotFoundError:  # there is no journal, or `to` is a link to nothing
        return False


@contextmanager
def _new_file(to: str) -> Iterator[tuple[str, int]]:
    """A file of another name beside the copy's, and its descriptor; it is removed in the end, unless it was renamed.

    Nobody but its owner may read it: jobs are in it.
    """
    folder, name = os.path.split(os.path.abspath(to))
    file, path = tempfile.mkstemp(".part", f"{name}.", folder)
    try:
        os.fchmod(file, 0o600)  # whatever the umask is
        yield path, file
    finally:
        os.close(file)
        with suppress(FileNotFoundError):
            os.unlink(path)


def _write(journal: str, to: str, path: str, file: int, told: Told) -> tuple[Head, int]:
    """Write all of the journal into the file: what it says of itself, and its size in bytes."""
    with snapshot(journal) as seen, closing(_connect(path, vfs="unix-none")) as target:
        _check_room(to, seen.size)

        def progress(status: int, remaining: int, total: int) -> None:
            os.fsync(file)
            told("copying", seen.size - remaining * seen.page_size, seen.size)

        # if this does not come to its end there is no copy, so nothing has to be undone in it
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("PRAGMA synchronous=OFF")
        try:
            seen.connection.backup(target, pages=_PAGES, progress=progress)
        except sqlite3.Error as error:
            raise _no_copy(to, error, is_full(error)) from None
        return seen.head, seen.size


def _connect(path: str, **parameters: str) -> sqlite3.Connection:
    """Open the copy, without locks: nobody else knows it, and its file system may have none."""
    return sqlite3.connect(uri(path, **parameters), uri=True, isolation_level=None)


def _check_room(to: str, size: int) -> None:
    """Nor is the disk filled up before it is found too small: the journal may be on the same."""
    found = os.statvfs(os.path.dirname(os.path.abspath(to)))
    free = found.f_bavail * found.f_frsize
    if free < size:
        raise CareError(
            f"{to} takes {size:,} bytes, and its disk has room for {free:,}: make some, or name a file on another disk"
        )


def _check(journal: str, path: str, head: Head) -> None:
    """See whether this is a copy of a sound journal."""
    try:
        with closing(_connect(path, mode="ro", immutable="1")) as copied:
            found = copied.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found == "ok" and read_head(copied) != head:
                found = "it does not say of itself what the journal does"
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise CareError(
            f"the copy is damaged ({' '.join(found.split())}), and so may be the journal {journal}: look by sqlite3 "
            "-readonly FILE 'PRAGMA quick_check'; if it is, stop what has it, and restore an earlier backup"
        )


def _sync_folder(to: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(to)), os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # its file system does not sync folders
            raise
    finally:
        os.close(folder)


def _no_copy(to: str, error: Exception, is_full: bool) -> CareError:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if is_full:
        return CareError(f"{to}: there is no room on its disk ({text}): make some, or name a file on another disk")
    return CareError(f"{to} cannot be written ({text}): see to its folder and its disk, or name another file")
