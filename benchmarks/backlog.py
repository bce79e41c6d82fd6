"""What a million waiting jobs cost: memory of the web side, and the rates at which it accepts and settles, beside those
with an empty journal, on the same machine in one run.

    python -m benchmarks.backlog [--jobs 1000000] [--sample 100000] [--retries]

A zpipe-web with a journal in a temporary folder is given jobs of 100 bytes, 1,000 in a batch, while no worker is there.
Then, with the same journal, three workers that do nothing are started. Rates are those of the first and the last
`--sample` jobs accepted, and of the last and the first as many settled. With --retries the jobs fail once before, so
that all of them wait for another attempt when the memory is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from benchmarks.batches import LINES, batch
from benchmarks.client import send_all
from benchmarks.rig import DISCARD, Rig, free_ports

HANDLER = """
import time
from zpipeline import RetryLater

def work(job):
    if job.attempt == 1:
        raise RetryLater({at} - time.time())
"""


def run(rig: Rig, jobs: int, sample: int, *, retries: bool) -> None:
    """All of it."""
    rig.worker_ports = free_ports(3)
    print("with an empty journal:")
    _start_web(rig)
    empty = _accept(rig, sample)
    print(f"  accepts {empty:,.0f} jobs/s; {_memory(rig)}")
    _accept(rig, jobs - 2 * sample)
    print(f"with {jobs:,} jobs waiting:")
    full = _accept(rig, sample)
    print(f"  accepts {full:,.0f} jobs/s; {_memory(rig)}")
    rig.end()
    _start_web(rig, "--attempts=2")
    if retries:
        _wait_for_retries(rig, jobs)
    else:
        rig.start_workers(DISCARD)
    # the first tenth is left out: workers start and windows grow
    many = _settle(rig, sample, int(0.9 * jobs) - 2 * sample)
    print(f"  settles {many:,.0f} jobs/s; {_memory(rig)}")
    few = _settle(rig, sample, 0)
    print(f"the last {sample:,}: settles {few:,.0f} jobs/s; {_memory(rig)}")
    print(f"ratio, with {jobs:,} waiting to without: accept {full / empty:.2f}, settle {many / few:.2f}")


def _start_web(rig: Rig, *options: str) -> None:
    began = time.monotonic()
    rig.start_web(*options)
    print(f"  answers HTTP {time.monotonic() - began:.2f} seconds after it was started")


def _accept(rig: Rig, jobs: int) -> float:
    """Push so many jobs: how many were accepted a second."""
    began = time.monotonic()
    asyncio.run(send_all(rig.port, [batch()] * (jobs // LINES), 1))
    return jobs / (time.monotonic() - began)


def _settle(rig: Rig, jobs: int, down_to: int) -> float:
    """Wait until that many are left: how many were settled a second."""
    before = began = 0.0
    while True:
        pending = rig.pending()
        if not began and pending < down_to + jobs:
            before, began = pending, time.monotonic()
        if pending <= down_to:
            return (before - pending) / (time.monotonic() - began)
        time.sleep(0.005)


def _wait_for_retries(rig: Rig, jobs: int) -> None:
    at = time.time() + 60 + jobs / 10_000
    (rig.folder / "retrying.py").write_text(HANDLER.format(at=at))
    rig.start_workers("retrying:work")
    with closing(sqlite3.connect(f"file:{rig.journal}?mode=ro", uri=True)) as journal:
        while journal.execute("SELECT count(*) FROM jobs WHERE due IS NULL").fetchone()[0]:
            time.sleep(1)
    print(f"  all of them wait for another attempt: {_memory(rig)}")
    time.sleep(max(0.0, at - time.time()))


def _memory(rig: Rig) -> str:
    """Resident memory of the web side, now and at most."""
    status = Path(f"/proc/{rig.web.pid}/status").read_text()
    sizes = dict(line.split(":", 1) for line in status.splitlines())
    return ", ".join(f"{name} {int(sizes[name].split()[0]) / 1024:.0f} MB" for name in ("VmRSS", "VmHWM"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=100_000)
    parser.add_argument("--retries", action="store_true")
    arguments = parser.parse_args()
    with Rig() as rig:
        run(rig, arguments.jobs, arguments.sample, retries=arguments.retries)


if __name__ == "__main__":
    main()
