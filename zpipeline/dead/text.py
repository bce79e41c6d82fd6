"""Dead letters as lines for a terminal.

What is in them was sent by strangers: nothing of it reaches the terminal that it would not show as a character.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size

from zpipeline.text import printable

#: What a handler's name has at the most, and an error at the least, where a line has to be short.
_HANDLER = 30
_ERROR = 24


def table(pages: Iterable[list[dict[str, Any]]], width: int | None) -> Iterator[str]:
    """The lines of a table; none where there are no dead letters.

    Columns are aligned by the first page, so that the first lines need not wait for the last page.

    :param pages: of summaries, as zpipe-web has them.
    :param width: of the terminal, in characters, for which handlers and errors are shortened; None: they are not.
    """
    handlers = 0
    for page in pages:
        if not handlers:
            handlers = max(len("handler"), *(cell_len(printable(row["handler"])) for row in page))
            if width is not None:
                handlers = min(handlers, _HANDLER)
            head = f"{'id':32}  {'died':19}  attempts  strikes  {'handler':{handlers}}  "
            errors = None if width is None else max(width - len(head), _ERROR)
            yield head + "error"
        for row in page:
            died = datetime.fromtimestamp(row["settled_at"]).isoformat(" ", "seconds")
            handler = printable(row["handler"])
            if width is not None:
                handler = _shorten(handler, handlers)
            handler += " " * (handlers - cell_len(handler))
            error = printable(row["error"])
            if errors is not None:
                error = _shorten(error, errors)
            yield f"{row['id']:32}  {died}  {row['attempts']:8}  {row['strikes']:7}  {handler}  {error}".rstrip()


def description(letter: Mapping[str, Any]) -> Iterator[str]:
    """The lines that say all of one dead letter.

    :param letter: as `zpipeline.dead.client.Web.letter` has it.
    """
    yield f"id         {letter['id']}"
    yield f"error      {printable(letter['error'])}"
    yield f"handler    {printable(letter['handler'])}"
    yield f"attempts   {letter['attempts']}"
    yield f"strikes    {letter['strikes']}"
    yield f"accepted   {_moment(letter['accepted_at'])}"
    yield f"died       {_moment(letter['settled_at'])}"
    yield "headers"
    for name, value in letter["headers"].items():
        yield f"    {printable(name)}: {printable(value)}"
    yield "traceback"
    yield from _indented(letter["traceback"])
    yield f"body, {letter['size']} bytes"
    yield from _indented(letter["body"].decode("utf-8", "backslashreplace"))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "milliseconds")


def _indented(text: str) -> Iterator[str]:
    for line in text.removesuffix("\n").split("\n") if text else ():
        yield f"    {printable(line)}".rstrip()


def _shorten(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
