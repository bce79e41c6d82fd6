"""Pipeline.push_many from memory, settled end to end: by three workers, and what one worker can do at most.

The pipeline is in a process of its own, as in an application that embeds it; bodies are of 100 bytes, pushed 1,000 at a
time, with at most 50,000 unsettled.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.rig import Rig, free_ports, processor_time, rounds


def measure(scale: float, said: Callable[[str], None]) -> dict[str, float]:
    """Jobs a second by three workers, by one, and by three with a fixed window of 1,000; and microseconds of the one
    worker's processor time for each.
    """
    jobs = max(10_000, round(400_000 * scale))
    found: dict[str, list[float]] = {"three": [], "one": [], "fixed": [], "cost": []}
    for turn in range(times := rounds(scale)):
        for name, workers, window in (("three", 3, None), ("one", 1, None), ("fixed", 3, 1000)):
            said(f"push_many, round {turn + 1} of {times}: {name} of the workers")
            with Rig() as rig:
                rig.worker_ports = free_ports(workers)
                rig.start_workers()
                words = [str(word) for word in (jobs, window, *rig.worker_ports)]
                command = [sys.executable, "-m", "benchmarks.flood", *words]
                answer = subprocess.run(command, capture_output=True, text=True)
                if answer.returncode:
                    raise SystemExit(answer.stderr)
                found[name].append(jobs / json.loads(answer.stdout))
                if workers == 1:
                    # what it took to start is in it: a worker's start costs as much as some 100,000 jobs
                    found["cost"].append(processor_time(rig.workers[0]) / jobs * 1e6)
    return {name: statistics.median(each) for name, each in found.items()}


async def push(jobs: int, window: int | None, ports: list[str]) -> float:
    """How many seconds it takes until all are settled."""
    from twisted.internet import reactor, task

    from zpipeline.pipeline import Pipeline

    pipeline = Pipeline(reactor, [f"tcp://127.0.0.1:{port}" for port in ports], journal=None, window=window)
    pipeline.startService()
    while pipeline.ready_workers < len(ports):
        await task.deferLater(reactor, 0.05)
    bodies = [b"x" * 100] * 1000
    began = time.monotonic()
    for _ in range(jobs // 1000):
        await pipeline.push_many(bodies)
        while pipeline.pending > 50_000:
            await task.deferLater(reactor, 0)
    while pipeline.pending:
        await task.deferLater(reactor, 0)
    took = time.monotonic() - began
    await pipeline.stopService()
    return took


def main(jobs: int, window: int | None, ports: list[str]) -> None:
    """The process with the pipeline."""
    from twisted.internet import defer, task

    # as zpipe-web does
    gc.freeze()
    gc.set_threshold(10_000)
    task.react(lambda _: defer.Deferred.fromCoroutine(push(jobs, window, ports)).addCallback(print))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(int(sys.argv[1]), None if sys.argv[2] == "None" else int(sys.argv[2]), sys.argv[3:])
    else:
        print(measure(1.0, print))
