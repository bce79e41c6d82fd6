"""As few descriptors as a test wants."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def count(pid: int | str = "self") -> int:
    """How many descriptors that process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def no_more_files(but: int = 0) -> Iterator[None]:
    """This process can open no more than so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.open(os.devnull, os.O_RDONLY)  # all numbers below this one are taken
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + but, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(highest)
