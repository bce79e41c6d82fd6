"""The lock beside a journal: one process at a time has the journal.

It is a file with the journal's name and ``.lock`` at its end, which is locked by flock(2) while a process has the
journal. Its text is for people, and for the next start: the number of the process, and that of the journal's
ventilator, by which it is known that there was a journal here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from stat import S_ISREG

from zpipeline.errors import UsageError

_TEXT = re.compile(rb"(\d{1,10})\n(?:([0-9a-f]{16})\n)?")


class Lock:
    """Take it. It is held until it is closed, or the process ends.

    :param path: of the journal, as it was named.
    :param real: the same without links: one file has one lock, whatever link it was named by.
    :raises UsageError: another process has it; or it cannot be made; or there is a file of its name that is no lock.
    """

    def __init__(self, path: str, real: str) -> None:
        self._path = path
        self._name = real + ".lock"
        self._file = self._take()
        match = _TEXT.fullmatch(self._text())
        #: Whether there was a journal here, as this file says.
        self.had_journal = match is not None and match[2] is not None

    def _take(self) -> int:
        while True:
            file = self._open()
            try:
                self._check(file)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.stat(self._name)):
                    return file
            except FileNotFoundError:
                pass  # it was removed in this moment
            except BlockingIOError:
                match = _TEXT.fullmatch(os.pread(file, 100, 0))
                holder = "?" if match is None else match[1].decode()
                os.close(file)
                raise UsageError(
                    f"the journal {self._path} is in use by process {holder}: stop that one, or name another with "
                    "--journal"
                ) from None
            except OSError as error:
                os.close(file)
                raise UsageError(
                    f"the journal {self._path} cannot be locked ({error.strerror}): name a file on a local disk with "
                    "--journal"
                ) from None
            except UsageError:
                os.close(file)
                raise
            os.close(file)

    def _open(self) -> int:
        try:
            return os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._is_none("a link") from None
            if error.errno == errno.EISDIR:
                raise self._is_none("a folder") from None
            raise UsageError(
                f"the journal {self._path}: its lock {self._name} cannot be made ({error.strerror}): see to its folder "
                "and the permissions there, or name another file with --journal"
            ) from None

    def _check(self, file: int) -> None:
        if not S_ISREG(os.fstat(file).st_mode):
            raise self._is_none("no plain file")
        text = os.pread(file, 100, 0)
        if text and not _TEXT.fullmatch(text):
            raise self._is_none("another program's file")
        if not text:
            os.fchmod(file, 0o600)  # it is new, and the umask may have taken even our own permissions

    def _is_none(self, what: str) -> UsageError:
        return UsageError(
            f"the journal {self._path}: its lock would be {self._name}, and that is {what}: name another file with "
            "--journal"
        )

    def _text(self) -> bytes:
        return os.pread(self._file, 100, 0)

    def mark(self, ventilator: int) -> None:
        """Write down who has the journal, and that there is one: this ventilator's."""
        text = b"%d\n%016x\n" % (os.getpid(), ventilator)
        try:
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))
        except OSError:
            pass  # a full disk: the lock holds

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)
