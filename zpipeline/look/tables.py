"""A snapshot as tables for a terminal.

Names of workers, hosts and handlers were sent by others: nothing of them reaches the terminal that it would not show as
a character, and nothing of them is taken for markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zpipeline.look.client import Snapshot
from zpipeline.look.figures import count, duration, latency, rate, share, short_count
from zpipeline.look.verdict import Verdict
from zpipeline.stats import differing
from zpipeline.text import printable

#: From so many characters on there is room for how long jobs wait, and for who a worker is.
_WITH_START = 100
_WITH_PROCESS = 150

_STATES = {"ready": "green", "connecting": "yellow", "leaving": "yellow"}


def whole(
    url: str, snapshot: Snapshot, verdict: Verdict, width: int, height: int | None = None, trouble: Sequence[str] = ()
) -> RenderableType:
    """All of it.

    :param width: of the terminal, in characters.
    :param height: of the terminal, in lines: workers that have no room are counted; None: there is room for all.
    :param trouble: why this is not how it is now, some lines; it takes the place of the verdict.
    """
    above: list[RenderableType] = [
        *_head(url, snapshot, verdict, trouble),
        Text(),
        _totals(snapshot.stats),
        Text(),
        _latencies(snapshot.stats),
    ]
    lines = len(above) - 2 + 4 + 4  # of the two tables
    room = None if height is None else max(height - lines - 2, 2)
    return Group(*above, Text(), *_workers(snapshot, width, room))


def unknown(url: str, trouble: str) -> RenderableType:
    """What there is to show before the first snapshot."""
    return Group(_line(Text("no answer yet", "bold yellow"), url), _line(Text(printable(trouble), "yellow")))


def _head(url: str, snapshot: Snapshot, verdict: Verdict, trouble: Sequence[str]) -> Iterator[Text]:
    stats = snapshot.stats
    about = f"zpipeline {stats['version']} on {stats['host']}, process {stats['pid']}, up {duration(stats['uptime'])}"
    if trouble:
        yield _line(Text("no answer", "bold yellow"), url, about)
        for line in trouble:
            yield _line(Text(printable(line), "yellow"))
        return
    yield _line(Text(verdict.status, "bold green" if verdict.ready else "bold red"), url, about)
    for reason in verdict.reasons:
        yield _line(Text(printable(reason), "red"))
    ready = ((worker["address"], worker["handler"]) for worker in snapshot.workers if worker["state"] == "ready")
    if (difference := differing(ready)) is not None:
        yield _line(Text(printable(f"handlers differ: {difference}"), "yellow"))
    refused = ", ".join(f"{count(number)} {reason}" for reason, number in stats["refused"].items() if number)
    if refused:
        yield _line(Text(printable(f"refused so far: {refused}"), "yellow"))


def _totals(stats: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "left", "left", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    accepted, settled = (f"{rate(stats['rates'][name])}/s" for name in ("accepted", "settled"))
    oldest, lost = duration(stats["oldest_waiting"]), count(stats["redeliveries"]["lost"])

    def number(name: str) -> str:
        return count(stats[name])

    rows = (
        ("accepted", number("accepted"), accepted, "waiting", number("waiting"), "failed attempts", number("failed")),
        ("done", number("done"), settled, "oldest wait", oldest, "redelivered", number("redelivered")),
        ("dead", number("dead"), "", "in flight", number("in_flight"), "of lost workers", lost),
        ("", "", "", "dead letters", number("dead_letters"), "ready workers", number("ready_workers")),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _latencies(stats: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("in the last 10 s", min_width=22)
    for name in ("p50", "p90", "p99"):
        table.add_column(name, justify="right", min_width=8)
    for label, name in (("accepted to start", "start"), ("run", "run"), ("accepted to settled", "settle")):
        table.add_row(label, *(latency(stats["latency"][name][percentile]) for percentile in ("p50", "p90", "p99")))
    return table


def _workers(snapshot: Snapshot, width: int, room: int | None) -> Iterator[RenderableType]:
    workers = snapshot.workers
    absent = [worker for worker in workers if worker["state"] not in ("ready", "leaving")]
    if room is not None and len(workers) + len(absent) > room:
        absent = absent[: max(room - len(workers), min(len(absent), 2))]
        shown = workers[: max(room - len(absent) - 1, 1)]
    else:
        shown = workers
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("worker", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("state", no_wrap=True)
    for name in ("share", "jobs/s", "in flight", "done", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    times = [("run", "p50"), ("run", "p99")]
    if width >= _WITH_START:
        times = [("start", "p50"), ("start", "p99"), *times]
    for name, percentile in times:
        table.add_column(f"{name} {percentile}", justify="right", no_wrap=True)
    if width >= _WITH_PROCESS:
        table.add_column("handler", no_wrap=True, overflow="ellipsis")
        table.add_column("process", no_wrap=True, overflow="ellipsis")
    for worker in shown:
        table.add_row(*_row(worker, times, width))
    yield table
    if left := workers[len(shown) :]:
        states = [worker["state"] for worker in left]
        by_state = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        yield _line(Text(printable(f"and {len(left)} more: {by_state}"), "dim"))
    for worker in absent:
        since = duration(snapshot.stats["time"] - worker["since"])
        why = f": {worker['why']}" if worker["why"] else ""
        yield _line(Text(printable(f"{_name(worker)} {worker['state']} for {since}{why}"), "yellow"))


def _row(worker: Mapping[str, Any], times: Iterable[tuple[str, str]], width: int) -> Iterator[Text]:
    yield Text(printable(_name(worker)))
    yield Text(printable(worker["state"]), _STATES.get(worker["state"], "bold red"))
    yield Text(share(worker["share"]))
    yield Text(rate(worker["rate"]))
    yield Text(f"{short_count(worker['in_flight'])}/{short_count(worker['window'])}")
    yield Text(short_count(worker["done"]))
    yield Text(short_count(worker["failed"]))
    for name, percentile in times:
        yield Text(latency(worker["latency"][name][percentile]))
    if width >= _WITH_PROCESS:
        yield Text("-" if worker["handler"] is None else printable(worker["handler"]))
        yield Text("-" if worker["host"] is None else printable(f"{worker['host']}, {worker['pid']}"))


def _name(worker: Mapping[str, Any]) -> str:
    return str(worker["address"]).removeprefix("tcp://")


def _line(first: Text, *more: str) -> Text:
    """One line of the terminal, whatever is in it."""
    text = Text("  ", no_wrap=True, overflow="ellipsis").join([first, *(Text(printable(each)) for each in more)])
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
