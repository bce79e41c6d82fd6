"""The process of a worker that ``twistd zpipe`` has started."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import cast

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, formatEventAsClassicLogText
from twisted.scripts.twistd import run
from zope.interface import directlyProvides

from zpipeline.tap import jsonlog
from zpipeline.tap.descriptors import set_soft_limit
from zpipeline.tap.eof import leave_at_eof

#: Exit status of a worker that could not start, and has said why.
REFUSED = os.EX_CONFIG

#: In the environment: the name under which it writes to a console that it shares. Without it, nothing is added to
#: its log: then who reads it knows who speaks, and when.
LOG_NAME = "ZPIPE_LOG_NAME"

#: What it is told to log JSON by, as plugins are.
LOG_JSON = "--log-json"

#: See prctl(2).
_PR_SET_PDEATHSIG = 1

#: Who tells of starting and stopping: what is known already.
_KNOWN = ("twisted.scripts.", "twisted.internet.base", "zpipeline.tap.services")


def main(open_files: int) -> None:
    """Run ``zpipe-worker`` with the options of the command line until who started it is gone, in a process group of its
    own, which ends with it.

    :param open_files: how many file descriptors it may have. Else it may have as many as who started it.
    """
    set_soft_limit(open_files)
    # A process group of its own: signals that a terminal, or kill(1), sends to a whole group are for who started it
    # to deal with, in order.
    os.setpgid(0, 0)
    _go_on_when_alone()
    from twisted.internet import reactor

    leave_at_eof(reactor, with_group=True)
    options = sys.argv[1:]
    make_observer = observer
    if LOG_JSON in options:  # which plugins take for themselves: this logger takes its place
        options.remove(LOG_JSON)
        make_observer = json_observer
    logger = f"--logger={__name__}.{make_observer.__name__}"
    sys.argv = ["twistd", "--nodaemon", logger, "zpipe-worker", *options]
    try:
        run()
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        Logger(observer=make_observer()).error("cannot start, is tried again: {why}", why=end.code)
        sys.exit(REFUSED)


def _go_on_when_alone() -> None:
    """Be continued, if it is stopped, when who started it is gone.

    The system does that by itself only where who adopts it is of another session: in a container that need not be so.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def observer() -> ILogObserver:
    """Writes to stdout; for ``twistd --logger``."""
    name = os.environ.get(LOG_NAME)
    console = sys.stdout  # not later: twistd then makes a log of it

    def write(event: LogEvent) -> None:
        if _is_known(event):
            return
        if name is None:
            text: str | None = formatEvent(event) + "\n"
        else:
            text = formatEventAsClassicLogText({**event, "log_system": name})
        if text is not None:
            console.write(text)
            console.flush()

    directlyProvides(write, ILogObserver)
    return cast(ILogObserver, write)


def json_observer() -> ILogObserver:
    """Writes JSON to stdout, under its name; for ``twistd --logger``."""
    name = os.environ.get(LOG_NAME)
    console = jsonlog.json_observer(sys.stdout)

    def write(event: LogEvent) -> None:
        if not _is_known(event):
            console({**event, "log_system": name})

    directlyProvides(write, ILogObserver)
    return cast(ILogObserver, write)


def _is_known(event: LogEvent) -> bool:
    return event.get("log_level") is LogLevel.info and event.get("log_namespace", "").startswith(_KNOWN)
