"""What it costs to be watched: requests a second, and the processor time of the web side for each, with nobody looking
and with the page open ten times and metrics scraped each second; and the processor time of being watched by itself.

A page that is open is a reader of GET /events that the web side writes to each second, and that is all it is here: ten
browsers would draw ten charts on the cores that the web side needs, and one would measure them. Processor time is the
steadier figure: it does not know who else is on the machine.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from shutil import which
from threading import Event, Thread

from benchmarks.rates import LOADS, run
from benchmarks.rig import Rig, processor_time

READERS = 10
ROUNDS = 15


def measure(scale: float, said: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """With nobody looking ("alone"), with all of them ("watched"), and the one divided by the other ("ratio").

    Each has requests a second ("rate") and microseconds of the web side's processor time for each ("cost"): medians of
    rounds, in each of which both take their turn; of the ratio too, so that what goes on beside it and lasts for
    longer than a round does not count. "idle" is the part of one processor that the web side takes when nothing is
    pushed. Nothing is measured if there is neither ab nor wrk.
    """
    loads = [name for name in LOADS if which(name)]
    if not loads:
        return {}
    rounds = []
    with Rig() as rig:
        rig.start()
        for turn in range(max(1, round(ROUNDS * scale)) + 1):
            said(f"watched, round {turn} of {ROUNDS}")
            one = {}
            for name in ("alone", "watched") if turn % 2 else ("watched", "alone"):
                with watchers(rig.port) if name == "watched" else nullcontext():
                    one[name] = _one(loads[-1], rig, scale / 2)
            one["ratio"] = {figure: one["watched"][figure] / one["alone"][figure] for figure in one["alone"]}
            if turn:  # what is done for the first time takes longer
                rounds.append(one)
        idle = {"alone": _idle(rig, scale)}
        with watchers(rig.port):
            idle["watched"] = _idle(rig, scale)
    found = {
        name: {figure: statistics.median(one[name][figure] for one in rounds) for figure in ("rate", "cost")}
        for name in ("alone", "watched", "ratio")
    }
    return {**found, "idle": idle}


def _one(load: str, rig: Rig, scale: float) -> dict[str, float]:
    accepted, spent = rig.ask("GET", "/stats")["accepted"], processor_time(rig.web)
    rate = run(load, rig.port, scale)
    seconds, jobs = processor_time(rig.web) - spent, rig.ask("GET", "/stats")["accepted"] - accepted
    return {"rate": rate, "cost": seconds / jobs * 1e6}


def _idle(rig: Rig, scale: float) -> float:
    began, spent = time.monotonic(), processor_time(rig.web)
    time.sleep(max(2.0, 20 * scale))
    return (processor_time(rig.web) - spent) / (time.monotonic() - began)


@contextmanager
def watchers(port: int) -> Iterator[None]:
    """The readers and the scraper: from when each of them has had something, until this ends."""
    loop = asyncio.new_event_loop()
    begun = Event()
    task = loop.create_task(_watch(port, begun))

    def follow() -> None:
        with suppress(asyncio.CancelledError, OSError):
            loop.run_until_complete(task)

    thread = Thread(target=follow)
    thread.start()
    try:
        begun.wait(30)
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
    if not task.cancelled():
        task.result()  # it has failed: why


async def _watch(port: int, begun: Event) -> None:
    first = [asyncio.Event() for _ in range(READERS + 1)]
    together = asyncio.gather(_scrape(port, first[0]), *(_read(port, event) for event in first[1:]))
    await asyncio.wait(
        [together, asyncio.gather(*(event.wait() for event in first))], return_when=asyncio.FIRST_COMPLETED
    )
    begun.set()
    await together


async def _read(port: int, first: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while await reader.read(1 << 16):
            first.set()
        raise ConnectionError("the web side has ended its events")
    finally:
        writer.close()


async def _scrape(port: int, first: asyncio.Event) -> None:
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        metrics = await reader.read()
        writer.close()
        if b"zpipeline_jobs_accepted_total" not in metrics:
            raise ConnectionError(f"no metrics: {metrics[:200]!r}")
        first.set()
        await asyncio.sleep(1)


if __name__ == "__main__":
    print(measure(1.0, print))
