"""Handlers that misbehave, by name: a job's body says which one it gets.

``plain``, ``asynchronous`` and ``plain`` in threads call the same functions. `BAD` says how each is to end.
What is called *deadly* ends its process, and what *holds* does not let go of its worker.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import gc
import inspect
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.oddities import Busy, EndsAll, HasNoClass, Later, Members, NoPhoto, SaysNothing, Text, nested
from zpipeline import RetryLater
from zpipeline.dispatch import GRACE
from zpipeline.job import Job

#: How long an attempt may take, and after how much longer a worker is lost that reports nothing, in seconds.
TIMEOUT = 4
OVERDUE = TIMEOUT + GRACE + 3

PLAIN, ASYNCHRONOUS, THREADS = MODES = ("plain", "asynchronous", "threads")


@frozen
class Bad:
    """One that misbehaves.

    :ivar state: in which its job ends.
    :ivar error: a regular expression for why its last attempt failed.
    :ivar modes: of running, in which it is to be tried.
    :ivar is_deadly: its process ends by it.
    :ivar holds: its worker hears nothing while it runs, or has a place less for good.
    """

    handler: Callable[[Job], Any]
    state: str
    error: str
    modes: tuple[str, ...]
    is_deadly: bool
    holds: bool


BAD: dict[str, Bad] = {}

F = Callable[[Job], Any]


def ends(
    state: str, error: str = "", *, modes: tuple[str, ...] = MODES, is_deadly: bool = False, holds: bool = False
) -> Callable[[F], F]:
    """How the job is to end whose handler this is."""

    def add(handler: F) -> F:
        BAD[handler.__name__] = Bad(handler, state, error, modes, is_deadly, holds)
        return handler

    return add


def plain(job: Job) -> Any:
    """A good job, or the bad one that its body names."""
    name = job.body.decode()
    if name in BAD:
        return BAD[name].handler(job)
    from tests.faults import handlers  # which needs to know where to write

    return handlers.record(job)


async def asynchronous(job: Job) -> Any:
    """As `plain`, a turn of the reactor later."""
    from twisted.internet import reactor

    await deferLater(reactor, 0.001)
    result = plain(job)
    return await result if inspect.iscoroutine(result) or isinstance(result, Deferred) else result


# What they raise


@ends("dead", "ValueError: no")
def raises(job: Job) -> None:
    """As all do some day."""
    raise ValueError("no")


@ends("dead", "SystemExit: 3")
def exits(job: Job) -> None:
    """It takes itself for a program."""
    sys.exit(3)


@ends("dead", "KeyboardInterrupt")
def interrupts(job: Job) -> None:
    """As if somebody had pressed Ctrl-C."""
    raise KeyboardInterrupt


@ends("dead", "GeneratorExit")
def closes(job: Job) -> None:
    """As a generator that is closed."""
    raise GeneratorExit


@ends("dead", "CancelledError")
def cancels(job: Job) -> None:
    """As a task that is cancelled."""
    raise asyncio.CancelledError


@ends("dead", "CancelledError")
def cancels_as_twisted(job: Job) -> None:
    """As a Deferred that is cancelled."""
    raise CancelledError


@ends("dead", "StopIteration")
def stops(job: Job) -> None:
    """As an iterator that has nothing more."""
    raise StopIteration


@ends("dead", "MemoryError")
def has_no_memory(job: Job) -> bytes:
    """It asks for more than there is."""
    return b"x" * (1 << 60)


@ends("dead", "RecursionError")
def recurs(job: Job) -> None:
    """It calls itself."""
    recurs(job)


class Fatal(BaseException):
    """No Exception."""


@ends("dead", "Fatal")
def raises_no_exception(job: Job) -> None:
    """A class of its own for what nobody is to catch."""
    raise Fatal


@ends("dead", "SaysNothing")
def says_nothing(job: Job) -> None:
    """Its exception has no text."""
    raise SaysNothing


@ends("dead", "what it raised cannot be written|EndsAll")
def ends_who_asks(job: Job) -> None:
    """Its exception raises another."""
    raise EndsAll


@ends("dead", "RuntimeError: what it is")
def raises_who_knows_what(job: Job) -> None:
    """Its exception cannot be looked at."""
    raise HasNoClass


@ends("dead", r"^ValueError: x+\[\.\.\. 1,99\d,\d\d\d bytes are left out here \.\.\.\]x+$")
def says_too_much(job: Job) -> None:
    """Megabytes."""
    raise ValueError("x" * 2_000_000)


@ends("dead", r"^ValueError: half \\ud83d \x1b\[31m red line$")
def says_what_is_no_text(job: Job) -> None:
    """Half a pair of surrogates, and what a terminal would act on."""
    raise ValueError("half \ud83d \x1b[31m red\r\n\n line")


@ends("dead", "ValueError: the last of 300")
def chains(job: Job) -> None:
    """Each is the cause of the next."""
    error: Exception = ValueError("the first")
    for _ in range(299):
        later = ValueError("the last of 300")
        later.__cause__ = error
        error = later
    raise error


@ends("dead", "RuntimeError: no", modes=(PLAIN, THREADS))
def raises_with_traceback_of_another(job: Job) -> None:
    """Its traceback is from another thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_fails).result()


