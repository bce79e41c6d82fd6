"""The experiment: a pipeline is started, put under load, loses a worker half-way, and every promise is checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from attrs import frozen

from zpipeline.demo.client import TICK, Load, drive
from zpipeline.demo.errors import DemoError
from zpipeline.demo.fault import Fault, Schedule
from zpipeline.demo.handler import RECORD
from zpipeline.demo.processes import Child, Processes, free_ports
from zpipeline.demo.tally import Counter, Record, Tally

HANDLER = "zpipeline.demo.handler:record"

#: How long starting may take, in seconds.
PATIENCE = 60.0

#: How long a question for its health may take the web process, in seconds.
HEALTH = 5.0

#: What has not moved for so many seconds does not move any more.
STALLED = 30.0

#: Takes the name of a phase, and how many of all requests are through with it.
Report = Callable[[str, int], None]


@frozen
class Plan:
    """An experiment to be made.

    :ivar requests: how many there are.
    :ivar connections: over how many connections.
    :ivar workers: how many of them share the jobs.
    :ivar fault: what happens to the first one half-way.
    """

    requests: int
    connections: int
    workers: int
    fault: Fault


@frozen
class Result:
    """What came of it.

    :ivar seconds: how long the requests took.
    """

    plan: Plan
    tally: Tally
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.plan.requests / self.seconds


def worker_name(number: int) -> str:
    """The name of a worker, and, with a hyphen for the space, of its directory; the first is 1, and has the fault."""
    return f"worker {number}"


def run_experiment(plan: Plan, scratch: Path, report: Report) -> Result:
    """Run the pipeline on ports of its own, do what the plan says, and count what the workers wrote down.

    :param scratch: a directory, which gets one for each process, with its log and its record; it is not tidied up.
    :param report: what shows the progress.
    :raises DemoError: it cannot be run to its end.
    """
    web_port, *ports = free_ports(1 + plan.workers)
    # The web process ends first, the workers when it has: nothing is waited for that nobody will settle.
    with Processes(scratch) as workers, Processes(scratch) as web:
        report("starting", 0)
        for number, port in enumerate(ports, 1):
            workers.start(worker_name(number), "zpipe-worker", f"--port={port}", f"--handler={HANDLER}")
        addresses = [f"--worker=tcp://127.0.0.1:{port}" for port in ports]
        web.start("web", "zpipe-web", f"--listen=tcp:{web_port}:interface=127.0.0.1", *addresses)
        experiment = _Experiment(plan, web_port, web, workers, report)
        experiment.wait_until_ready()
        load = asyncio.run(drive(web_port, plan.requests, plan.connections, experiment.answered))
        experiment.wait_until_run(len(load.accepted))
    return experiment.result(load)


class _Experiment:
    def __init__(self, plan: Plan, port: int, web: Processes, workers: Processes, report: Report) -> None:
        self._plan = plan
        self._port = port
        self._web = web
        self._workers = workers
        self._report = report
        self._schedule = Schedule(plan.fault, plan.requests)
        self._next_look = 0.0
        self._records = {child.directory / RECORD: Record(child.name) for child in workers.children}
        self._offsets = dict.fromkeys(self._records, 0)
        self._counter = Counter([child.name for child in workers.children])

    def wait_until_ready(self) -> None:
        deadline = monotonic() + PATIENCE
        while self._ready_workers() < self._plan.workers:
            self._check()
            if monotonic() > deadline:
                raise DemoError(f"the {self._plan.workers} workers are not ready after {PATIENCE:.0f} seconds")
            sleep(TICK / 2)

    def answered(self, answers: int) -> None:
        """Called for each answer, and while there are none."""
        now = monotonic()
        self._apply_fault(answers, now)
        if now >= self._next_look:
            self._next_look = now + TICK
            self._check()
            self._report("requests", answers)

    def wait_until_run(self, accepted: int) -> None:
        """Wait until all jobs have run and all workers that live are ready, or nothing moves for `STALLED` seconds."""
        expected = self._plan.workers - self._plan.fault.ends_worker
        last, since = (-1, -1), monotonic()
        while monotonic() < since + STALLED:
            self._check()
            self._apply_fault(self._plan.requests, monotonic())
            self._read_records()
            state = (self._counter.run, self._ready_workers())
            self._report("jobs", self._counter.run)
            if self._schedule.over and state == (accepted, expected):
                return
            if state != last or not self._schedule.over:
                last, since = state, monotonic()
            sleep(TICK / 2)

    def result(self, load: Load) -> Result:
        """The count, now that all processes have ended."""
        self._read_records()
        return Result(self._plan, self._counter.tally(load.accepted), load.seconds)

    def _check(self) -> None:
        self._web.check()
        self._workers.check()

    def _apply_fault(self, answers: int, now: float) -> None:
        signal = self._schedule.due(answers, now)
        if signal is not None:
            victim: Child = self._workers.children[0]
            victim.may_end = self._plan.fault.ends_worker
            victim.signal(signal)

    def _ready_workers(self) -> int:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=HEALTH)
        try:
            connection.request("GET", "/health/ready")
            answer: Any = json.loads(connection.getresponse().read())
            return int(answer["ready_workers"])
        except (OSError, HTTPException, ValueError):
            return 0  # it does not listen yet
        finally:
            connection.close()

    def _read_records(self) -> None:
        for path, record in self._records.items():
            try:
                with path.open("rb") as file:
                    file.seek(self._offsets[path])
                    data = file.read()
            except FileNotFoundError:
                continue  # it has run nothing yet
            self._offsets[path] += len(data)
            self._counter.add(record.worker, record.events(data))
