"""A listening port that cannot accept a connection waits for a moment before it tries again.

Twisted's tries again at once, with a line in the log each time. While there is no file descriptor to be had, in this
process or (ENFILE) on this machine, that would be all that the process does, and the log would fill the disk.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Port

#: For how long it waits, in seconds.
PAUSE = 0.1


def pause_when_failing(reactor: Any, port: object) -> None:
    """Have this port wait for `PAUSE` whenever there was a connection to accept, and it has accepted none.

    :param port: what an endpoint's `listen` gives; one that is no socket of the system's is left as it is.
    """
    if not isinstance(port, Port):
        return
    accept = port.doRead

    def do_read() -> None:
        accepted = port.sessionno
        accept()
        if port.sessionno == accepted and port.connected:
            port.stopReading()
            reactor.callLater(PAUSE, go_on)

    def go_on() -> None:
        if port.connected:
            port.startReading()

    port.doRead = do_read  # type: ignore[method-assign]
