"""The log of a process whose console is another's: each line says who speaks."""

from __future__ import annotations

import os
import sys
from typing import cast

from twisted.logger import ILogObserver, LogEvent, formatEventAsClassicLogText
from zope.interface import directlyProvides


def observer() -> ILogObserver:
    """Writes to stdout, under the name that is in the environment as ZPIPE_LOG_NAME; for ``twistd --logger``."""
    name = os.environ["ZPIPE_LOG_NAME"]
    console = sys.stdout  # not later: twistd then makes a log of it

    def write(event: LogEvent) -> None:
        text = formatEventAsClassicLogText({**event, "log_system": name})
        if text is not None:
            console.write(text)
            console.flush()

    directlyProvides(write, ILogObserver)
    return cast(ILogObserver, write)
