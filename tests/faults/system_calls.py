"""A web side whose system calls fail, from outside, while jobs are pushed: ``strace -e inject=`` makes them fail.

`tests.faults.test_system_calls` has the table of what fails, and says what must hold.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from shutil import which
from threading import Event, Lock, Thread
from unittest import SkipTest, TestCase

from attrs import define, field, frozen

from tests.faults.load import request
from tests.faults.records import ran_twice
from tests.faults.rig import Process, Rig
from tests.test_journal import check_books

JOURNAL = "journal.sqlite"

#: Endings of the files that a journal has.
FILES = ("", "-wal", "-shm", ".lock")

#: How long a call is waited for that is to fail, in seconds: some are made in a checkpoint only.
_REACHED = 30.0

#: How long a web side has, after the fault, until it accepts jobs again, in seconds. It tries each second.
_RECOVERY = 6.0

#: How long all jobs may take until they are settled, in seconds.
_SETTLED = 30.0

#: In place of what twistd's command line runs: it is about to begin, and waits for SIGCONT.
_WAITING = """
import os, signal
from twisted.scripts.twistd import run
import zpipeline.tap.web
os.kill(os.getpid(), signal.SIGSTOP)
run()
"""


@frozen
class Case:
    """Calls that fail, and when.

    :ivar calls: names of system calls, with commas.
    :ivar error: what they fail with.
    :ivar phase: of the web side: ``load``, ``start`` or ``stop``.
    :ivar lasts: whether all of these calls fail, for a second; otherwise it is the first of each thread.
    :ivar kill: the web side is killed: while the calls fail if that lasts, or after the first.
    :ivar files: the endings of those of the journal's files whose calls fail.
    """

    calls: str
    error: str
    phase: str = "load"
    lasts: bool = False
    kill: bool = False
    files: tuple[str, ...] = FILES

    @property
    def name(self) -> str:
        """Such as ``pwrite64:EIO:load:once:killed`` or ``open,openat:EIO:start:once:.lock``."""
        parts = [self.calls, self.error, self.phase, "lasting" if self.lasts else "once"]
        if self.kill:
            parts.append("killed")
        if self.files != FILES:
            parts.append("+".join(file or "file" for file in self.files))
        return ":".join(parts)


@define(eq=False)
class Push:
    """A request, and its answers.

    :ivar ids: what it was answered with 202.
    :ivar refusals: the other statuses.
    :ivar broken: how often it got no answer.
    """

    body: str
    key: str | None
    ids: set[str] = field(factory=set)
    refusals: list[int] = field(factory=list)
    broken: int = 0

    @property
    def is_refused(self) -> bool:
        """Whether it must not run."""
        return not self.ids and not self.broken


class Pushing:
    """Pushes, one by one, by some threads, and retries dead letters now and then.

    A third of the jobs have a key; some fail once; some fail until they are dead, and once more when they are revived.

    :ivar pushes: all that was sent.
    """

    THREADS = 4
    PAUSE = 0.004
    REVIVAL = 0.1

    def __init__(self, port: int) -> None:
        self.pushes: list[Push] = []
        self._port = port
        self._numbers = count()
        self._lock = Lock()
        self._stop = Event()
        self._failures: list[Exception] = []

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Push until this ends."""
        self._stop.clear()
        threads = [Thread(target=self._guarded, args=(self._push_on,)) for _ in range(self.THREADS)]
        threads.append(Thread(target=self._guarded, args=(self._revive_on,)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._failures:
            raise self._failures.pop()

    def send(self, push: Push) -> None:
        """Send it, and note the answer."""
        headers = "" if push.key is None else f"Idempotency-Key: {push.key}\r\n"
        try:
            status, _, answer = request(self._port, "POST", "/", push.body.encode(), headers)
        except ConnectionRefusedError:
            return  # nobody has seen it
        except OSError:
            push.broken += 1
            return
        if status == 202:
            push.ids.add(json.loads(answer)["id"])
        else:
            push.refusals.append(status)

    def revive(self) -> None:
        """Retry all dead letters, if the web side can."""
        with suppress(OSError):
            request(self._port, "POST", "/dead/retry")

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._failures.append(error)

    def _push_on(self) -> None:
        while not self._stop.wait(self.PAUSE):
            with self._lock:
                number = next(self._numbers)
                push = Push(_body(number), f"key-{number}" if number % 3 == 0 else None)
                self.pushes.append(push)
            self.send(push)

    def _revive_on(self) -> None:
        while not self._stop.wait(self.REVIVAL):
            self.revive()


def _body(number: int) -> str:
    """Each is another. What it makes the handler do is in `tests.faults.bodies`."""
    if number % 20 == 7:
        return f"fail 3 later number {number} 0.01"
    if number % 10 == 3:
        return f"fail 1 later number {number} 0.02"
    return f"job {number}"


class Fault:
    """Makes a process's calls fail, from when it is entered until it is left.

    A call that strace is at when it lets go of the process fails with ENOSYS: where calls fail for a second, that can
    be the last of them.
    """

    def __init__(self, rig: Rig, case: Case, process: int) -> None:
        self._rig = rig
        self._path = rig.folder / "strace.log"
        self._words = ["strace", "-f", "-p", str(process), "-o", str(self._path)]
        self._words += [word for file in case.files for word in ("-P", str(rig.folder / (JOURNAL + file)))]
        inject = f"inject={case.calls}:error={case.error}{'' if case.lasts else ':when=1'}"
        self._words += ["-e", f"trace={case.calls}", "-e", inject]

    def __enter__(self) -> Fault:
        self._path.unlink(missing_ok=True)
        self._said = (self._rig.folder / "strace.said").open("w+b")
        self._strace = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stderr=self._said)
        self._rig.until("strace is attached", self._is_attached)
        return self

    def __exit__(self, *_: object) -> None:
        if self._strace.poll() is None:
            self._strace.send_signal(signal.SIGINT)  # it lets go of the process
        self._strace.wait(30)
        self._said.close()

    def _is_attached(self) -> bool:
        said = os.pread(self._said.fileno(), 10_000, 0)
        assert self._strace.poll() is None, said.decode()
        return b"attached" in said

    def has_come(self) -> bool:
        """Whether a call has failed."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as trace:
            return b"(INJECTED)" in trace.read(100_000)  # it is among the first; the trace may be of megabytes


class Stand:
    """A web side with its journal and three workers, on which one case after another is run."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._workers = rig.pool()
        # one like it is what is started each time
        self._first = rig.web([worker.port for worker in self._workers], f"--journal={JOURNAL}", "--attempts=2")
        self._web: Process | None = self._first
        rig.until_ready(self._first, len(self._workers))
        self._pushing = Pushing(self._first.port)
        self._may_run_twice = False
        self._refused: set[str] = set()  # bodies, of all cases

    def run(self, case: Case) -> str:
        """One case: what the web side did.

        :raises AssertionError: something does not hold.
        """
        return {"load": self._under_load, "start": self._at_start, "stop": self._at_stop}[case.phase](case)

    def end(self) -> None:
        """Stop the web side, and look whether all that is in the journal is as it must be."""
        web = self._running()
        self._settle()
        assert web.end() == 0, web.log
        self._check_log(web)
        with self._journal() as journal:
            assert journal.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    # The phases

    def _under_load(self, case: Case) -> str:
        web, pushing = self._running(), self._pushing
        with pushing.going_on():
            self._until_accepting()
            with Fault(self._rig, case, web.popen.pid) as fault:
                self._rig.until("the call fails", fault.has_come, _REACHED)
                if case.kill:
                    if case.lasts:
                        time.sleep(0.5)
                    else:
                        # the worst moment: somebody has just been told that his job is not accepted
                        _wait(0.3, lambda: any(push.refusals for push in list(pushing.pushes)))
                    self._kill(web)
                elif case.lasts:
                    time.sleep(1)
            said = "killed, started again" if case.kill else self._recover(web)
            self._running()
            self._until_accepting()
        refused = sum(bool(push.refusals) for push in pushing.pushes)
        self._settle()
        return f"{said}; {refused} refused"

    def _at_start(self, case: Case) -> str:
        if self._web is not None:
            self._kill(self._web)
        rig, first = self._rig, self._first
        command = [_WAITING if word.endswith("run()") else word for word in first.command]
        web = rig.start(first.name, command, first.port)
        rig.until("it waits", lambda: _state(web.popen.pid) == "T")
        with Fault(rig, case, web.popen.pid) as fault:
            web.signal(signal.SIGCONT)
            rig.until("the call fails", lambda: fault.has_come() or not web.alive or _serves(web), _REACHED)
            _wait(1.0, lambda: not web.alive or _serves(web))
            assert fault.has_come(), "the call was not made"
        rig.until("it serves, or has ended", lambda: not web.alive or _serves(web))
        if not web.alive:
            lines = web.log.splitlines()
            assert (web.wait(), len(lines)) == (1, 1), f"exit status {web.wait()}: {web.log}"
            assert "the journal" in lines[0], lines[0]
            rig.processes.remove(web)
            return lines[0]
        self._web = rig.webs[web.port] = web
        with self._pushing.going_on():
            said = self._recover(web)
            self._until_accepting()
        self._settle()
        return said

    def _at_stop(self, case: Case) -> str:
        web = self._running()
        with self._pushing.going_on():
            self._until_accepting()
            with Fault(self._rig, case, web.popen.pid) as fault:
                web.signal(signal.SIGTERM)
                status = web.wait()
                assert fault.has_come(), "the call was not made"
        assert status in (0, 1), f"exit status {status}: {web.log}"
        *_, last = (line for line in web.log.splitlines() if not line.endswith(("Server Shut Down.", "terminated.")))
        self._may_run_twice |= "may run twice" in web.log
        self._has_ended(web)
        self._running()
        self._settle()
        return f"exit status {status}: {last}"

    # What follows

    def _running(self) -> Process:
        """The web side; it is started if it does not run."""
        if self._web is None:
            self._web = self._rig.again(self._first)
            self._rig.until_ready(self._web, len(self._workers))
        return self._web

    def _until_accepting(self) -> None:
        """Wait until a job is accepted, of those that are pushed from now on."""
        pushes, before = self._pushing.pushes, len(self._pushing.pushes)
        self._rig.until("a job is accepted", lambda: any(push.ids for push in pushes[before:]))

    def _kill(self, web: Process) -> None:
        web.popen.kill()
        web.wait()
        self._may_run_twice = True
        self._has_ended(web)

    def _has_ended(self, web: Process) -> None:
        self._check_log(web)
        self._rig.processes.remove(web)
        self._web = None

    def _recover(self, web: Process) -> str:
        """Wait until the web side accepts jobs again, or start it again if it has said why it does not."""
        _wait(_RECOVERY, lambda: not web.alive or _health(web)[0] == 200)
        if web.alive:
            status, health = _health(web)
            if status == 200:
                return "goes on"
            said = health.get("trouble", "")
            assert said and said in web.log, f"{health} is not in the log: {web.log}"
            web.end()
        else:
            said = web.log.splitlines()[-1]
            assert "the journal" in said, web.log
        self._may_run_twice = True
        self._has_ended(web)
        self._running()
        return f"started again, as it has said: {said}"

    def _settle(self) -> None:
        """Send again what has a key, revive what is dead, wait for all of it, and look at it."""
        rig, pushing = self._rig, self._pushing
        pushes, pushing.pushes = pushing.pushes, []
        keyed = [push for push in pushes if push.key is not None]
        for push in keyed:
            pushing.send(push)
        self._refused |= {push.body for push in pushes if push.is_refused}
        several = [push for push in keyed if len(push.ids) != 1]
        assert not several, f"{len(several)} pushes with a key are not one job each, such as {several[0]}"
        assert {status for push in pushes for status in push.refusals} <= {503, 507}, pushes
        deadline = time.monotonic() + _SETTLED
        while left := self._left():
            assert time.monotonic() < deadline, f"neither dead nor run: {left[:5]}\n{self._running().log[-3000:]}"
        jobs: dict[str, set[str]] = {}
        for line in rig.lines():
            if line.body is not None:
                jobs.setdefault(line.body, set()).add(line.job_id)
        _none("were refused, and ran", self._refused & jobs.keys())
        _none("became several jobs", [push.body for push in pushes if len(jobs.get(push.body, ())) > 1])
        _none("were accepted, and have not run", [push for push in pushes if not push.ids <= rig.ended().keys()])
        if not self._may_run_twice:
            _none(
                "ran twice, and nothing was killed", ran_twice(rig.lines()) & {i for push in pushes for i in push.ids}
            )
        self._may_run_twice = False

    def _left(self) -> list[str]:
        """Bodies of jobs that are not settled, and of dead letters, which are revived by this."""
        with self._journal() as journal:
            check_books(TestCase(), journal)
            unsettled, dead = (
                [body.decode() for (body,) in journal.execute(f"SELECT body FROM {table}")]
                for table in ("jobs", "dead")
            )
        _none("were refused, and wait in the journal", self._refused.intersection(unsettled + dead))
        if dead:
            self._pushing.revive()
        return unsettled + dead

    @contextmanager
    def _journal(self) -> Iterator[sqlite3.Connection]:
        """The journal, as it is committed at this moment."""
        uri = f"file:{self._rig.folder / JOURNAL}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5)) as connection:
            connection.execute("BEGIN")
            yield connection

    def _check_log(self, web: Process) -> None:
        """A traceback is of a job that is dead, or of a defect."""
        lines = web.log.splitlines()
        places = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
        assert all("is dead: " in lines[number - 1] for number in places), web.log


def can_trace() -> None:
    """:raises SkipTest: strace is not here, or may not attach."""
    if which("strace") is None:
        raise SkipTest("strace is not installed")
    with subprocess.Popen(["sleep", "60"]) as other:
        words = ["strace", "-o", os.devnull, "-p", str(other.pid)]
        tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        other.kill()
        tracer.communicate()
    if "attached" not in said:
        raise SkipTest(f"strace may not attach here: {said}")


def _none(what: str, pushes: Iterable[object]) -> None:
    found = sorted(map(str, pushes))
    assert not found, f"{len(found)} pushes {what}, such as {found[0]}"


def _health(web: Process, seconds: float = 30) -> tuple[int, dict[str, str]]:
    """What it says of itself within that time: 0, if it says nothing."""
    try:
        status, _, answer = request(web.port, "GET", "/health/ready", seconds=seconds)
    except OSError:
        return 0, {}
    return status, json.loads(answer)


def _serves(web: Process) -> bool:
    # soon: it listens before it has its journal
    return _health(web, 0.5)[0] != 0


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]


def _wait(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait until that holds, or for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.005)
