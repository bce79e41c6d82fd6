"""A client that asks at even intervals, whatever others do, and writes down how long each answer took.

Usage: python -m tests.faults.pulse PORT PID FILE, until SIGTERM. It is a process of its own, so that nothing but the
web side keeps it waiting. Over each of its kept-alive connections it pushes a job and asks for /health/live, in turns.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from threading import Event, Thread

from attrs import frozen

from tests.faults.rig import Process, Rig

#: It asks so often a second, over so many connections.
RATE = 50
CONNECTIONS = 25

#: How long an answer is waited for, in seconds.
PATIENCE = 30.0


@frozen
class Beat:
    """A request and its answer.

    :ivar due: when it was to be sent, by the monotonic clock.
    :ivar took: how long after that its answer was there, in seconds: a request whose connection still waits for the
        answer before it is late already.
    :ivar cost: for how many seconds the web side has computed from when it was sent until then. However busy the
        machine is with something else, that is not in it.
    :ivar status: of the answer; 0: there was none.
    :ivar job_id: of the job that was accepted; empty: none was.
    """

    due: float
    took: float
    cost: float
    status: int
    job_id: str


class Pulse:
    """The client of one web side, from now on."""

    def __init__(self, rig: Rig, web: Process) -> None:
        self._path = rig.folder / f"pulse-{web.port}"
        command = [sys.executable, "-m", "tests.faults.pulse", web.port, web.popen.pid, self._path]
        self.process = rig.start("pulse", command, web.port)
        rig.until("each of its connections has its first answer", lambda: len(self.beats()) > CONNECTIONS)

    def beats(self) -> list[Beat]:
        """What has been answered, as the answers came."""
        if not self._path.exists():
            return []
        return [_beat(line) for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def end(self) -> list[Beat]:
        """Have it ask no more: all that was asked."""
        status = self.process.end()
        assert status == 0, self.process.log
        return self.beats()


def _beat(line: str) -> Beat:
    due, took, cost, status, job_id = line.removesuffix("\n").split(" ")
    return Beat(float(due), float(took), float(cost), int(status), job_id)


def computed(pid: int) -> float:
    """For how many seconds that process has computed."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it of a process


def ask(port: int, pid: int, file: int, due: float, stop: Event) -> None:
    """Ask over one connection, first when it is due."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    for number in count():
        if stop.wait(max(0.0, due - time.monotonic())):
            break
        status, job_id = 0, ""
        before = computed(pid)
        try:
            if number % 2:
                connection.request("GET", "/health/live")
            else:
                connection.request("POST", "/", b"beat")
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            print(f"no answer: {error!r}", flush=True)
            connection.close()
        else:
            status = answer.status
            if status == 202:
                job_id = json.loads(content)["id"]
        took, cost = time.monotonic() - due, computed(pid) - before
        os.write(file, f"{due:.6f} {took:.6f} {cost:.6f} {status} {job_id}\n".encode())
        due += CONNECTIONS / RATE
    connection.close()


def main() -> None:
    """The command line."""
    port, pid, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begin = time.monotonic()
    dues = [begin + number / RATE for number in range(CONNECTIONS)]
    threads = [Thread(target=ask, args=(port, pid, file, due, stop)) for due in dues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