def _fails() -> None:
    raise RuntimeError("no")


@ends("dead", r"^Busy: .*the delay is the backoff's")
def asks_for_no_time(job: Job) -> None:
    """Its RetryLater has no seconds."""
    raise Busy("db1")


@ends("dead", r"^Later: .*the delay is the backoff's")
def asks_for_the_past(job: Job) -> None:
    """Its RetryLater has less than none."""
    raise Later(-3600)


@ends("dead", r"^Later: .*the delay is the backoff's")
def asks_for_some_time(job: Job) -> None:
    """Its RetryLater has no number."""
    raise Later("soon")


@ends("dead", "^UsageError: RetryLater takes a number of seconds")
def asks_for_ever(job: Job) -> None:
    """Nobody can wait for that."""
    raise RetryLater(float("inf"))


@ends("dead", "^5$")
def rejects_in_its_own_way(job: Job) -> None:
    """It is dead at once."""
    raise NoPhoto(5)


# What they return


@ends("dead", "NeverRun: the handler returned a generator")
def yields(job: Job) -> Iterator[None]:
    """Nothing of it runs."""
    yield


@ends("dead", "NeverRun: the handler returned an async generator")
async def yields_later(job: Job) -> AsyncIterator[None]:
    """Nothing of it runs."""
    yield


async def _work(job: Job) -> None:
    """It would have to be awaited."""


@ends("dead", "NeverRun: the handler returned a coroutine where nothing waits for one", modes=(THREADS,))
def is_asynchronous_in_a_thread(job: Job) -> Any:
    """Nobody waits for it there."""
    return _work(job)


@ends("dead", "NeverRun: the handler returned a Deferred where nothing waits for one", modes=(THREADS,))
def promises_in_a_thread(job: Job) -> Any:
    """Nobody waits for it there."""
    return Deferred()


@ends("dead", "NeverRun: the handler returned a coroutine", modes=(PLAIN, ASYNCHRONOUS))
async def forgets_to_await(job: Job) -> Any:
    """A coroutine that returns another."""
    return _work(job)


@ends("dead", "NeverRun: the handler returned a coroutine", modes=(PLAIN, ASYNCHRONOUS))
def has_a_promise_of_a_promise(job: Job) -> Any:
    """A Deferred of a coroutine."""
    return succeed(_work(job))


@ends("dead", "ValueError: no")
def returns_a_failure(job: Job) -> Any:
    """As Twisted's callbacks do."""
    return Failure(ValueError("no"))


@ends("dead", "RuntimeError: what it is")
def returns_who_knows_what(job: Job) -> Any:
    """It cannot be looked at."""
    return HasNoClass()


@ends("done")
def returns_what_is_nested(job: Job) -> Any:
    """More deeply than anybody reads."""
    return nested(50_000)


@ends("done")
def returns_itself(job: Job) -> Any:
    """A list that is in itself."""
    circle: list[Any] = []
    circle.append(circle)
    return circle


@ends("done")
def returns_digits(job: Job) -> int:
    """More than Python writes."""
    return 10**5000


@ends("done")
def returns_no_number(job: Job) -> float:
    """JSON has no such number."""
    return float("nan")


@ends("done")
def returns_something_open(job: Job) -> Any:
    """It is no data."""
    return threading.Lock()


@ends("done")
def returns_what_raises(job: Job) -> Any:
    """It is not written."""
    return Members(SystemExit(3))


@ends("done")
def returns_text_of_its_own(job: Job) -> str:
    """A class of its own."""
    return Text("text")


@ends("done")
def returns_too_much(job: Job) -> bytes:
    """Over a mebibyte."""
    return b"x" * (2 << 20)


