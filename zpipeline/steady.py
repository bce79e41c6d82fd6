"""Intervals that do not change when the system's clock is set.

Twisted's reactors go by the wall clock. When that is set an hour forward, whatever waits is called at once; when it is
set back, nothing that waits is called for an hour. `seconds` goes by the monotonic clock, and can take its place.

A reactor of our own commands is told to go by it (`zpipeline.tap.clock`). One that belongs to somebody else's
application is left as it is: `steady` puts a proxy before it, whose delayed calls are kept by `seconds`. When the
reactor calls one too early, it is set again for the rest. What a step back would hold up is found by a thread, which
compares the two clocks, and set again as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any
from weakref import WeakSet

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.runtime import seconds as wall
from zope.interface import implementer

#: How often the clocks are compared, in seconds: for so long a step back holds up what waits.
TICK = 0.25

#: From one tick to the next the clocks' difference changes by less, unless one of them was set. In seconds.
LEAST_STEP = 0.01

_began = wall() - monotonic()


def seconds() -> float:
    """Seconds since the epoch by the wall clock, as it stood when this module was imported, and by the monotonic clock
    from then on."""
    return _began + monotonic()


def steady(reactor: Any) -> Any:
    """The reactor, with delayed calls that the wall clock does not alter: itself, if it does not go by that."""
    # == as a test's is a method, which is another object each time
    return SteadyReactor(reactor) if getattr(reactor, "seconds", None) == wall else reactor


@implementer(IReactorTime)
class SteadyReactor:
    """A reactor whose `seconds` and `callLater` go by `seconds` above. All else is the reactor's own.

    :ivar waiting: what is neither called nor cancelled.
    :ivar is_watched: whether the thread knows it.
    """

    seconds = staticmethod(seconds)

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.waiting: set[_Call] = set()
        self.is_watched = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> IDelayedCall:
        """See `twisted.internet.interfaces.IReactorTime.callLater`."""
        if not self.is_watched:
            _watch.add(self)
        later: IDelayedCall = _Call(self, self._reactor, delay, callable, args, kwargs)
        return later

    def set_again(self) -> None:
        """Have the reactor call what waits when it is due, whatever its clock shows now."""
        for call in sorted(self.waiting, key=_Call.getTime):
            call.set_again()


@implementer(IDelayedCall)
class _Call:
    """What is to be called when `seconds` has reached a time.

    :param steady: among whose calls that wait it is until it was called or cancelled.
    :param reactor: what that is a proxy of.
    """

    __slots__ = ("_args", "_at", "_call", "_is_cancelled", "_kwargs", "_later", "_reactor", "_steady")

    def __init__(
        self,
        steady: SteadyReactor,
        reactor: Any,
        delay: float,
        call: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> None:
        self._reactor = reactor
        self._steady = steady
        self._at = seconds() + delay
        self._call: Callable[..., object] | None = call  # None: it is not active any more
        self._args = args
        self._kwargs = kwargs
        self._is_cancelled = False
        self._later: IDelayedCall | None = reactor.callLater(delay, self._come)
        steady.waiting.add(self)

    def _come(self) -> None:
        if self._at > seconds():
            # In another turn: a reactor that was calling what was due when its clock was set back takes what comes now
            # for due as well, again and again (asyncio's does).
            self._later = None
            self._reactor.callFromThread(self._wait_again)
            return
        call = self._end()
        call(*self._args, **self._kwargs)

    def _end(self) -> Callable[..., object]:
        call, self._call = self._call, None
        assert call is not None
        self._steady.waiting.discard(self)
        return call

    def _wait_again(self) -> None:
        if self._call is not None:
            self._later = self._reactor.callLater(max(0.0, self._at - seconds()), self._come)

    def set_again(self) -> None:
        """Have the reactor call it when it is due, whatever its clock shows now."""
        if self._later is not None:
            self._later.reset(max(0.0, self._at - seconds()))

    def getTime(self) -> float:
        """When it is due, by `seconds`."""
        return self._at

    def active(self) -> bool:
        """Whether it was neither called nor cancelled."""
        return self._call is not None

    def cancel(self) -> None:
        """Have it not called."""
        self._check()
        self._end()
        self._is_cancelled = True
        if self._later is not None:
            self._later.cancel()

    def reset(self, secondsFromNow: float) -> None:
        """Have it called after so many seconds from now."""
        self._check()
        self._at = seconds() + secondsFromNow
        self.set_again()

    def delay(self, secondsLater: float) -> None:
        """Have it called so many seconds later than it would have been."""
        self._check()
        self._at += secondsLater
        self.set_again()

    def _check(self) -> None:
        if self._call is None:
            raise AlreadyCancelled if self._is_cancelled else AlreadyCalled


class _Watch:
    """Finds out by a thread when the wall clock was set. There is one while there are steady reactors."""

    def __init__(self) -> None:
        self._reactors: WeakSet[SteadyReactor] = WeakSet()
        self._lock = Lock()
        self._thread: Thread | None = None

    def add(self, reactor: SteadyReactor) -> None:
        """Have it set again what waits whenever the wall clock was set."""
        with self._lock:
            self._reactors.add(reactor)
            reactor.is_watched = True
            if self._thread is None:
                apart = wall() - monotonic()
                self._thread = Thread(target=self._run, args=(apart,), name="zpipeline clock watch", daemon=True)
                self._thread.start()

    def _run(self, apart: float) -> None:
        tick = Event()
        while self._goes_on():
            tick.wait(TICK)
            before, apart = apart, wall() - monotonic()
            if abs(apart - before) > LEAST_STEP:
                self._tell()

    def _goes_on(self) -> bool:
        with self._lock:
            if not self._reactors:
                self._thread = None
            return self._thread is not None

    def _tell(self) -> None:
        with self._lock:
            reactors = list(self._reactors)
        for reactor in reactors:
            with suppress(RuntimeError):  # asyncio's, when its loop was closed
                reactor.callFromThread(reactor.set_again)

    def forked(self) -> None:
        """This process is a child of that which had the thread."""
        self._lock = Lock()
        self._thread = None
        for reactor in self._reactors:
            reactor.is_watched = False


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.forked)
