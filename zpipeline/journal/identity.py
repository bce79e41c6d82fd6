"""Whether the files that are open still have their names.

A file that is removed or replaced while it is open can be written as ever, and nobody finds what was written there. So
the names are looked at before each transaction is committed, and once a second.
"""

from __future__ import annotations

import os
from stat import S_ISREG

#: What SQLite's log begins with (https://www.sqlite.org/fileformat2.html, "The WAL File Format"), but for its last bit.
_MAGIC = b"\x37\x7f\x06\x82"

#: The smallest page that SQLite has, in bytes.
SMALLEST = 512

_RESTART = "stop this process and start it again"


class Mislaid(Exception):
    """The journal's file is not the one that is open. The text says what happened, and how to mend it."""


class Identity:
    """The journal's file and its log (``-wal``), as they were when they were opened.

    :param path: of the file, without links. Both files exist.
    :raises OSError: one of them cannot be looked at.
    """

    def __init__(self, path: str) -> None:
        self._names = (path, path + "-wal")
        self._log = os.open(self._names[1], os.O_RDONLY | os.O_CLOEXEC)
        self._known = [_identity(os.stat(name)) for name in self._names]

    @property
    def log_size(self) -> int:
        """Of SQLite's log, in bytes."""
        return os.fstat(self._log).st_size

    def check(self) -> None:
        """Both files have their names, and are not cut off.

        :raises Mislaid: they do not, or are.
        """
        for name, known in zip(self._names, self._known, strict=True):
            try:
                found = os.stat(name)
            except FileNotFoundError:
                raise Mislaid(f"{name} was removed while it was in use: put it back, or {_RESTART}") from None
            except OSError:
                continue  # nothing is known: writing tells what is wrong
            if _identity(found) != known:
                raise Mislaid(f"another file has taken the place of {name}: put the first one back, or {_RESTART}")
            if name == self._names[0] and S_ISREG(found.st_mode) and found.st_size < SMALLEST:
                raise Mislaid(f"{name} was cut off while it was in use: {_RESTART} with a backup")
        self._check_log()

    def _check_log(self) -> None:
        try:
            head = os.pread(self._log, len(_MAGIC), 0)
        except OSError:
            return
        # another program may have emptied it, having brought all of it into the file
        if head and (head[:3] != _MAGIC[:3] or head[3] & ~1 != _MAGIC[3]):
            raise Mislaid(f"{self._names[1]} was cut off while it was in use: {_RESTART} with a backup")

    def close(self) -> None:
        """Look no more."""
        os.close(self._log)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
