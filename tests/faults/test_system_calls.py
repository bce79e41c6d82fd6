"""Each system call of the journal fails, once and for a second: nothing accepted is lost, nothing refused runs.

    python -m tests.faults.test_system_calls [--list] [--from NAME] [--only TEXT] [--lanes 2]

runs the whole table, in some four minutes, and prints what the web side did in each case. When a case fails, that is
printed, and the others go on; --from goes on where an earlier run has ended. The tests here are the most telling of it.

What must hold in each case:

- a push that was answered 202 runs; one that was answered otherwise never does, also not when the web side is killed
  right after its answer and is started again; one without an answer does either
- a push with an idempotency key that was refused, or got no answer, is accepted when it is sent again, and is one job
- a dead letter that is revived meanwhile runs, or is dead still
- afterwards jobs are accepted again, or the web side has said in one line why not, and goes on when it is started again
- what the journal counts is what it has
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.rig import Rig
from tests.faults.system_calls import FILES, Case, Stand, can_trace

# What Linux gives, by the manual pages of section 2, of what a file on a disk can get. EAGAIN, EBADF and EINVAL it
# does not give where nothing else is wrong: they stand for whatever a manual page does not foresee.
WRITE = ("EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EINTR", "EAGAIN", "EBADF", "EINVAL", "EPERM")
SYNC = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EINTR", "EINVAL")
READ = ("EIO", "EINTR")
OPEN = ("EACCES", "EMFILE", "ENFILE", "ENOSPC", "EROFS", "EINTR", "EIO", "ENOMEM", "ELOOP", "EPERM", "EISDIR")
TRUNCATE = ("EIO", "ENOSPC", "EINTR", "EFBIG")
UNLINK = ("EACCES", "EBUSY", "EIO", "EROFS")
FLOCK = ("EINTR", "ENOLCK", "EAGAIN", "EINVAL")
LOCK = ("EAGAIN", "EACCES", "ENOLCK", "EIO", "EINTR")


def table() -> Iterator[Case]:
    """All cases."""
    yield from _under_load()
    yield from _at_stop()
    yield from _at_start()


def _under_load() -> Iterator[Case]:
    for calls, errors in (("fdatasync,fsync", SYNC), ("pwrite64", WRITE)):
        for error in errors:
            for lasts in (False, True):
                for kill in (False, True):
                    yield Case(calls, error, lasts=lasts, kill=kill)
    # Locks last: where letting go of one fails, SQLite may hold up its log until the web side is started again.
    for calls, errors in (("ftruncate,fallocate", TRUNCATE), ("pread64", READ), ("fcntl", LOCK)):
        for error in errors:
            for lasts in (False, True):
                yield Case(calls, error, lasts=lasts)


def _at_stop() -> Iterator[Case]:
    for error in UNLINK:
        yield Case("unlink,unlinkat", error, "stop", lasts=True)
    for calls in ("fdatasync,fsync", "pwrite64"):
        for error in ("EIO", "ENOSPC"):
            yield Case(calls, error, "stop", lasts=True)


def _at_start() -> Iterator[Case]:
    for error, file in zip(OPEN, cycle(FILES), strict=False):
        yield Case("open,openat", error, "start", files=(file,))
        yield Case("open,openat", error, "start", lasts=True)
    for error in ("EACCES", "EMFILE"):
        for file in FILES:
            yield Case("open,openat", error, "start", lasts=True, files=(file,))
    for calls, errors, files in (
        ("flock", FLOCK, FILES),
        ("pwrite64", WRITE, (".lock",)),  # of the number of the process
        ("ftruncate,fallocate", TRUNCATE, ("-shm",)),
        ("mmap", ("ENOMEM",), FILES),
        ("fcntl", LOCK, FILES),
        ("pread64", READ, FILES),
        ("pwrite64", ("EIO", "ENOSPC"), FILES),
        ("fdatasync,fsync", ("EIO", "ENOSPC"), FILES),
    ):
        for error in errors:
            for lasts in (False, True):
                yield Case(calls, error, "start", lasts=lasts, files=files)


class SystemCalls(SynchronousTestCase):
    """The most telling cases."""

    def run_cases(self, *cases: Case) -> None:
        can_trace()
        with Rig() as rig:
            stand = Stand(rig)
            for case in cases:
                print(f"\n{case.name}: {stand.run(case)}", end=" ", flush=True)
            stand.end()

    def test_the_disk_does_not_take_what_was_written(self) -> None:
        """A sync fails: SQLite has written the transaction into its log, and nobody knows what of it is on the disk."""
        self.run_cases(
            Case("fdatasync,fsync", "EIO"),
            Case("fdatasync,fsync", "EIO", lasts=True),
            Case("fdatasync,fsync", "EIO", kill=True),
            Case("fdatasync,fsync", "EIO", lasts=True, kill=True),
        )

    def test_the_disk_is_full(self) -> None:
        self.run_cases(Case("pwrite64", "ENOSPC"), Case("pwrite64", "ENOSPC", lasts=True, kill=True))

    def test_the_disk_fails(self) -> None:
        self.run_cases(Case("pwrite64", "EIO", lasts=True), Case("pwrite64", "EIO", kill=True))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    parser.add_argument("--from", dest="first", metavar="NAME", help="leave out those before this one")
    parser.add_argument("--only", metavar="TEXT", default="", help="those that have this in their names")
    parser.add_argument("--lanes", type=int, default=2, help="so many at a time (default: %(default)s)")
    arguments = parser.parse_args()
    cases = list(table())
    if arguments.first is not None:
        cases = cases[[case.name for case in cases].index(arguments.first) :]
    cases = [case for case in cases if arguments.only in case.name]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return
    can_trace()
    left = iter(cases)
    with ThreadPoolExecutor(arguments.lanes) as lanes:
        failed = sum(lanes.map(_run, [left] * arguments.lanes))
    print(f"{len(cases)} cases, {failed} failed")
    sys.exit(1 if failed else 0)


def _run(left: Iterator[Case]) -> int:
    """Run cases until there are no more, each failure on a stand of its own: how many have failed."""
    failed = 0
    case = next(left, None)
    while case is not None:
        with Rig() as rig:
            stand = Stand(rig)
            try:
                while case is not None:
                    began = time.monotonic()
                    said = stand.run(case)
                    print(f"{case.name}: {said} ({time.monotonic() - began:.1f} s)", flush=True)
                    case = next(left, None)
                stand.end()
            except AssertionError as error:
                print(f"FAILED: {case.name if case else 'the end'}: {error}", flush=True)
                failed += 1
                case = next(left, None)
    return failed


if __name__ == "__main__":
    main()
