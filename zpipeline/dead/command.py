"""``zpipe dead``."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from shutil import get_terminal_size

from zpipeline.console import add_url, complain, run_on_console
from zpipeline.dead.client import DeadLetters, NoLetter
from zpipeline.dead.text import description, table

SUMMARY = "list, show, retry and drop dead letters: jobs that zpipe-web has given up"


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.description = "The dead letters of a zpipe-web that runs: jobs that will not be tried again by themselves."
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, act: Callable[[ArgumentParser, Namespace], int]) -> ArgumentParser:
        subparser: ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        add_url(subparser, DeadLetters)
        subparser.set_defaults(parser=subparser, act=act)
        return subparser

    listing = command("list", "list dead letters, in the order in which they were accepted", _list)
    listing.add_argument("--limit", metavar="N", type=_positive, help="the first N only")
    listing.add_argument("--json", action="store_true", help="a JSON object a line, with nothing shortened")

    showing = command("show", "show all of one dead letter", _show)
    showing.add_argument("id", metavar="ID", help="as list has it")
    showing.add_argument("--body", action="store_true", help="write the job's body, byte for byte, and nothing else")

    retrying = command("retry", "make jobs of dead letters again: their attempts are counted anew", _retry)
    retrying.add_argument("ids", metavar="ID", nargs="*", help="as list has it")
    retrying.add_argument(
        "--all", action="store_true", help="all dead letters, or those that the two options below leave"
    )
    retrying.add_argument("--handler", metavar="NAME", type=_text, help="with --all: those of this handler")
    retrying.add_argument("--error", metavar="TEXT", type=_text, help="with --all: those with this text in their error")

    dropping = command("drop", "throw dead letters away", _drop)
    dropping.add_argument("ids", metavar="ID", nargs="+", help="as list has it")


def run(parser: ArgumentParser, arguments: Namespace) -> int:
    """Do what is asked for: the exit status."""
    return run_on_console(parser, lambda: arguments.act(parser, arguments))


def _list(parser: ArgumentParser, arguments: Namespace) -> int:
    pages = arguments.web.letters(arguments.limit)
    if arguments.json:
        for page in pages:
            for letter in page:
                print(json.dumps(letter))
        return 0
    found = False
    for line in table(pages, get_terminal_size().columns if sys.stdout.isatty() else None):
        print(line)
        found = True
    if not found:
        print("no dead letters")
    return 0


def _show(parser: ArgumentParser, arguments: Namespace) -> int:
    letter = arguments.web.letter(arguments.id)
    if arguments.body:
        sys.stdout.buffer.write(letter["body"])
    else:
        for line in description(letter):
            print(line)
    return 0


def _retry(parser: ArgumentParser, arguments: Namespace) -> int:
    if arguments.all == bool(arguments.ids):
        parser.error("give either ids or --all")
    if not arguments.all and (arguments.handler is not None or arguments.error is not None):
        parser.error("--handler and --error go with --all, not with ids")
    if arguments.all:
        print(f"{arguments.web.retry_all(arguments.handler, arguments.error)} retried")
        return 0
    return _for_each(parser, arguments.ids, arguments.web.retry, "retried")


def _drop(parser: ArgumentParser, arguments: Namespace) -> int:
    return _for_each(parser, arguments.ids, arguments.web.drop, "dropped")


def _for_each(parser: ArgumentParser, ids: list[str], act: Callable[[str], None], done: str) -> int:
    count = 0
    try:
        for job_id in ids:
            try:
                act(job_id)
                count += 1
            except NoLetter as error:
                complain(parser, error)
    finally:  # those that were done before something went wrong are
        if count:
            print(f"{count} {done}")
    return 0 if count == len(ids) else 1


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _text(text: str) -> str:
    if not text:
        raise ArgumentTypeError("is empty: leave it out to have all")
    return text
