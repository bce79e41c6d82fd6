"""What the subcommands of ``zpipe`` have in common on a terminal."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn

from zpipeline.client import DEFAULT_URL, Web, WebError
from zpipeline.errors import UsageError, ZpipelineError
from zpipeline.text import printable


def add_url(parser: ArgumentParser, web: Callable[[str], Web]) -> None:
    """``--url``: the attribute ``web`` of the arguments is what is made of it."""

    def make(url: str) -> Web:
        try:
            return web(url)
        except UsageError as error:
            raise ArgumentTypeError(str(error)) from None

    parser.add_argument(
        "--url", dest="web", metavar="URL", type=make, default=DEFAULT_URL, help="where zpipe-web serves [%(default)s]"
    )


def run_on_console(parser: ArgumentParser, act: Callable[[], int]) -> int:
    """Do something that writes to stdout: its exit status, or that of what came between."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    try:
        status = act()
        sys.stdout.flush()
    except WebError as error:
        complain(parser, error)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever reads this has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it ends
        return 128 + signal.SIGPIPE
    return status


def complain(parser: ArgumentParser, error: ZpipelineError) -> None:
    """Say on stderr what is wrong."""
    print(f"{parser.prog}: {printable(str(error))}", file=sys.stderr)


@contextmanager
def tidy_end() -> Iterator[None]:
    """Have what usually ends a process at once unwind it, as Ctrl-C does."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)
