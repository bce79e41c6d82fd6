"""``zpipe journal backup``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from zpipeline.care.copying import copy
from zpipeline.care.snapshot import CareError
from zpipeline.console import complain, run_on_console, tidy_end

SUMMARY = "copy a journal to another file, also while zpipe-web writes it"

_DESCRIPTION = """\
Copies a journal as it stands at this moment. It may be in use meanwhile: zpipe-web goes on, and every job that was
accepted before the copy began is in it. The copy is checked, is on the disk before it gets its name, and is readable
by its owner only. Nothing that exists is overwritten.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.description = _DESCRIPTION
    parser.add_argument("copy", metavar="COPY", help="the file to make")
    parser.add_argument(
        "--journal", metavar="FILE", default="zpipe-web.sqlite", help="the journal to copy [%(default)s]"
    )


def run(parser: ArgumentParser, arguments: Namespace) -> int:
    """Make the copy and say what is in it: the exit status."""
    return run_on_console(parser, lambda: _back_up(parser, arguments))


def _back_up(parser: ArgumentParser, arguments: Namespace) -> int:
    try:
        with tidy_end(), _progress_bar() as progress:
            bar = progress.add_task("", total=None)

            def told(phase: str, copied: int, size: int) -> None:
                begins = progress.tasks[bar].description != phase  # each is seen, however short it is
                progress.update(bar, description=phase, completed=copied, total=size, refresh=begins)

            made = copy(arguments.journal, arguments.copy, told)
    except CareError as error:
        complain(parser, error)
        return 1
    print(
        f"{arguments.copy}: {made.size:,} bytes, {made.pending:,} jobs unsettled, {made.dead:,} dead letters, "
        f"copied in {made.seconds:.1f} seconds"
    )
    return 0


def _progress_bar() -> Progress:
    """On stderr, if that is a terminal; it leaves nothing there."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
