"""``zpipe demo``."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zpipeline.console import tidy_end
from zpipeline.demo.errors import DemoError
from zpipeline.demo.experiment import Plan, run_experiment
from zpipeline.demo.fault import Fault
from zpipeline.demo.table import make_table

SUMMARY = "run the whole pipeline under load, and see what becomes of its jobs when a worker is lost"

_DESCRIPTION = """\
Starts zpipe-web and some zpipe-worker processes on free ports of this machine, sends them requests, and half-way
does to one worker what --fault says. Then it counts, in files that the workers have written, which jobs ran. The exit
status is 1 if one that was accepted did not.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.description = _DESCRIPTION
    parser.add_argument(
        "-n",
        dest="requests",
        metavar="REQUESTS",
        type=_positive,
        default=20_000,
        help="how many requests [%(default)s]",
    )
    parser.add_argument(
        "-c",
        dest="connections",
        metavar="CONNECTIONS",
        type=_positive,
        default=100,
        help="over how many connections, kept alive, with one request at a time on each [%(default)s]",
    )
    parser.add_argument(
        "--workers", metavar="N", type=_positive, default=3, help="how many worker processes [%(default)s]"
    )
    parser.add_argument(
        "--fault",
        choices=[fault.value for fault in Fault],
        default=Fault.NONE.value,
        help="what happens to one worker half-way: stop is SIGTERM, kill SIGKILL, freeze SIGSTOP and, "
        "some seconds later, SIGCONT [%(default)s]",
    )


def run(parser: ArgumentParser, arguments: Namespace) -> int:
    """Run the experiment and show what came of it: the exit status."""
    plan = Plan(arguments.requests, arguments.connections, arguments.workers, Fault(arguments.fault))
    if plan.fault.ends_worker and plan.workers == 1:
        parser.error(f"--fault {plan.fault.value} takes at least 2 workers: one has to be left")
    console = Console()
    try:
        with tidy_end(), TemporaryDirectory(prefix="zpipe-demo-") as scratch, _progress_bar(console) as progress:
            bar = progress.add_task("", total=plan.requests)
            result = run_experiment(
                plan,
                Path(scratch),
                lambda phase, through: progress.update(bar, description=phase, completed=through),
            )
    except (DemoError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    console.print(make_table(result))
    return 1 if result.tally.lost else 0


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return number
