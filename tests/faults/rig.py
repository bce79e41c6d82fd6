"""Real processes for fault tests: one web side or more, workers, and the count of what they ran.

What was accepted is what the client was told; what ran is what the workers' handlers wrote into their own files.
The product is asked for nothing but whether it is ready, and which jobs are dead.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from unittest import SkipTest

from attrs import define, field

from tests.faults import records
from tests.faults.load import Load, dead_letters, get
from tests.faults.records import Count, Record

ROOT = Path(__file__).resolve().parent.parent.parent
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]


#: See `Rig.push_in_rounds`.
ROUNDS = 20


#: Ports are claimed in blocks of so many. None of them is one that the system gives to whoever asks for any
#: (32768 and above).
_BLOCK = 500
_BLOCKS = range(20_000, 32_000, _BLOCK)

_claims: list[socket.socket] = []
_ports: list[int] = []


def free_port(in_a_row: int = 1) -> int:
    """A port that nobody listens on, each time another: who gets it may take a second until it listens.

    So no other test run on this machine may be given it meanwhile: a block is claimed by listening on its first port.

    :param in_a_row: of how many such ports it is the first.
    """
    while True:
        if len(_ports) < in_a_row:
            _claim()
        ports = [_ports.pop() for _ in range(in_a_row)]
        with ExitStack() as probes:
            if all(_bind(probes.enter_context(socket.socket()), port) for port in ports):
                return ports[0]


def _claim() -> None:
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        claim = socket.socket()
        if _bind(claim, first):
            claim.listen()
            _claims.append(claim)
            _ports[:] = range(first + _BLOCK - 1, first, -1)
            return
        claim.close()
    raise AssertionError("all ports between 20000 and 32000 are taken by test runs")


def _bind(new: socket.socket, port: int) -> bool:
    """Bind it to that port: whether nobody had it."""
    try:
        new.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


@define(eq=False)
class Process:
    """A process of the rig, with its log, and all that it takes to start another like it."""

    popen: subprocess.Popen[bytes]
    log_path: Path
    port: int
    name: str
    command: list[str]
    environment: dict[str, str]

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
    def most_memory(self) -> int:
        """The most resident memory that it has had, in kB."""
        lines = Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return int(status["VmHWM"].split()[0])

    @property
    def log(self) -> str:
        """What it has printed."""
        return self.log_path.read_text(errors="replace")


@define(eq=False)
class Rig(ExitStack):
    """A scratch folder and the processes in it; they end with it.

    :ivar example: run the example worker, which shares no code with zpipeline, in place of zpipe-worker.
    :ivar inside: what commands are run by: a program that takes a command, with its options.
    """

    example: bool = False
    folder: Path = field(init=False)
    processes: list[Process] = field(factory=list)
    webs: dict[int, Process] = field(factory=dict)
    inside: list[str] = field(factory=list)
    _readers: dict[int, records.Reader] = field(factory=dict)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __enter__(self) -> Rig:
        super().__enter__()
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
        return self

    def start(self, name: str, command: Iterable[object], port: int, **environment: str) -> Process:
        """Start a process."""
        log_path = self.folder / f"{name}-{port}-{len(self.processes)}.log"
        words = [*self.inside, *(str(word) for word in command)]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log_path.open("wb") as log:
            popen = subprocess.Popen(
                words,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path, **environment},
            )
        process = Process(popen, log_path, port, name, words, environment)
        self.processes.append(process)
        self.callback(_kill, popen)
        return process

    def web(self, workers: Iterable[int | str], *options: object, wait: bool = True) -> Process:
        """Start zpipe-web for workers on these ports (or at these addresses), and wait until it serves.

        Each has its own journal, unless the options say otherwise.
        """
        port = free_port()
        if not any(str(option).startswith(("--journal=", "--no-journal", "--plain")) for option in options):
            options = (f"--journal=journal-{port}.sqlite", *options)
        addresses = [w if isinstance(w, str) else f"tcp://127.0.0.1:{w}" for w in workers]
        command = [*TWISTD, "zpipe-web", f"--listen=tcp:{port}:interface=127.0.0.1", *options]
        process = self.start("web", [*command, *(f"--worker={address}" for address in addresses)], port)
        if wait:
            self._until_serving(process)
        return process

    def _until_serving(self, web: Process) -> None:
        self.until("the web side serves", lambda: _answers(web.port) or not web.alive, seconds=30)
        assert web.alive, self.logs()
        self.webs[web.port] = web

    def again(self, process: Process) -> Process:
        """Start one like it: a worker's record goes on, and a web side has the same journal."""
        successor = self.start(process.name, process.command, process.port, **process.environment)
        if process.name == "web":
            self._until_serving(successor)
        return successor

    @contextmanager
    def kept_alive(self, workers: Iterable[Process]) -> Iterator[list[Process]]:
        """Start these again whenever they die: those that are there now, in order."""
        current = list(workers)
        stop = Event()

        def keep() -> None:
            while not stop.wait(0.02):
                for number, worker in enumerate(current):
                    if not worker.alive:
                        current[number] = self.again(worker)

        thread = Thread(target=keep)
        thread.start()
        try:
            yield current
        finally:
            stop.set()
            thread.join()

    def worker(self, port: int | None = None, *options: object, handler: str = "record", seconds: float = 0) -> Process:
        """Start a worker; with the port of an earlier one, its record goes on."""
        port = port or free_port()
        record = self.folder / f"record-{port}"
        if self.example:
            assert not options, "the example worker has one handler and no options"
            example = ROOT / "examples/zpp_worker.py"
            command = [sys.executable, "-m", "tests.faults.example_worker", example, port, record, seconds]
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

    def disk(self) -> Path:
        """A file system of 4 MiB of its own: its folder. It ends with the rig.

        :raises SkipTest: none can be mounted here.
        """
        if sys.platform != "linux" or os.geteuid() != 0:
            raise SkipTest("to mount a file system takes Linux and root")
        folder = self.folder / "disk"
        folder.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
        if mounted.returncode:
            raise SkipTest(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
        self.callback(subprocess.run, ["umount", "-l", folder], check=True)
        return folder

    def remount(self, folder: Path, options: str) -> None:
        """Mount that disk otherwise: ``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

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
        reader = self._readers.setdefault(port, records.Reader(self.folder / f"record-{port}"))
        return reader.record()

    def records(self) -> dict[int, Record]:
        """What each worker has run, by port."""
        ports = sorted(int(path.name.split("-")[1]) for path in self.folder.glob("record-*") if not path.suffix)
        return {port: self.record(port) for port in ports}

    def lines(self) -> list[records.Line]:
        """What all of them have run, in order."""
        return records.in_order(self.records().values())

    def ran(self, worker: Process) -> int:
        """How many jobs have ended in this worker."""
        return len(self.record(worker.port).ended)

    def ended(self) -> Counter[str]:
        """How often each job has ended."""
        return Counter(job_id for record in self.records().values() for job_id in record.ended)

    def dead(self) -> set[str]:
        """Jobs that are dead, as the web sides say that are alive."""
        return {job_id for web in self.webs.values() if web.alive for job_id in dead_letters(web.port)}

    def count(self, accepted: Collection[str]) -> Count:
        """What became of these jobs, now."""
        return records.count(accepted, self.lines(), self.dead())

    def until_all_ran(self, accepted: Collection[str], seconds: float = 60) -> Count:
        """Wait until each of these jobs has run, and count."""
        self.until_ran(accepted, seconds)
        return self.count(accepted)

    def until_ran(self, accepted: Collection[str], seconds: float = 60) -> None:
        """Wait until each of these jobs has run."""
        ids = set(accepted)
        self.until("every accepted job has run", lambda: ids <= self.ended().keys(), seconds)

    def until_settled(self, accepted: Collection[str], seconds: float = 60) -> Count:
        """Wait until each of these jobs has run or is dead, and count."""
        ids = set(accepted)
        self.until("every accepted job has run or is dead", lambda: ids <= self.ended().keys() | self.dead(), seconds)
        return self.count(accepted)


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
