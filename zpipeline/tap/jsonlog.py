"""Log lines as JSON: one object a line, for programs that gather logs.

``time`` (ISO 8601, UTC), ``level``, ``namespace`` (the logger's), ``system`` (where there is one: which of zpipe's
workers), ``message`` (what the line says without JSON), ``fields`` (what was said of the event, by name), and
``traceback`` of failures. All of it is ASCII: whatever strangers sent is escaped.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO, cast

from twisted.logger import ILogObserver, LogEvent, formatEvent
from twisted.python.logfile import LogFile
from twisted.python.reflect import safe_repr
from zope.interface import directlyProvides

#: In an event: the line that it is already. What a worker of zpipe wrote is not wrapped again.
LINE = "log_json_line"

#: What Twisted's older logging system adds to an event. All of it is there by other names.
_OF_LEGACY = {"message", "time", "system", "format", "failure", "isError", "why", "printed", "logLevel"}


def json_line(event: LogEvent) -> str:
    """The line of an event, without its end."""
    ready = event.get(LINE)
    if isinstance(ready, str):
        return ready
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event["log_time"], timezone.utc).isoformat(timespec="milliseconds"),
        "level": "info" if level is None else level.name,
        "namespace": event.get("log_namespace"),
    }
    if event.get("log_system") not in (None, "-"):
        line["system"] = str(event["log_system"])
    line["message"] = formatEvent(event)
    legacy = _OF_LEGACY if "log_legacy" in event or event.get("log_namespace") == "log_legacy" else frozenset()
    if fields := {name: value for name, value in event.items() if not name.startswith("log_") and name not in legacy}:
        line["fields"] = fields
    if (failure := event.get("log_failure")) is not None:
        line["traceback"] = failure.getTraceback()
    try:
        return json.dumps(line, default=_text, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, numbers that are none, circles
        line["fields"] = {str(name): safe_repr(value) for name, value in line.get("fields", {}).items()}
        return json.dumps(line)


def json_observer(write_to: TextIO) -> ILogObserver:
    """An observer that writes lines to a file."""

    def write(event: LogEvent) -> None:
        write_to.write(json_line(event) + "\n")
        write_to.flush()

    directlyProvides(write, ILogObserver)
    return cast(ILogObserver, write)


def log_as_json(parent: Any) -> None:
    """Have twistd log JSON, to where it would log else.

    twistd takes the name of what makes its observer, and gives it nothing: so where that is to write is kept here.

    :param parent: twistd's options.
    """
    global _file_name
    to_console = parent["logfile"] == "-" or (parent["nodaemon"] and not parent["logfile"])
    _file_name = None if to_console else parent["logfile"] or "twistd.log"
    parent["logger"] = f"{__name__}.twistd_observer"


_file_name: str | None = None


def twistd_observer() -> ILogObserver:
    """For ``twistd --logger``, after `log_as_json`."""
    if _file_name is None:
        return json_observer(sys.stdout)
    log_file = LogFile.fromFullPath(_file_name)
    if not signal.getsignal(signal.SIGUSR1):  # as twistd has it
        signal.signal(signal.SIGUSR1, lambda *_: _later(log_file.rotate))
    return json_observer(cast(TextIO, log_file))


def _later(call: Callable[[], object]) -> None:
    from twisted.internet import reactor

    cast(Any, reactor).callFromThread(call)


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else safe_repr(value)
