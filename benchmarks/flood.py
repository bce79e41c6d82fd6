"""How many do-nothing jobs a second one pipeline gets settled by three workers: windows that size themselves against a
fixed one, in turn.

    python benchmarks/flood.py [--jobs 300000] [--rounds 5] [--window 1000]

The pipeline runs in this process, the workers in processes of their own. What counts is the time from the first push
to the last settlement; bodies are of 100 bytes, pushed 1,000 at a time, with at most 50,000 unsettled.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from twisted.internet import defer, reactor, task

from zpipeline.pipeline import Pipeline

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]
FIRST_PORT = 4744


def start_workers(count: int) -> list[subprocess.Popen[bytes]]:
    """Worker processes that do nothing with their jobs, and end with this process."""
    command = [*TWISTD, "zpipe-worker", "--until-eof", "--handler=zpipeline.handlers:discard"]
    return [
        subprocess.Popen([*command, f"--port={FIRST_PORT + n}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for n in range(count)
    ]


async def flood(jobs: int, window: int | None) -> float:
    """Jobs settled a second."""
    workers = [f"tcp://127.0.0.1:{FIRST_PORT + n}" for n in range(3)]
    pipeline = Pipeline(reactor, workers, journal=None, window=window)
    pipeline.startService()
    while pipeline.ready_workers < 3:
        await task.deferLater(reactor, 0.05)
    bodies = [b"x" * 100] * 1000
    began = time.monotonic()
    cpu = time.process_time()
    for _ in range(jobs // 1000):
        await pipeline.push_many(bodies)
        while pipeline.pending > 50_000:
            await task.deferLater(reactor, 0)
    while pipeline.pending:
        await task.deferLater(reactor, 0)
    took = time.monotonic() - began
    cpu = time.process_time() - cpu
    await pipeline.stopService()
    each = cpu / jobs * 1e6
    print(f"  window {window or 'itself':>6}: {jobs / took:9,.0f} jobs/s, {each:.2f} us of this process a job")
    return jobs / took


async def main(arguments: argparse.Namespace) -> None:
    """Round after round, and the ratio of the medians."""
    rates: dict[int | None, list[float]] = {None: [], arguments.window: []}
    for _ in range(arguments.rounds):
        for window, measured in rates.items():
            measured.append(await flood(arguments.jobs, window))
    own, fixed = (statistics.median(measured) for measured in rates.values())
    print(f"medians: sizing itself {own:,.0f}, fixed at {arguments.window} {fixed:,.0f}: ratio {own / fixed:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=int, default=1000)
    options = parser.parse_args()
    processes = start_workers(3)
    try:
        task.react(lambda _: defer.Deferred.fromCoroutine(main(options)))
    finally:
        for process in processes:
            process.terminate()
            process.wait()
