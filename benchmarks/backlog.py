"""What a million waiting jobs cost: memory of the web side, and the rates at which it accepts and settles, beside those
with an empty journal, on the same machine in one run.

    python benchmarks/backlog.py [--jobs 1000000] [--sample 100000] [--retries]

A zpipe-web with a journal in a temporary folder is given jobs of 100 bytes, 1,000 in a batch, while no worker is there.
Then, with the same journal, three workers that do nothing are started. Rates are those of the first and the last
`--sample` jobs accepted, and of the last and the first as many settled. With --retries the jobs fail once before, so
that all of them wait for another attempt when the memory is measured.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]
BATCH = 1000

HANDLER = """
import time
from zpipeline import RetryLater

def work(job):
    if job.attempt == 1:
        raise RetryLater({at} - time.time())
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bench:
    """One web side, its workers, and its journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.workers = [free_port() for _ in range(3)]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start_web(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the web side; returns when it is ready."""
        began = time.monotonic()
        self.web = self._start(
            "zpipe-web",
            f"--listen=tcp:{self.port}:interface=127.0.0.1",
            "--max-pending=10000000",
            *(f"--worker=tcp://127.0.0.1:{port}" for port in self.workers),
            *options,
        )
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
                self.ask("GET", "/health/live")
                print(f"  answers HTTP {time.monotonic() - began:.2f} seconds after it was started")
                return self.web
            except OSError:
                time.sleep(0.01)

    def start_workers(self, handler: str) -> None:
        """Start the workers."""
        for port in self.workers:
            self._start("zpipe-worker", f"--port={port}", f"--handler={handler}")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*TWISTD, *command, "--until-eof"], cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> bytes:
        """One request: its answer."""
        self.connection.request(method, path, body or None, {"Content-Type": content_type} if content_type else {})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text!r}")
        return text

    def accept(self, jobs: int) -> float:
        """Push so many jobs: how many were accepted a second."""
        batch = b"\n".join([json.dumps("x" * 98).encode()] * BATCH)
        began = time.monotonic()
        for _ in range(jobs // BATCH):
            self.ask("POST", "/batch", batch, "application/x-ndjson")
        return jobs / (time.monotonic() - began)

    def settle(self, jobs: int, down_to: int) -> float:
        """Wait until that many are left: how many were settled a second."""
        journal = sqlite3.connect(f"file:{self.folder}/zpipe-web.sqlite?mode=ro", uri=True)
        query = "SELECT value FROM meta WHERE name = 'pending'"
        before = began = 0.0
        while True:
            pending = journal.execute(query).fetchone()[0]
            if not began and pending < down_to + jobs:
                before, began = pending, time.monotonic()
            if pending <= down_to:
                journal.close()
                return (before - pending) / (time.monotonic() - began)
            time.sleep(0.005)

    def memory(self) -> str:
        """Resident memory of the web side, now and at most."""
        status = Path(f"/proc/{self.web.pid}/status").read_text()
        sizes = dict(line.split(":", 1) for line in status.splitlines())
        return ", ".join(f"{name} {int(sizes[name].split()[0]) / 1024:.0f} MB" for name in ("VmRSS", "VmHWM"))


def run(bench: Bench, arguments: argparse.Namespace) -> None:
    """All of it."""
    jobs, sample = arguments.jobs, arguments.sample
    print("with an empty journal:")
    bench.start_web()
    empty = bench.accept(sample)
    print(f"  accepts {empty:,.0f} jobs/s; {bench.memory()}")
    bench.accept(jobs - 2 * sample)
    print(f"with {jobs:,} jobs waiting:")
    full = bench.accept(sample)
    print(f"  accepts {full:,.0f} jobs/s; {bench.memory()}")
    bench.stop()
    bench.start_web("--attempts=2")
    if arguments.retries:
        at = time.time() + 60 + jobs / 10_000
        (bench.folder / "retrying.py").write_text(HANDLER.format(at=at))
        bench.start_workers("retrying:work")
        journal = sqlite3.connect(f"file:{bench.folder}/zpipe-web.sqlite?mode=ro", uri=True)
        while journal.execute("SELECT count(*) FROM jobs WHERE due IS NULL").fetchone()[0]:
            time.sleep(1)
        journal.close()
        print(f"  all of them wait for another attempt: {bench.memory()}")
        while time.time() < at:
            time.sleep(1)
    else:
        bench.start_workers("zpipeline.handlers:discard")
    # the first tenth is left out: workers start and windows grow
    many = bench.settle(sample, int(0.9 * jobs) - 2 * sample)
    print(f"  settles {many:,.0f} jobs/s; {bench.memory()}")
    few = bench.settle(sample, 0)
    print(f"the last {sample:,}: settles {few:,.0f} jobs/s; {bench.memory()}")
    print(f"ratio, with {jobs:,} waiting to without: accept {full / empty:.2f}, settle {many / few:.2f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=100_000)
    parser.add_argument("--retries", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            run(bench, arguments)
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
