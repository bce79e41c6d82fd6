"""A web side and its workers, as processes on free ports of this machine, and what they cost."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

#: This tree: what is measured, unless another is named.
TREE = Path(__file__).resolve().parent.parent

#: What each measured process begins with: it ends if it would run the code of another tree than $ZPIPELINE_TREE.
CHECK = """
import os, sys, zpipeline
loaded = os.path.dirname(os.path.dirname(os.path.realpath(zpipeline.__file__)))
if loaded != os.environ["ZPIPELINE_TREE"]:
    sys.exit(f"not measured: zpipeline comes from {loaded}, and is to come from {os.environ['ZPIPELINE_TREE']}")
"""

TWISTD = [sys.executable, "-c", f"{CHECK}\nfrom twisted.scripts.twistd import run\nrun()", "-n"]
DISCARD = "zpipeline.handlers:discard"

#: Below this scale nothing is measured: it is to be seen that all of it works, soon.
TRIAL = 0.1

#: How zpipe-web is run: as it comes, and from memory.
MODES = {"durable": (), "memory": ("--no-journal",)}


class Rig:
    """A temporary folder, and processes that end with it.

    :param tree: whose code they run.
    """

    def __init__(self, tree: Path = TREE) -> None:
        self.environment = environment_of(tree)

    def __enter__(self) -> Rig:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self.journal = self.folder / "zpipe-web.sqlite"
        self.processes: list[subprocess.Popen[bytes]] = []
        (self.port,) = free_ports(1)
        self.worker_ports: list[int] = []
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        self.end()
        self._temporary.cleanup()

    def start(self, *options: str, workers: int = 3, handler: str = DISCARD) -> None:
        """Start workers and a web side; returns when all of them are ready."""
        self.worker_ports = free_ports(workers)
        self.start_workers(handler)
        self.start_web(*options)
        self.until_ready(workers)

    def start_workers(self, handler: str = DISCARD) -> None:
        """Start one on each of `worker_ports`."""
        self.workers = [self._start("zpipe-worker", f"--port={p}", f"--handler={handler}") for p in self.worker_ports]

    def start_web(self, *options: str) -> None:
        """Start the web side; returns when it answers."""
        addresses = [f"--worker=tcp://127.0.0.1:{port}" for port in self.worker_ports]
        listen = f"--listen=tcp:{self.port}:interface=127.0.0.1"
        self.web = self._start("zpipe-web", listen, "--max-pending=10000000", *addresses, *options)
        while True:
            with suppress(OSError):
                self.ask("GET", "/health/live")
                return
            if self.web.poll() is not None:
                raise SystemExit("the web side ended")
            time.sleep(0.01)

    def until_ready(self, workers: int) -> None:
        """Wait until so many workers take part."""
        while self.ask("GET", "/health/ready")["ready_workers"] < workers:
            if any(process.poll() is not None for process in self.processes):
                raise SystemExit("a worker ended")
            time.sleep(0.05)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*TWISTD, *command, "--until-eof"],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=self.environment,
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    # Asking

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> Any:
        """One request, on a connection of its own: what its answer says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body or None, {"Content-Type": content_type} if content_type else {})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300 and path != "/health/ready":
            raise SystemExit(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text)

    def pending(self) -> int:
        """How many jobs of the journal are unsettled."""
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as journal:
            return int(journal.execute("SELECT value FROM meta WHERE name = 'pending'").fetchone()[0])

    def until_settled(self, job_ids: Iterable[str]) -> None:
        """Wait until these are done."""
        for job_id in job_ids:
            while self.ask("GET", f"/jobs/{job_id}")["state"] != "done":
                time.sleep(0.005)


def environment_of(tree: Path) -> dict[str, str]:
    """Of processes that run the code of this tree: what PYTHONPATH names goes before what is installed."""
    real = str(tree.resolve())
    path = os.pathsep.join(filter(None, (real, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "ZPIPELINE_TREE": real}


def rounds(scale: float) -> int:
    """How often each is measured, for a median."""
    return 1 if scale < TRIAL else 3


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each another one."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def processor_time(process: subprocess.Popen[bytes]) -> float:
    """Of a process that runs, all its threads together, in seconds."""
    # what clock_getcpuclockid(3) gives, and Python does not have: /proc counts in hundredths
    return time.clock_gettime((~process.pid << 3) | 2)
