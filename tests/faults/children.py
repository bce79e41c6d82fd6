"""Handlers that make children, or hold up their worker: what the body says is done. $CHILDREN is where they write."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

from twisted.internet import reactor, task

_folder = Path(os.environ["CHILDREN"])


def tell(name, text):
    """Write what a test waits for, as a whole."""
    unfinished = _folder / f"{name}.part"
    unfinished.write_text(str(text))
    unfinished.rename(_folder / name)


def stay():
    """Go on for longer than any test."""
    while True:
        time.sleep(60)


def sleeper(**options):
    """A process that outlives the handler."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **options)
    tell("child", child.pid)


def open_files():
    """What a child of a careless Popen has for descriptors, as the system shows them."""
    command = ["ls", "-l", "/proc/self/fd"]
    return subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True).stdout.splitlines()


def orphan():
    """A process that soon ends, and whose parent has ended before: its number."""
    shell = ["sh", "-c", "sleep 0.5 >/dev/null & echo $!"]
    return int(subprocess.run(shell, capture_output=True, check=True).stdout)


def states():
    """What the processes do that are there, by number: the letters of proc(5)."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    return {stat.split()[0]: stat.rpartition(")")[2].split()[0] for stat in stats}


def fork(come_back):
    """A child that comes back out of the handler in that way; the exit status is the result."""
    child = os.fork()
    if child == 0:
        return come_back()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fail():
    raise ValueError("in the child")


def forked_to_stay():
    """A child that says who it is, and stays."""
    if os.fork() == 0:
        tell("child", os.getpid())
        stay()


def forked_without_descriptors():
    """As that one, and there was no descriptor to be had."""
    opened = []
    with suppress(OSError):
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    child = os.fork()
    for descriptor in opened:
        os.close(descriptor)
    if child == 0:
        tell("child", os.getpid())
        stay()


def in_a_process(kind):
    """What a process of multiprocessing returns, and how one ends that is terminated at once."""
    with get_context(kind).Pool(2) as pool:
        squares = pool.map(abs, [-1, -2, -3])
    process = get_context(kind).Process(target=stay)
    process.start()
    process.terminate()
    process.join()
    return [squares, process.exitcode]


def in_a_pool(kind):
    with ProcessPoolExecutor(2, mp_context=get_context(kind)) as pool:
        return list(pool.map(abs, [-1, -2, -3]))


def blocks():
    tell("child", os.getpid())
    stay()


def two_seconds():
    tell("child", os.getpid())
    time.sleep(2)


def c_holds():
    """Once it is asked to leave, nothing of Python runs any more."""
    tell("child", os.getpid())
    while not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
        time.sleep(0.05)
    time.sleep(0.2)
    ctypes.PyDLL(None).sleep(600)


def c_blocks():
    """As some driver of a database may: no handler of signals runs in a thread that waits for a lock of C."""
    tell("child", os.getpid())
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


WAYS = {
    "sys.exit": lambda: fork(lambda: sys.exit(3)),
    "sys.exit text": lambda: fork(lambda: sys.exit("a last word")),
    "return": lambda: fork(lambda: None),
    "raise": lambda: fork(fail),
    "sleeper": sleeper,
    "sleeper outside": lambda: sleeper(start_new_session=True),
    "sleeper in silence": lambda: sleeper(
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ),
    "open files": open_files,
    "orphan": orphan,
    "states": states,
    "stay": forked_to_stay,
    "stay without descriptors": forked_without_descriptors,
    "process fork": lambda: in_a_process("fork"),
    "process spawn": lambda: in_a_process("spawn"),
    "pool fork": lambda: in_a_pool("fork"),
    "pool spawn": lambda: in_a_pool("spawn"),
    "block": blocks,
    "block in C": c_blocks,
    "hold": c_holds,
    "two seconds": two_seconds,
    "die": lambda: os._exit(3),
    "pid": os.getpid,
}


def handle(job):
    """What the body says."""
    return WAYS[job.body.decode()]()


async def handle_async(job):
    """Forks and waits, or forks and comes back; or waits for ever."""
    body = job.body.decode()
    if body == "block":
        tell("child", os.getpid())
        await task.deferLater(reactor, 600)
    if body != "wait":
        return handle(job)
    child = os.fork()
    await task.deferLater(reactor, 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def handle_later(job):
    """As `handle`, called by the reactor."""
    await task.deferLater(reactor, 0)
    return handle(job)


def handle_in_thread_left(job):
    """A thread that nobody ends, and a worker that waits for it."""
    threading.Thread(target=stay).start()
    tell("child", os.getpid())
