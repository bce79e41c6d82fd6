"""The ``zpipe`` command: what helps around a pipeline, a subcommand for each.

A subcommand is a module with a `SUMMARY` (one line), `add_arguments` (to its parser) and `run`, which is given its
parser and the arguments, and returns the exit status. The pipeline itself is run by twistd.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

from zpipeline._version import __version__
from zpipeline.care import command as journal
from zpipeline.dead import command as dead
from zpipeline.demo import command as demo
from zpipeline.look import status, top

_DESCRIPTION = "What helps around a pipeline. The pipeline itself is run by twistd ('twistd zpipe --help')."

_COMMANDS = {"demo": demo, "status": status, "top": top, "dead": dead, "journal": journal}


class _Parser(ArgumentParser):
    """Whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, or `arguments`: the exit status.

    :raises SystemExit: after --help or --version, or with status 2 if the arguments make no sense.
    """
    parser = _Parser(prog="zpipe", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"zpipe {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.SUMMARY)
        command.add_arguments(subparser)
        subparser.set_defaults(parser=subparser, run=command.run)
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed.parser, parsed)
    return status
