"""Measure all of it, and write what docs/performance.rst includes.

    python -m benchmarks [--scale 1.0] [--into docs/performance]

It takes some five minutes, on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import batches, flood, growth, latency, page, rates, watched

MEASURES: dict[str, Callable[[float, Callable[[str], None]], Any]] = {
    "rates": rates.measure,
    "batches": batches.measure,
    "flood": flood.measure,
    "latency": latency.measure,
    "workers": growth.measure_workers,
    "waiting": growth.measure_waiting,
    "bodies": growth.measure_bodies,
    "watched": watched.measure,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each load (default: %(default)s)")
    parser.add_argument("--into", type=Path, default=Path("docs/performance"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    began = time.monotonic()
    found = {}
    count, what = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}")
    with Progress(BarColumn(), count, TimeElapsedColumn(), what) as progress:
        task = progress.add_task("", total=len(MEASURES))
        for name, measure in MEASURES.items():
            found[name] = measure(arguments.scale, lambda said: progress.update(task, description=said))
            progress.advance(task)
    page.write(found, arguments.into, arguments.scale)
    print(f"written to {arguments.into}, {time.monotonic() - began:.0f} seconds after the start")


if __name__ == "__main__":
    main()
