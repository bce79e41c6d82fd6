"""What the options of all plugins have in common."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.python import usage

from zpipeline.errors import UsageError

T = TypeVar("T")

#: For the `optFlags` of those who call `heed_eof`.
UNTIL_EOF = [
    "until-eof",
    None,
    "Leave when standard input ends, and not at SIGINT: for who starts it as a child process.",
]


class Options(usage.Options):
    """Options whose errors are one line on stderr, and exit status 1."""

    #: The plugin's name, for error messages.
    command = ""
    parent: Any
    longdesc: str | None

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Read the command line."""
        try:
            super().parseOptions(options)
        except (usage.UsageError, UsageError) as error:
            self.refuse(f"{error} (see twistd {self.command} --help)")

    def refuse(self, why: object) -> NoReturn:
        """End the process."""
        sys.exit(f"{self.command}: {why}")

    def postOptions(self) -> None:
        """Two of these may run beside each other in one directory, when they run in the foreground."""
        if self.in_foreground:
            self.parent["pidfile"] = None

    @property
    def in_foreground(self) -> bool:
        """Whether twistd was told -n."""
        return self.parent is not None and bool(self.parent.get("nodaemon"))

    def bind_now(self, bind: Callable[[], None]) -> None:
        """Bind before the service starts, so that a port that is taken is one line on stderr.

        Not when twistd is to become a daemon: sockets and their threads would not live through its fork.
        """
        if self.in_foreground:
            try:
                bind()
            except UsageError as error:
                self.refuse(error)

    def heed_eof(self, reactor: Any) -> None:
        """Do what --until-eof says, if it was given."""
        if self["until-eof"]:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            reactor.callWhenRunning(_watch_stdin, reactor)


def _watch_stdin(reactor: Any) -> None:
    # StandardIO makes what it writes to non-blocking, for all who share it: not the console, where logs would be torn.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    StandardIO(_UntilEOF(reactor), stdout=nowhere, reactor=reactor)  # type: ignore[call-arg] # mypy reads Windows' own


class _UntilEOF(Protocol):
    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: object = None) -> None:
        with suppress(ReactorNotRunning):  # it may be leaving already
            self._reactor.stop()


def number(option: str, lowest: float, kind: Callable[[str], T]) -> Callable[[str], T]:
    """A coerce function for `optParameters`: a number, at least `lowest`."""

    def coerce(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            raise usage.UsageError(f"--{option} {text!r}: it is a number") from None
        if not value >= lowest:  # type: ignore[operator]
            raise usage.UsageError(f"--{option} {text}: it is {lowest} or more")
        return value

    return coerce


def whole(option: str, lowest: int = 1) -> Callable[[str], int]:
    """A whole number."""
    return number(option, lowest, int)


def seconds(option: str) -> Callable[[str], float]:
    """A time in seconds."""
    return number(option, 0, float)
