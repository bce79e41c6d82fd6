"""``zpipe status``."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from zpipeline.client import WebError
from zpipeline.console import add_url, complain, run_on_console
from zpipeline.look.client import Snapshot, Statistics
from zpipeline.look.tables import whole
from zpipeline.look.verdict import verdict_on

SUMMARY = "say whether zpipe-web accepts jobs and has workers, and how it does"

#: Exit statuses.
READY, NOT_READY, UNREACHABLE = 0, 1, 2

#: How wide it is where there is no terminal, in characters.
_WIDTH = 160


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.description = (
        "One look at a zpipe-web that runs. The exit status is 0 when it is ready: it accepts jobs, and a worker is "
        "ready; 1 when it serves and is not ready; 2 when it cannot be reached."
    )
    add_url(parser, Statistics)
    parser.add_argument("--json", action="store_true", help="one JSON object, with all that zpipe-web says")


def run(parser: ArgumentParser, arguments: Namespace) -> int:
    """Look, and say what there is: the exit status."""
    return run_on_console(parser, lambda: _look(parser, arguments.web, as_json=arguments.json))


def _look(parser: ArgumentParser, web: Statistics, *, as_json: bool) -> int:
    try:
        snapshot = web.snapshot()
    except WebError as error:
        complain(parser, error)
        if as_json:
            print(_object(web, "unreachable", [str(error)]))
        return UNREACHABLE
    verdict = verdict_on(snapshot)
    if as_json:
        print(_object(web, verdict.status, verdict.reasons, snapshot))
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        console.print(whole(web.url, snapshot, verdict, console.width))
    return READY if verdict.ready else NOT_READY


def _object(web: Statistics, status: str, reasons: Any, snapshot: Snapshot | None = None) -> str:
    return json.dumps(
        {
            "url": web.url,
            "status": status,
            "ready": status == "ready",
            "reasons": list(reasons),
            "stats": None if snapshot is None else snapshot.stats,
            "workers": None if snapshot is None else snapshot.workers,
        }
    )
