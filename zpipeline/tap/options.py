"""What the options of all plugins have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import isfinite
from typing import Any, NoReturn

from twisted.python import usage

from zpipeline._version import __version__
from zpipeline.addresses import parse_address
from zpipeline.errors import UsageError
from zpipeline.tap.jsonlog import log_as_json

#: For the `optFlags` of those who call `zpipeline.tap.eof.leave_at_eof`.
UNTIL_EOF = [
    "until-eof",
    None,
    "Leave when standard input ends, within 5 seconds, and not at SIGINT: for who starts it as a child process.",
]

#: For the `optFlags` of all.
LOG_JSON = ["log-json", None, "Log lines are JSON, an object a line."]


class Options(usage.Options):
    """Options whose errors are one line on stderr, and exit status 1."""

    #: The plugin's name, for error messages.
    command = ""
    synopsis = "[options]"
    parent: Any
    longdesc: str | None
    #: Whether the log is what the console shows.
    logs_to_console = False

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Read the command line."""
        try:
            super().parseOptions(options)
        except (usage.UsageError, UsageError) as error:
            self.refuse(error, f"see twistd {self.command} --help")

    def refuse(self, why: object, hint: str = "") -> NoReturn:
        """End the process with one line on stderr."""
        line = " ".join(f"{self.command}: {why}".split())
        sys.exit(f"{line} ({hint})" if hint else line)

    def parseArgs(self, *arguments: str) -> None:
        """There are none."""
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}: there are only options")

    def postOptions(self) -> None:
        """Two of these may run beside each other in one directory, when they run in the foreground."""
        if self.in_foreground and self.parent["pidfile"] == self.parent.defaults["pidfile"]:
            self.parent["pidfile"] = None
        if self.get("until-eof") and not self.in_foreground:
            raise usage.UsageError("--until-eof needs twistd's -n: a daemon has no standard input")

        self.logs_to_console = self._logs_to_console()
        if self["log-json"]:
            if self.parent["syslog"] or self.parent["logger"]:
                raise usage.UsageError("--log-json goes to the console or to --logfile, not to --syslog or --logger")
            if self.parent["logfile"] == "-" and not self.in_foreground:
                raise usage.UsageError("a daemon has no console to log to: name a file with --logfile")
            log_as_json(self.parent)

    def opt_version(self) -> NoReturn:
        """Display zpipeline's version and exit."""
        print(f"zpipeline {__version__}")
        sys.exit(0)

    @property
    def in_foreground(self) -> bool:
        """Whether twistd was told -n."""
        return bool(self.parent["nodaemon"] or self.parent["debug"])

    def _logs_to_console(self) -> bool:
        elsewhere = self.parent["syslog"] or self.parent["logger"] or self.parent["logfile"] not in (None, "-")
        return self.in_foreground and not elsewhere

    def bind_now(self, bind: Callable[[], None], hint: str = "") -> None:
        """Bind before the service starts, so that a port that is taken is one line on stderr.

        Not when twistd is to become a daemon: sockets and their threads would not live through its fork.

        :param hint: which options name another, where the error does not.
        """
        if self.in_foreground:
            try:
                bind()
            except UsageError as error:
                self.refuse(error, hint)


def whole(option: str, lowest: int = 1, highest: int | None = None) -> Callable[[str], int]:
    """A coerce function for `optParameters`: a whole number from `lowest` to `highest`."""
    bounds = f"{lowest} or more" if highest is None else f"from {lowest} to {highest}"

    def coerce(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if number < lowest or (highest is not None and number > highest):
            raise usage.UsageError(f"--{option} {text!r} is not a whole number, {bounds}")
        return number

    return coerce


def address(option: str, *, bound: bool = False) -> Callable[[str], str]:
    """A coerce function for `optParameters`: a ZeroMQ address."""

    def coerce(text: str) -> str:
        try:
            parse_address(text, bound=bound)
        except UsageError as error:
            raise usage.UsageError(f"--{option} {error}") from None
        return text

    return coerce


def seconds(option: str, *, more: bool = False) -> Callable[[str], float]:
    """A coerce function for `optParameters`: a time in seconds.

    :param more: it must be more than 0.
    """

    def coerce(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not isfinite(number) or number < 0 or (more and number == 0):
            bounds = "more than 0" if more else "0 or more"
            raise usage.UsageError(f"--{option} {text!r} is not a number of seconds, {bounds}")
        return number

    return coerce


def one_of(option: str, *choices: str) -> Callable[[str], str]:
    """A coerce function for `optParameters`: one of these words."""

    def coerce(text: str) -> str:
        if text not in choices:
            raise usage.UsageError(f"--{option} is {' or '.join(choices)}, not {text!r}")
        return text

    return coerce


def seconds_to_seconds(option: str) -> Callable[[str], tuple[float, float]]:
    """A coerce function for `optParameters`: two times in seconds, FIRST:MAX, the first not the longer one."""

    def coerce(text: str) -> tuple[float, float]:
        first, colon, longest = text.partition(":")
        try:
            bounds = float(first), float(longest)
        except ValueError:
            bounds = -1.0, -1.0
        if not (colon and 0 <= bounds[0] <= bounds[1] and isfinite(bounds[1])):
            raise usage.UsageError(f"--{option} {text!r} is not FIRST:MAX: seconds, MAX no less than FIRST, like 1:300")
        return bounds

    return coerce
