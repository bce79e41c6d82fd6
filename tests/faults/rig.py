"""Real processes for fault tests: one web side or more, workers, and the count of what they ran.

What was accepted is what the client was told; what ran is what the workers' handlers wrote into their own files.
The product is asked for nothing but whether it is ready.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from attrs import define, field, frozen

from tests.faults.load import Load, get

ROOT = Path(__file__).resolve().parent.parent.parent
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]


#: See `Rig.push_in_rounds`.
ROUNDS = 20


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@frozen
class Record:
    """What one worker (all its processes, if it was restarted) has run, in order."""

    begun: list[str]
    ended: list[str]
    bodies: list[str]


@frozen
class Count:
    """Jobs: accepted, run (they ended), run twice (they ended twice), lost."""

    accepted: int
    run: int
    run_twice: int
    lost: int


@define(eq=False)
class Process:
    """A process of the rig, with its log."""

    popen: subprocess.Popen[bytes]
    log_path: Path
    port: int

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def end(self) -> int:
        """SIGTERM, and wait for its end: its exit status."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end: its exit status."""
        return self.popen.wait(seconds)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def log(self) -> str:
        """What it has printed."""
        return self.log_path.read_text(errors="replace")


@define(eq=False)
class Rig(ExitStack):
    """A scratch folder and the processes in it; they end with it.

    :ivar example: run the example worker, which shares no code with zpipeline, in place of zpipe-worker.
    """

    example: bool = False
    folder: Path = field(init=False)
    processes: list[Process] = field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __enter__(self) -> Rig:
        super().__enter__()
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
        return self

    def start(self, name: str, command: Iterable[object], port: int, **environment: str) -> Process:
        """Start a process."""
        log_path = self.folder / f"{name}-{len(self.processes)}.log"
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log_path.open("wb") as log:
            popen = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path, **environment},
            )
        process = Process(popen, log_path, port)
        self.processes.append(process)
        self.callback(_kill, popen)
        return process

    def web(self, workers: Iterable[int | str], *options: object) -> Process:
        """Start zpipe-web for workers on these ports (or at these addresses), and wait until it serves."""
        port = free_port()
        addresses = [w if isinstance(w, str) else f"tcp://127.0.0.1:{w}" for w in workers]
        command = [*TWISTD, "zpipe-web", f"--listen=tcp:{port}:interface=127.0.0.1", *options]
        process = self.start("web", [*command, *(f"--worker={address}" for address in addresses)], port)
        self.until("the web side serves", lambda: _answers(port), seconds=30)
        return process

    def worker(self, port: int | None = None, *options: object, handler: str = "record", seconds: float = 0) -> Process:
        """Start a worker; with the port of an earlier one, its record goes on."""
        port = port or free_port()
        record = self.folder / f"record-{port}"
        if self.example:
            assert handler == "record" and not options, "the example worker has one handler and no options"
            command = [sys.executable, ROOT / "examples/zpp_worker.py", port, record, seconds]
            return self.start("worker", command, port)
        return self.start(
            "worker",
            [*TWISTD, "zpipe-worker", f"--port={port}", f"--handler=tests.faults.handlers:{handler}", *options],
            port,
            RECORD=str(record),
            SECONDS=str(seconds),
        )

    def pool(self, count: int = 3, *, seconds: float = 0) -> list[Process]:
        """Start that many workers."""
        return [self.worker(seconds=seconds) for _ in range(count)]

    def until_ready(self, web: Process, workers: int) -> None:
        """Wait until the web side says that so many workers are ready."""
        self.until(f"{workers} workers are ready", lambda: ready_workers(web) == workers, seconds=30)

    def push_in_rounds(self, web: Process, size: int) -> list[str]:
        """Push `ROUNDS` times so many jobs, each time once those before have run: their ids.

        No window is full then, and each of so many ready workers gets one job a round, however busy the machine is.
        """
        ids: list[str] = []
        for _ in range(ROUNDS):
            load = Load(web.port, [b"in rounds"] * size).run(1)
            self.until_all_ran(load.accepted)
            ids += load.accepted
        return ids

    def until(self, what: str, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait for an event; AssertionError, with all logs, when it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} seconds: {what}\n{self.logs()}")
            time.sleep(0.01)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {process.log_path.name}\n{process.log[-3000:]}" for process in self.processes)

    def record(self, port: int) -> Record:
        """What the worker on that port has run."""
        path = self.folder / f"record-{port}"
        text = path.read_text() if path.exists() else ""
        # What comes after the last line end is a line that is being written just now.
        lines = [line.split(" ", 2) for line in text.split("\n")[:-1]]
        return Record(
            [line[1] for line in lines if line[0] == "begin"],
            [line[1] for line in lines if line[0] == "end"],
            [line[2] for line in lines if line[0] == "begin"],
        )

    def records(self) -> dict[int, Record]:
        """What each worker has run, by port."""
        ports = sorted(int(path.name.split("-")[1]) for path in self.folder.glob("record-*") if not path.suffix)
        return {port: self.record(port) for port in ports}

    def ended(self) -> Counter[str]:
        """How often each job has ended."""
        return Counter(job_id for record in self.records().values() for job_id in record.ended)

    def count(self, accepted: Iterable[str]) -> Count:
        """What became of these jobs, now."""
        ids = set(accepted)
        ended = self.ended()
        return Count(
            len(ids),
            sum(ended[job_id] > 0 for job_id in ids),
            sum(ended[job_id] > 1 for job_id in ids),
            sum(ended[job_id] == 0 for job_id in ids),
        )

    def until_all_ran(self, accepted: Iterable[str], seconds: float = 60) -> Count:
        """Wait until each of these jobs has run."""
        ids = list(accepted)
        self.until("every accepted job has run", lambda: self.count(ids).lost == 0, seconds)
        return self.count(ids)


def ready_workers(web: Process) -> int | None:
    """How many workers are ready, as the web side has it; None while it does not answer."""
    try:
        return int(json.loads(get(web.port, "/health/ready")[2])["ready_workers"])
    except (OSError, ValueError, KeyError):
        return None


def _answers(port: int) -> bool:
    try:
        return get(port, "/health/live")[0] == 200
    except (OSError, ValueError):
        return False


def _kill(popen: subprocess.Popen[bytes]) -> None:
    if popen.poll() is None:
        popen.kill()
    popen.wait()
