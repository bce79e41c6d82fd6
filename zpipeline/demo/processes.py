"""The pipeline's processes: started, watched, and ended whatever happens.

Each has a directory of its own to work in. It leaves when its standard input ends, which it does with this process,
however that ends. And it is alone in its process group, for two reasons: Ctrl-C reaches this process only, which then
ends the others in order; and one that is frozen when this process dies is continued and hung up on by the kernel, as
POSIX has it for process groups that are orphaned.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import TracebackType

from zpipeline.demo.errors import DemoError

#: For how many seconds a process may drain once it was asked to leave, and how much longer it has until it is killed.
DRAIN = 5
MARGIN = 3.0

_TWISTD = "import os, sys; os.setpgid(0, 0); from twisted.scripts.twistd import run; sys.exit(run())"
_LOG_LINES = 10


class Child:
    """One process.

    :ivar name: for messages.
    :ivar directory: where it works.
    :ivar may_end: whether its end is expected.
    """

    def __init__(self, name: str, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.directory = directory
        self.may_end = False
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        self._process.send_signal(number)

    def check(self) -> None:
        """See to it that it is there.

        :raises DemoError: it has ended, which was not expected.
        """
        if self.may_end or self._process.poll() is None:
            return
        lines = self.directory.with_suffix(".log").read_text("utf-8", "replace").strip().splitlines()[-_LOG_LINES:]
        how = f"{self.name} has ended ({_how(self._process.returncode)})"
        raise DemoError(f"{how}: {lines[0]}" if len(lines) == 1 else "\n    ".join([f"{how}; its log:", *lines]))

    def wait(self, deadline: float) -> bool:
        """Wait for its end until `deadline` of the monotonic clock: whether it came."""
        try:
            self._process.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it now, if it has not ended."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


class Processes:
    """Some processes, which are ended together.

    :param scratch: a directory; theirs are made in it.
    :raises DemoError: (at the end of the ``with``) one had to be killed because it did not leave.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.children: list[Child] = []

    def __enter__(self) -> Processes:
        return self

    def start(self, name: str, plugin: str, *options: str) -> Child:
        """Run ``twistd -n PLUGIN OPTIONS``.

        :raises DemoError: it cannot be started.
        """
        directory = self._scratch / name.replace(" ", "-")
        directory.mkdir()
        command = [sys.executable, "-c", _TWISTD, "--nodaemon", plugin, "--until-eof", f"--drain={DRAIN}", *options]
        with directory.with_suffix(".log").open("wb") as log:
            try:
                process = subprocess.Popen(
                    command, cwd=directory, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
                )
            except OSError as error:
                raise DemoError(f"{name} could not be started: {error}") from None
        child = Child(name, directory, process)
        self.children.append(child)
        return child

    def check(self) -> None:
        """See to it that all are there.

        :raises DemoError: one has ended, which was not expected.
        """
        for child in self.children:
            child.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as ends:  # all of them, also when this is interrupted
            for child in self.children:
                ends.callback(child.kill)
            for child in self.children:
                child.signal(signal.SIGCONT)
                child.signal(signal.SIGTERM)
            deadline = monotonic() + DRAIN + MARGIN
            stuck = [child.name for child in self.children if not child.wait(deadline)]
        if stuck and kind is None:
            raise DemoError(
                f"{', '.join(stuck)} did not leave within {DRAIN + MARGIN:.0f} seconds, and had to be killed"
            )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
