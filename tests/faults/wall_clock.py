"""The system's clock, as processes see it that libfaketime is loaded into: a test sets it while they run."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import SkipTest

_FOLDERS = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")


class WallClock:
    """One clock, for all processes that are run by `command`. The monotonic clocks are not altered.

    Python's `time.sleep` does not work in such processes: to libfaketime a moment of the monotonic clock is one of the
    wall clock.

    :param folder: for a file.
    :ivar command: takes a command, and runs it with this clock.
    :raises SkipTest: there is no libfaketime.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        self.command = [
            "env",
            f"LD_PRELOAD={_library()}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        ]

    def set(self, ahead: int) -> None:
        """Set it so many seconds ahead of the system's own."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        os.rename(new, self._file)


def _library() -> Path:
    for folder in _FOLDERS:
        for library in Path("/").glob(f"{folder[1:]}/libfaketime.so.1"):
            return library
    raise SkipTest("there is no libfaketime (Debian's package libfaketime)")
