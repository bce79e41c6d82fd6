"""Children that handlers make by `os.fork`: multiprocessing's, and their own.

A child has a copy of all that its worker has, and none of its threads. It may do what it likes within the handler, for
as long as it likes. But there is one worker, and that is its parent:

- What the reactor reads and writes, and the connections of the worker's ZeroMQ sockets, are not the child's: it keeps
  no port, and the death of its parent shows. The null device takes their place, as the objects whose descriptors they
  are would otherwise close, some day, what has got their numbers since.
- SIGINT and SIGTERM, which ask a worker to leave, do to the child what they do to any program. They come to it once
  that is so.
- Where it comes back out of the handler it ends, with the exit status that a script would have. It reports nothing, and
  nothing runs that its parent is to do at its own end.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from threading import local
from typing import Any, NoReturn

from zpipeline.addresses import parse_address

#: What asks a worker to leave.
_ASKING = (signal.SIGINT, signal.SIGTERM)

#: Whether this process is a child of a worker: to be asked wherever a handler gives up control.
in_child = False

_guards: set[ForkGuard] = set()
_masks = local()


class ForkGuard:
    """Has the children of this process be no workers.

    :param reactor: what it reads and writes is not theirs.
    :param addresses: neither are TCP connections with one end there, nor who listens there: ``tcp://HOST:PORT``.
    """

    def __init__(self, reactor: Any, addresses: Callable[[], Iterable[str]]) -> None:
        self._reactor = reactor
        self._addresses = addresses

    def start(self) -> None:
        """From now on."""
        _guards.add(self)

    def stop(self) -> None:
        """Not any more."""
        _guards.discard(self)

    def forked(self) -> None:
        """This process is a child."""
        reactor = self._reactor
        reactor.doIteration = cannot_wait
        for call in reactor.getDelayedCalls():
            call.cancel()
        theirs = {user.fileno() for user in (*reactor.getReaders(), *reactor.getWriters())} - {-1, 0, 1, 2}
        os.close(max(theirs))  # now: there may be no other descriptor to be had, and what follows takes one
        theirs.update(_tcp_sockets(self._addresses()))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in theirs - {null}:
            os.dup2(null, descriptor, inheritable=False)
        if null not in theirs:
            os.close(null)


def leave(error: BaseException | None = None) -> NoReturn:
    """End this child, which has come back out of the handler: as Python ends a script that did so.

    :param error: with which it came back.
    """
    status = 1
    try:
        if error is None:
            status = 0
        elif not isinstance(error, SystemExit):
            traceback.print_exception(error)
        elif error.code is None or isinstance(error.code, int):
            status = (error.code or 0) & 0xFF
        else:
            print(error.code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def cannot_wait(*_: object) -> NoReturn:
    """End this child, which has come back to the reactor of its parent."""
    leave(RuntimeError("a child by os.fork has no reactor: let it end within the handler, without await"))


def _tcp_sockets(addresses: Iterable[str]) -> Iterator[int]:
    """The descriptors of TCP sockets with one end at one of these addresses: libzmq tells nobody which it has."""
    ends = {parse_address(address, bound=True) for address in addresses}
    ports = {port for _, port in ends}
    for name in os.listdir("/dev/fd"):
        try:
            known = socket.socket(fileno=int(name))
        except OSError:  # it is no socket
            continue
        try:
            if known.family in (socket.AF_INET, socket.AF_INET6) and (
                str(known.getsockname()[1]) in ports or _peer(known) in ends
            ):
                yield int(name)
        finally:
            known.detach()


def _peer(known: socket.socket) -> tuple[str, str] | None:
    try:
        host, port = known.getpeername()[:2]
    except OSError:  # it has none
        return None
    return host, str(port)


def _forks() -> None:
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING) if _guards else None


def _has_forked() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _is_forked() -> None:
    global in_child
    if not _guards:
        return
    in_child = True
    signal.set_wakeup_fd(-1)  # it is its parent's
    for number in (*_ASKING, signal.SIGCHLD):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        while _guards:
            _guards.pop().forked()
    finally:
        _has_forked()


os.register_at_fork(before=_forks, after_in_parent=_has_forked, after_in_child=_is_forked)
