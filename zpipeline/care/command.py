"""``zpipe journal``: a subcommand for each thing that can be done to a journal file.

A subcommand is a module as in `zpipeline.cli`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from zpipeline.care import backup

SUMMARY = "take care of a journal, the file in which zpipe-web keeps its jobs"

_COMMANDS = {"backup": backup}


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.description = "The care of a journal, the file in which zpipe-web keeps its jobs."
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        subparser = commands.add_parser(name, help=command.SUMMARY)
        command.add_arguments(subparser)
        subparser.set_defaults(parser=subparser, act=command.run)


def run(parser: ArgumentParser, arguments: Namespace) -> int:
    """Do what is asked for: the exit status."""
    status: int = arguments.act(parser, arguments)
    return status
