"""What a body makes a handler do: the same for our handlers and for the example worker.

``exit``, ``segfault``, ``killed``   the process dies: by `os._exit`, by a segmentation fault, by SIGKILL
``fail N``                           the first N attempts fail, whichever workers make them
``fail N later SECONDS``             the same; and each asks to be tried again after so long, in place of the backoff
``hold SECONDS``                     C code holds the interpreter for so long
a number                             the job takes that many seconds
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

POISON = (b"exit", b"segfault", b"killed")


class Later(Exception):
    """Not now, but after so many seconds.

    :ivar delay: as given.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.delay = seconds


def act(record: str, job_id: str, body: str) -> None:
    """Do what the body says, save for taking its time.

    :param record: of this worker; attempts are counted beside it.
    """
    match body.split():
        case ["exit"]:
            os._exit(3)
        case ["segfault"]:
            ctypes.string_at(0)
        case ["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["hold", seconds]:
            ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))
        case ["fail", times, *later]:
            with Path(record).with_name(f"attempts-{job_id}").open("ab") as attempts:
                attempts.write(b".")
                attempts.flush()
                attempt = attempts.tell()
            if attempt <= int(times):
                if later:
                    raise Later(float(later[-1]))
                raise ValueError(f"attempt {attempt} fails, as it was told to")


def seconds_of(body: str) -> float | None:
    """How long the job takes, if the body says so."""
    return float(body) if body.replace(".", "", 1).isdigit() else None