@ends("done")
def returns_what_has_not_begun(job: Job) -> Any:
    """A future that nobody will ever set."""
    return Future()


# What they do


@ends("done")
def forgets_who_it_is(job: Job) -> None:
    """It changes its job."""
    job.key, job.delivery, job.attempt, job.accepted_at = None, None, "one", None  # type: ignore[assignment]


@ends("dead", "ValueError: no")
def forgets_and_raises(job: Job) -> None:
    """It changes its job, and fails."""
    del job.key, job.delivery, job.attempt, job.accepted_at, job.body, job.headers
    raise ValueError("no")


@ends("done")
def changes_how_python_runs(job: Job) -> None:
    """For all who run in this process."""
    sys.setrecursionlimit(20_000)
    sys.set_int_max_str_digits(0)
    gc.disable()
    socket.setdefaulttimeout(0.001)
    logging.disable()
    os.umask(0o777)


@ends("done")
def writes_to_the_console(job: Job) -> None:
    """In all ways that there are."""
    print("text", flush=True)
    sys.stdout.buffer.write(b"bytes\n")
    subprocess.run(["echo", "a child's text"], stdout=sys.stdout, stderr=sys.stderr, check=True)


@ends("done")
def leaves_a_thread(job: Job) -> None:
    """That would hold up the end of its process for ever."""
    threading.Thread(target=threading.Event().wait).start()


@ends("done")
def leaves_a_call_for_the_end(job: Job) -> None:
    """That fails."""
    atexit.register(_fails)


@ends("done")
def has_a_thread_that_fails(job: Job) -> None:
    """Nobody waits for it."""
    threading.Thread(target=_fails).start()


@ends("done")
def leaves_a_process(job: Job) -> None:
    """It goes on with what its worker had open."""
    subprocess.Popen(["sleep", "300"], close_fds=False)


@ends("done")
def ignores_signals(job: Job) -> None:
    """It cannot be asked to leave (where it may say so: in the main thread)."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@ends("done", modes=(PLAIN, THREADS))
def has_a_child_that_works(job: Job) -> None:
    """As it should be."""
    child = multiprocessing.get_context("fork").Process(target=abs, args=(1,))
    child.start()
    child.join(10)
    if child.exitcode != 0:
        raise ValueError(f"the child has ended with {child.exitcode}")


@ends("done")
def has_a_child_that_exits(job: Job) -> None:
    """It must not become a worker."""
    if os.fork() == 0:
        sys.exit(3)


@ends("done")
def has_a_child_that_returns(job: Job) -> str:
    """It must not become a worker."""
    return "child" if os.fork() == 0 else "parent"


@ends("done")
def has_a_child_that_raises(job: Job) -> None:
    """It must not become a worker."""
    if os.fork() == 0:
        raise ValueError("in the child")


@ends("done", holds=True)
def holds_the_interpreter(job: Job) -> None:
    """In C, for longer than a frozen process is waited for."""
    ctypes.PyDLL(None).usleep(1_500_000)


# What ends, or holds, its worker


@ends("dead", "timed out", modes=(PLAIN, ASYNCHRONOUS), holds=True)
def never_fires(job: Job) -> Any:
    """A Deferred that nobody fires."""
    return Deferred()


@ends("dead", "timed out", modes=(THREADS,), holds=True)
def blocks(job: Job) -> None:
    """For an hour."""
    time.sleep(3600)


@ends("done", modes=(PLAIN,), holds=True)
def blocks_for_a_while(job: Job) -> None:
    """For longer than a worker that reports nothing is waited for: others get what it has not begun.

    Where several jobs are under way at once, it keeps them from ending, and they run again elsewhere.
    """
    time.sleep(OVERDUE)


@ends("dead", "worker processes that died while it was there alone: 3", is_deadly=True)
def leaves_at_once(job: Job) -> None:
    """Without a word."""
    os._exit(3)


@ends("dead", "worker processes that died while it was there alone: 3", modes=(PLAIN,), is_deadly=True)
def crashes(job: Job) -> None:
    """By a bug of some library."""
    ctypes.string_at(0)


@ends("dead", "worker processes that died while it was there alone: 3", modes=(PLAIN,), is_deadly=True)
def aborts(job: Job) -> None:
    """By a check of some library."""
    os.abort()


@ends("dead", "worker processes that died while it was there alone: 3", modes=(PLAIN,), is_deadly=True)
def closes_all_there_is(job: Job) -> None:
    """The sockets of its worker included."""
    os.closerange(3, 256)
