"""Tells systemd how a service does, by the datagrams of sd_notify(3), if it asks for them (units of Type=notify).

The socket is there from the start, so that systemd hears of a process that has as many open files as it may have. What
cannot be said is said later: systemd kills a service whose watchdog hears nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from zpipeline.text import printable

#: Seconds between two looks at whether the status has changed, unless the watchdog asks for more.
_INTERVAL = 5.0

log = Logger()


class Notifier:
    """Says that the service is ready, how it does, and that it is stopping.

    :param reactor: whose turns the watchdog hears of: while it stands still, so does this.
    :param status: how it does, as text.
    :param environment: has NOTIFY_SOCKET, and WATCHDOG_USEC and WATCHDOG_PID, if systemd asks. They are taken from it:
        processes that this one starts are none of systemd's.
    """

    def __init__(
        self, reactor: Any, status: Callable[[], str], environment: MutableMapping[str, str] = os.environ
    ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environment.pop("WATCHDOG_USEC", "")
        for_us = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watched = for_us and watchdog.isascii() and watchdog.isdigit() and int(watchdog) > 0
        self._interval = min(_INTERVAL, int(watchdog) / 2e6) if self._watched else _INTERVAL
        self._status = status
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._step = ""  # to be said first
        self._said: str | None = None
        self._trouble: str | None = None
        self._call = LoopingCall(self._tell)
        self._call.clock = reactor

    def ready(self) -> None:
        """The service serves."""
        if self._socket is not None:
            self._step = "READY=1"
            self._call.start(self._interval)

    def stopping(self, status: str) -> None:
        """The service is being stopped, which may take its time."""
        if self._socket is not None:
            self._status = lambda: status
            self._step = "STOPPING=1"
            self._say_step()

    def _say_step(self) -> None:
        if self._step and self._send(self._step):
            self._step = ""

    def _tell(self) -> None:
        self._say_step()
        lines = ["WATCHDOG=1"] if self._watched else []
        status = printable(self._status())
        if status != self._said:
            lines.append(f"STATUS={status}")
        if lines and self._send(*lines):
            self._said = status

    def _send(self, *lines: str) -> bool:
        assert self._socket is not None
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except BlockingIOError:  # systemd has much to do: it is told the next time
            return False
        except OSError as error:
            why = error.strerror or str(error)
            if why != self._trouble:
                self._trouble = why
                log.warn("systemd cannot be told how this service does: {why} (NOTIFY_SOCKET); trying again", why=why)
            return False
        self._trouble = None
        return True
