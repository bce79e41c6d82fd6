"""``zpipe top``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from time import monotonic

from rich.console import Console, RenderableType
from rich.live import Live

from zpipeline.console import add_url, tidy_end
from zpipeline.look.client import Statistics
from zpipeline.look.feed import Feed, State
from zpipeline.look.figures import duration
from zpipeline.look.keys import keys
from zpipeline.look.tables import unknown, whole
from zpipeline.look.verdict import verdict_on

SUMMARY = "show live what zpipe-web and its workers do"

#: Seconds between two looks at what has come.
_LOOK = 0.1


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.description = "What zpipe-web and its workers do, live: each second. Ctrl-C or q ends it."
    add_url(parser, Statistics)


def run(parser: ArgumentParser, arguments: Namespace) -> int:
    """Show it until it is ended: the exit status."""
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        parser.error("stdout is no terminal that can show this: use 'zpipe status', or 'zpipe status --json'")
    web: Statistics = arguments.web
    feed = Feed(web)
    try:
        with tidy_end(), Live(console=console, screen=True, auto_refresh=False) as live, keys() as keyboard:
            feed.start()
            shown = None
            while not keyboard.quits(_LOOK):
                state = feed.state
                age = int(monotonic() - state.at) if state.trouble else 0
                showing = (state, age, console.size)
                if showing != shown:
                    shown = showing
                    live.update(_screen(web.url, state, age, console), refresh=True)
    except KeyboardInterrupt:
        pass
    finally:
        feed.stop()
    return 0


def _screen(url: str, state: State, age: int, console: Console) -> RenderableType:
    width, height = console.size
    if state.snapshot is None:
        return unknown(url, state.trouble or "")
    trouble: tuple[str, ...] = ()
    if state.trouble is not None:
        trouble = (state.trouble, f"asked again each second; what is shown is {duration(age)} old")
    return whole(url, state.snapshot, verdict_on(state.snapshot), width, height, trouble)
