"""Calls of handlers: in threads, and where each is when somebody asks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from threading import Thread, get_ident
from traceback import StackSummary, walk_stack
from types import FrameType
from typing import Any

from twisted.python.threadpool import ThreadPool

from zpipeline import forks
from zpipeline.handlers import Handler
from zpipeline.job import Job


class DaemonPool(ThreadPool):
    """A pool whose threads end with the process, whatever they are at."""

    threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]


class InThread:
    """The call of a handler, to be made in a thread."""

    def __init__(self, handler: Handler, job: Job) -> None:
        self._handler = handler
        self._job = job
        self._thread = 0

    def __call__(self) -> Any:
        self._thread = get_ident()
        try:
            return self._handler(self._job)
        finally:
            if forks.in_child:
                forks.leave(sys.exc_info()[1])

    def where(self) -> str:
        """Where it is."""
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return ""
        inner = takewhile(lambda pair: pair[0].f_code is not InThread.__call__.__code__, walk_stack(frame))
        return _stack(reversed(list(inner)))


def is_coroutine_function(handler: Handler) -> bool:
    """Whether it shows, before it is called, that a handler is asynchronous."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def where(awaitable: object) -> str:
    """Where a coroutine is, down to what it waits for."""

    def frames() -> Iterator[tuple[FrameType, int]]:
        inner: Any = awaitable
        while inspect.iscoroutine(inner) and inner.cr_frame is not None:
            yield inner.cr_frame, inner.cr_frame.f_lineno
            inner = inner.cr_await

    return _stack(frames())


def nowhere() -> str:
    """Of a Deferred nobody knows where it is."""
    return ""


def _stack(frames: Iterator[tuple[FrameType, int]]) -> str:
    lines = StackSummary.extract(frames).format()
    return "".join(["Where it was then (most recent call last):\n", *lines]) if lines else ""
