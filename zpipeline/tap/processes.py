"""The worker processes of ``twistd zpipe``."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.runner.procmon import LoggingProtocol, ProcessMonitor

from zpipeline.tap.child import LOG_JSON, LOG_NAME, REFUSED
from zpipeline.tap.jsonlog import LINE

#: In bytes: a traceback, or what a handler logs, may be long.
_LONGEST_LINE = 1 << 24


#: For how many seconds processes are heard that hold the output of a worker that has ended.
_LAST_WORDS = 1.0


class Workers(ProcessMonitor):
    """Worker processes on this machine, that are started again when they die, and end when this process does.

    With each ends its process group: what its handlers have started, and left.

    :param open_files: how many file descriptors each may have: this process may have been allowed more.
    :param on_console: they write to this process's console themselves; else what they write goes into its log.
    :param as_json: they write JSON, an object a line.
    """

    #: A worker is asked to leave only when nothing is in flight: what holds it up then is a handler that nobody
    #: waits for. In seconds, as the rest.
    killTime = 5
    threshold = 10
    maxRestartDelay = 10

    def __init__(self, reactor: Any, open_files: int, *, on_console: bool, as_json: bool = False) -> None:
        super().__init__(reactor)
        self._command = [sys.executable, "-c", f"from zpipeline.tap.child import main; main({open_files})"]
        self._on_console = on_console
        self._as_json = as_json
        self._ends: dict[str, Deferred[None]] = {}

    def add(self, port: int, *options: str) -> None:
        """Have a worker on that port."""
        name = f"worker {port}"
        named = self._on_console or self._as_json
        env = {**os.environ, LOG_NAME: name} if named else dict(os.environ)
        if self._as_json:
            options = (LOG_JSON, *options)
        self.addProcess(name, [*self._command, f"--port={port}", *options], env=env)

    def startProcess(self, name: str) -> None:
        """Start it; its standard input is a pipe that ends with this process."""
        if name in self.protocols:
            return
        process = self._processes[name]
        watcher = _Watcher()
        watcher.service = self
        watcher.name = name
        watcher.clock = self._clock
        watcher.as_json = self._as_json
        self.protocols[name] = watcher
        self.timeStarted[name] = self._clock.seconds()
        self._ends[name] = watcher.ended
        fds: dict[int, int | str] = {0: "w", 1: 1, 2: 2} if self._on_console else {0: "w", 1: "r", 2: "r"}
        try:
            self._reactor.spawnProcess(watcher, process.args[0], process.args, process.env, childFDs=fds)
        except OSError as error:
            why = error.strerror or error
            self.log.warn("{name} cannot be started, is tried again: {why}", name=name, why=str(why).lower())
            self._monitoredProcessExited(name)

    def stopService(self) -> Deferred[Any]:  # type: ignore[override]
        """End all of them, and wait until they have."""
        super().stopService()
        return DeferredList([self._ends[name] for name in self.protocols])


class _Watcher(LoggingProtocol):
    clock: IReactorTime
    as_json = False

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._group = 0
        self._hearing: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        assert self.transport is not None
        self._group = self.transport.pid  # while it runs
        if self.as_json:
            self._output.lineReceived = self._line_came  # type: ignore[method-assign]
        self._output.MAX_LENGTH = self._error.MAX_LENGTH = _LONGEST_LINE

    def _line_came(self, line: bytes) -> None:
        try:
            is_object = isinstance(json.loads(line), dict)
        except ValueError:
            is_object = False
        if is_object:
            self.service.log.info("{line}", line=line, **{LINE: line.decode()})
        else:
            type(self._output).lineReceived(self._output, line)

    def outReceived(self, data: bytes) -> None:
        super().outReceived(data)
        self._outputEmpty = data.endswith(b"\n")  # else an empty line would end the log of each

    def errReceived(self, data: bytes) -> None:
        super().errReceived(data)
        self._errorEmpty = data.endswith(b"\n")

    def processExited(self, reason: Failure) -> None:
        """The worker has ended. `processEnded` comes when nobody has its pipes any more."""
        with suppress(ProcessLookupError, PermissionError):  # nobody is left of it, or only some other user's
            os.killpg(self._group, signal.SIGKILL)
        self._hearing = self.clock.callLater(_LAST_WORDS, self._hear_no_more)

    def _hear_no_more(self) -> None:
        self.service.log.warn(
            "{name} has left processes outside its process group: they go on, and what they print is not heard",
            name=self.name,
        )
        assert self.transport is not None
        self.transport.loseConnection()

    def processEnded(self, reason: Failure) -> None:
        if self._hearing is not None and self._hearing.active():
            self._hearing.cancel()
        end: Any = reason.value
        if self.service.running and end.exitCode != REFUSED:
            how = f"exit status {end.exitCode}" if end.signal is None else signal.Signals(end.signal).name
            self.service.log.warn("{name} has ended ({how}), is started again", name=self.name, how=how)
        super().processEnded(reason)
        self.ended.callback(None)
