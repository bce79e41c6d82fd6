"""``sys.stdout`` and ``sys.stderr`` of a worker: what is written there is logged, line by line.

Those that twistd puts in their place log, too, but are no files otherwise: they have no ``buffer`` for bytes, and no
descriptor for a child process. These are text files as any other. A descriptor is that of a pipe, whose other end a
thread reads: a handler that waits for its child process may hold up the reactor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from io import BufferedIOBase, TextIOWrapper
from threading import Lock, Thread, current_thread
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger, LoggingFile, LogLevel

#: In bytes: a longer line is logged in parts. systemd's journal would cut it after 48 KiB (journald.conf(5), LineMax).
LONGEST_LINE = 1 << 15

#: For so many seconds the end waits for what child processes have written. They may live on.
_PATIENCE = 1.0


class LogBuffer(BufferedIOBase):
    """Takes bytes, and logs them as lines: UTF-8, anything else by its numbers. Each thread has lines of its own.

    :param name: the namespace of its log events.
    :param level: their level.
    """

    def __init__(self, name: str, level: Any) -> None:
        self.name = f"<{name}>"
        self._log = Logger(namespace=name)
        self._level = level
        self._begun: dict[Thread, bytes] = {}  # lines that are not ended
        self._lock = Lock()
        self._pipe: int | None = None  # the end of it that is written to
        self._reader: Thread | None = None

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Log the lines that end here.

        :param data: bytes, or what has a buffer of them.
        :raises ValueError: it has been closed.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        taken = memoryview(data).tobytes()
        self._take(taken)
        return len(taken)

    def fileno(self) -> int:
        """A descriptor that takes what this takes.

        :raises OSError: there are no descriptors left.
        """
        with self._lock:
            if self._pipe is None:
                end, self._pipe = os.pipe()
                self._reader = Thread(target=self._read, args=(end,), name=f"zpipeline {self.name}", daemon=True)
                self._reader.start()
            return self._pipe

    def finish(self) -> None:
        """Log what has been written so far, lines that are not ended included."""
        with self._lock:
            pipe, self._pipe = self._pipe, None
            if pipe is not None and self._reader is not None:
                os.close(pipe)
                self._reader.join(_PATIENCE)
        self._end_lines(list(self._begun))

    def _read(self, end: int) -> None:
        with open(end, "rb", buffering=0) as pipe:
            while data := pipe.read(LONGEST_LINE):
                self._take(data)
        self._end_lines([current_thread()])

    def _take(self, data: bytes) -> None:
        thread = current_thread()
        *lines, rest = (self._begun.pop(thread, b"") + data).split(b"\n")
        *more, rest = _parts(rest)
        for line in lines:
            for part in _parts(line):
                self._say(part)
        for part in more:
            self._say(part)
        if rest:
            self._begun[thread] = rest
            self._end_lines([other for other in list(self._begun) if not other.is_alive()])

    def _end_lines(self, threads: list[Thread]) -> None:
        for thread in threads:
            if begun := self._begun.pop(thread, b""):
                self._say(begun)

    def _say(self, line: bytes) -> None:
        self._log.emit(self._level, format="{log_io}", log_io=line.decode("utf-8", "backslashreplace"))


class Output(Service):
    """Puts them in the place of twistd's, until it is stopped."""

    def __init__(self) -> None:
        self._buffers = LogBuffer("stdout", LogLevel.info), LogBuffer("stderr", LogLevel.error)
        self._files = [_text_file(buffer) for buffer in self._buffers]  # nobody else may keep them, and then they close
        self._replaced: list[tuple[str, object]] = []

    def startService(self) -> None:
        """twistd logs now."""
        super().startService()
        for name, file in zip(("stdout", "stderr"), self._files, strict=True):
            before = getattr(sys, name)
            if isinstance(before, LoggingFile):
                self._replaced.append((name, before))
                setattr(sys, name, file)

    def stopService(self) -> None:
        """All handlers have ended. Who has kept one of the files may go on writing."""
        super().stopService()
        while self._replaced:
            setattr(sys, *self._replaced.pop())
        for buffer in self._buffers:
            buffer.finish()


def _text_file(buffer: LogBuffer) -> TextIOWrapper:
    """A text file on top of it, as Python makes its own."""
    return TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True)


def _parts(line: bytes) -> Iterator[bytes]:
    """The line, in parts that are not too long, and cut between two characters."""
    begin = 0
    while len(line) - begin > LONGEST_LINE:
        end = begin + LONGEST_LINE
        while line[end] & 0xC0 == 0x80 and end > begin + LONGEST_LINE - 4:
            end -= 1
        yield line[begin:end]
        begin = end
    yield line[begin:]
