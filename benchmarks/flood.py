"""Pipeline.push_many from memory, settled end to end: by three workers, and what one worker can do at most.

The pipeline is in a process of its own, as in an application that embeds it; bodies are of 100 bytes, pushed 1,000 at a
time, with at most 50,000 unsettled.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.rig import CHECK, TREE, Rig, free_ports, processor_time, rounds

#: The process with the pipeline. It is not run as a module, which would be one of the tree that is measured.
PUSHER = CHECK + Path(__file__).with_name("pusher.py").read_text()


def measure(scale: float, said: Callable[[str], None]) -> dict[str, float]:
    """Jobs a second by three workers, by one, and by three with a fixed window of 1,000; and microseconds of the one
    worker's processor time for each.
    """
    jobs = jobs_of(scale)
    found: dict[str, list[float]] = {"three": [], "one": [], "fixed": [], "cost": []}
    for turn in range(times := rounds(scale)):
        for name, workers, window in (("three", 3, None), ("one", 1, None), ("fixed", 3, 1000)):
            said(f"push_many, round {turn + 1} of {times}: {name} of the workers")
            rate, cost = push(TREE, jobs, workers, window)
            found[name].append(rate)
            if workers == 1:
                found["cost"].append(cost)
    return {name: statistics.median(each) for name, each in found.items()}


def jobs_of(scale: float) -> int:
    """How many are pushed."""
    return max(10_000, round(400_000 * scale))


def push(tree: Path, jobs: int, workers: int, window: int | None = None) -> tuple[float, float]:
    """Jobs a second by so many workers, and microseconds of the first one's processor time for each.

    :param tree: whose code runs.
    """
    with Rig(tree) as rig:
        rig.worker_ports = free_ports(workers)
        rig.start_workers()
        command = [sys.executable, "-c", PUSHER, *(str(word) for word in (jobs, window, *rig.worker_ports))]
        answer = subprocess.run(command, cwd=rig.folder, env=rig.environment, capture_output=True, text=True)
        if answer.returncode:
            raise SystemExit(answer.stderr)
        # what it took to start is in the cost: a worker's start costs as much as some 100,000 jobs
        return jobs / json.loads(answer.stdout), processor_time(rig.workers[0]) / jobs * 1e6


if __name__ == "__main__":
    print(measure(1.0, print))
