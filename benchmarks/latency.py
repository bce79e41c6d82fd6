"""The time from a request to the start of its handler, at 1,000 requests a second: they are sent when they are due,
however long the answers to others take. Beside it what the disk takes to sync, in the same folder.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.client import Connection, post
from benchmarks.rig import MODES, Rig, rounds

RATE = 1000
CONNECTIONS = 50
RECORD = struct.Struct("!d")


#: It writes down how old its job is.
HANDLER = """
import struct, time

ages = open({path!r}, "ab", buffering=0)

def record(job):
    ages.write(struct.pack("!d", time.time() - struct.unpack("!d", job.body)[0]))
"""


async def _load(port: int, seconds: float) -> None:
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await Connection.to(port))

    async def one(connection: Connection) -> None:
        await connection.send(post("/", RECORD.pack(time.time())))
        free.put_nowait(connection)

    under_way = set()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for number in range(round(RATE * seconds)):
        await asyncio.sleep(max(0.0, begin + number / RATE - loop.time()))
        task = asyncio.create_task(one(await free.get()))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


def measure(scale: float, said: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """By mode, and of the disk: milliseconds, half and 99 of 100 are below which. Medians of three rounds."""
    found: list[dict[str, dict[str, float]]] = []
    for turn in range(times := rounds(scale)):
        said(f"latency, round {turn + 1} of {times}")
        found.append(_round(max(1.0, 10 * scale)))
    return {
        name: {share: statistics.median(each[name][share] for each in found) for share in of}
        for name, of in found[0].items()
    }


def _round(seconds: float) -> dict[str, dict[str, float]]:
    found = {}
    for mode, options in MODES.items():
        with Rig() as rig:
            found[mode] = until_handled(rig, options, seconds)
            if mode == "durable":
                found["fdatasync"] = _percentiles(_syncs(rig.folder / "sync", round(50 * seconds)))
    return found


def until_handled(rig: Rig, options: Iterable[str], seconds: float) -> dict[str, float]:
    """Start a web side with these options, and send requests for so long: milliseconds, as `measure` has them."""
    ages = rig.folder / "ages"
    (rig.folder / "recording.py").write_text(HANDLER.format(path=str(ages)))
    rig.start(*options, handler="recording:record")
    asyncio.run(_load(rig.port, seconds))
    jobs = round(RATE * seconds)
    while not ages.exists() or ages.stat().st_size < jobs * RECORD.size:
        time.sleep(0.01)
    return _percentiles([age for (age,) in RECORD.iter_unpack(ages.read_bytes())])


def _syncs(path: Path, times: int) -> list[float]:
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return took


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"p50": ordered[len(ordered) // 2] * 1000, "p99": ordered[len(ordered) * 99 // 100] * 1000}


if __name__ == "__main__":
    print(measure(1.0, print))
