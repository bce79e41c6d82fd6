"""``twistd zpipe``: the whole pipeline in one command.

The web side runs in this process, the workers in processes of their own, which are started again when they die.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure
from twisted.runner.procmon import LoggingProtocol, ProcessMonitor

from zpipeline.errors import UsageError
from zpipeline.handlers import find_handler
from zpipeline.tap.options import whole
from zpipeline.tap.services import in_order
from zpipeline.tap.web import WebOptions, make_web
from zpipeline.tap.worker import HANDLER_PARAMETERS

_TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"

#: A worker is asked to leave only when nothing is in flight: what holds it up then is a handler that nobody waits for.
_PATIENCE = 5


class Options(WebOptions):
    """The options of zpipe."""

    command = "zpipe"
    synopsis = "[options]"
    longdesc = "The whole pipeline in one command: HTTP in this process, and workers that are restarted when they die."
    optParameters = [
        ["workers", None, 3, "How many worker processes.", whole("workers")],
        ["first-port", None, 4444, "The port of the first worker; the others follow.", whole("first-port")],
        *HANDLER_PARAMETERS,
    ]

    def parseArgs(self) -> None:
        """There are none."""


def makeService(options: Options) -> IService:
    """The service of zpipe."""
    from twisted.internet import reactor

    ports = range(options["first-port"], options["first-port"] + options["workers"])
    try:
        find_handler(options["handler"])
    except UsageError as error:
        options.refuse(error)
    pipeline, listener = make_web(options, reactor, [f"tcp://127.0.0.1:{port}" for port in ports], plain=False)
    workers = Workers(reactor)
    for port in ports:
        workers.add(
            port,
            f"--handler={options['handler']}",
            f"--concurrency={options['concurrency']}",
            f"--threads={options['threads']}",
            f"--drain={options['drain']}",
        )
    return in_order(workers, pipeline, listener)


class Workers(ProcessMonitor):
    """Worker processes on this machine, that write to this process's console and end when it does."""

    killTime = _PATIENCE
    maxRestartDelay = 10

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self._ends: dict[str, Deferred[None]] = {}

    def add(self, port: int, *options: str) -> None:
        """Have a worker on that port."""
        command = [sys.executable, "-c", _TWISTD, "--nodaemon", "--logger=zpipeline.tap.console.observer"]
        self.addProcess(
            f"worker {port}",
            [*command, "zpipe-worker", f"--port={port}", "--until-eof", *options],
            env={**os.environ, "ZPIPE_LOG_NAME": f"worker {port}"},
        )

    def startProcess(self, name: str) -> None:
        """Start it with our console for its own: its lines are many, and nothing to be parsed."""
        if name in self.protocols:
            return
        process = self._processes[name]
        watcher = _Watcher()
        watcher.service = self
        watcher.name = name
        self.protocols[name] = watcher
        self.timeStarted[name] = self._clock.seconds()
        self._ends[name] = watcher.ended
        self._reactor.spawnProcess(watcher, process.args[0], process.args, process.env, childFDs={0: "w", 1: 1, 2: 2})

    def stopService(self) -> Deferred[Any]:  # type: ignore[override]
        """End all of them, and wait until they have."""
        super().stopService()
        return DeferredList([self._ends[name] for name in self.protocols])


class _Watcher(LoggingProtocol):
    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def processEnded(self, reason: Failure) -> None:
        if self.service.running:
            self.service.log.warn("{name} has ended: {reason}", name=self.name, reason=reason.getErrorMessage())
        super().processEnded(reason)
        self.ended.callback(None)
