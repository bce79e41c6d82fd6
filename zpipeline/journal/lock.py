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
from contextlib import suppress
from stat import S_ISREG

from zpipeline.errors import UsageError

_TEXT = re.compile(rb"(\d{1,10}) *\n(?:([0-9a-f]{16})\n)?")


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
        match = _TEXT.fullmatch(_text(self._file))
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
                match = _TEXT.fullmatch(_text(file))
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
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            try:
                made = os.open(self._name, flags | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return os.open(self._name, flags)
            os.fchmod(made, 0o600)  # the umask may have taken even our own permissions
            return made
        except FileNotFoundError:
            if os.path.isdir(os.path.dirname(self._name)):
                return self._open()  # it was removed in this moment
            raise self._is_not_made("No such file or directory") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._is_none("a link") from None
            if error.errno == errno.EISDIR:
                raise self._is_none("a folder") from None
            raise self._is_not_made(error.strerror) from None

    def _is_not_made(self, why: str | None) -> UsageError:
        return UsageError(
            f"the journal {self._path}: its lock {self._name} cannot be made ({why}): see to its folder and the "
            "permissions there, or name another file with --journal"
        )

    def _check(self, file: int) -> None:
        if not S_ISREG(os.fstat(file).st_mode):
            raise self._is_none("no plain file")
        text = _text(file)
        if text and not _TEXT.fullmatch(text):
            raise self._is_none("another program's file")

    def _is_none(self, what: str) -> UsageError:
        return UsageError(
            f"the journal {self._path}: its lock would be {self._name}, and that is {what}: name another file with "
            "--journal"
        )

    def mark(self, ventilator: int) -> None:
        """Write down who has the journal, and that there is one: this ventilator's."""
        with suppress(OSError):  # a full disk: the lock holds
            # always of one length, so that nothing of an older text is left behind it
            os.pwrite(self._file, b"%-10d\n%016x\n" % (os.getpid(), ventilator), 0)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)


def _text(file: int) -> bytes:
    return os.pread(file, 100, 0).strip(b"\0")  # which a power cut may leave in place of what was written
