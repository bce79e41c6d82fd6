"""Calls of handlers: in threads, and where each is when somebody asks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import takewhile
from threading import Thread, get_ident
from traceback import StackSummary, walk_stack
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from zpipeline import forks
from zpipeline.errors import ZpipelineError
from zpipeline.handlers import Handler
from zpipeline.job import Job
from zpipeline.outcomes import caught


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
            result = _final(self._handler(self._job))
        except BaseException as error:
            if forks.in_child:
                forks.leave(error)
            return caught()
        if forks.in_child:
            forks.leave()
        return result

    def where(self) -> str:
        """Where it is."""
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return ""
        inner = takewhile(lambda pair: pair[0].f_code is not InThread.__call__.__code__, walk_stack(frame))
        return _stack(reversed(list(inner)))


class NeverRun(ZpipelineError):
    """A handler has returned what was to do its work, and that has not begun: its attempt has failed."""


def promised(result: Any) -> tuple[Deferred[Any], Callable[[], str]] | None:
    """What a handler's result is to be waited for by, if it is to come yet, and what tells where the handler is then.

    :param result: that the handler returned.
    :raises NeverRun: it is neither a result nor a promise of one.
    """
    if isinstance(result, Deferred):
        return result.addCallback(_final), _nowhere
    if isinstance(result, Failure):
        return fail(result), _nowhere
    if inspect.isawaitable(result):
        return Deferred.fromCoroutine(_await(result)), partial(_where, result)
    _final(result)
    return None


async def _await(awaitable: Awaitable[Any]) -> Any:
    try:
        return _final(await awaitable)
    except BaseException:
        return caught()


def _final(result: Any) -> Any:
    """The result, which nothing is waited for any more.

    :raises NeverRun: it would have to be.
    """
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise NeverRun(f"the handler returned {_a(result)}, and nothing has run of it: it must not `yield`")
    if isinstance(result, Deferred) or inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python says later that it was never awaited
        raise NeverRun(
            f"the handler returned {_a(result)} where nothing waits for one: `await` it; with --threads, leave that out"
        )
    return result


def _a(result: object) -> str:
    name = type(result).__name__.replace("_", " ")
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _where(awaitable: object) -> str:
    """Where a coroutine is, down to what it waits for."""

    def frames() -> Iterator[tuple[FrameType, int]]:
        inner: Any = awaitable
        while inspect.iscoroutine(inner) and inner.cr_frame is not None:
            yield inner.cr_frame, inner.cr_frame.f_lineno
            inner = inner.cr_await

    return _stack(frames())


def _nowhere() -> str:
    """Of a Deferred nobody knows where it is."""
    return ""


def _stack(frames: Iterator[tuple[FrameType, int]]) -> str:
    lines = StackSummary.extract(frames).format()
    return "".join(["Where it was then (most recent call last):\n", *lines]) if lines else ""
